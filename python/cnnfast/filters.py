"""Classic 3x3 edge filters as float32 kernels, for cross-correlation (nothing is flipped).

``VERTICAL`` and ``HORIZONTAL`` are bright-to-dark detectors: positive where the left (upper) side is
brighter. The gradient filters follow the usual image convention and are positive where brightness
grows to the right (``*_X``) or downwards (``*_Y``).
"""

from __future__ import annotations

import numpy as np

__all__ = [
    "HORIZONTAL",
    "PREWITT_X",
    "PREWITT_Y",
    "SCHARR_X",
    "SCHARR_Y",
    "SOBEL_X",
    "SOBEL_Y",
    "VERTICAL",
]


def _kernel(smooth: tuple[int, int, int], derivative: tuple[int, int, int]) -> np.ndarray:
    """Smoothing down the rows, derivative along the columns."""
    kernel = np.outer(np.asarray(smooth, np.float32), np.asarray(derivative, np.float32))
    kernel.setflags(write=False)
    return kernel


VERTICAL = _kernel((1, 1, 1), (1, 0, -1))
HORIZONTAL = VERTICAL.T
SOBEL_X = _kernel((1, 2, 1), (-1, 0, 1))
SOBEL_Y = SOBEL_X.T
SCHARR_X = _kernel((3, 10, 3), (-1, 0, 1))
SCHARR_Y = SCHARR_X.T
PREWITT_X = _kernel((1, 1, 1), (-1, 0, 1))
PREWITT_Y = PREWITT_X.T
