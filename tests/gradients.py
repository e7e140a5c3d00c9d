"""What the tests of gradient operators share: torch's gradients of the same call, and numeric bounds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

U = 2.0**-24


def close(got: np.ndarray, exact: np.ndarray, scale: np.ndarray, terms: float, slack: float = 8.0) -> None:
    """Within (2 sqrt(terms) + slack) units of ``scale``, the sum of absolute products (2**-24 or 2**-53)."""
    unit = U if got.dtype == np.float32 else 2.0**-53
    error = np.abs(got.astype(np.float64) - exact)
    allowed = (2 * np.sqrt(terms) + slack) * unit * scale + 1e-300
    assert np.isfinite(got).all()
    assert (error <= allowed).all(), float((error / allowed).max())


def torch_gradients(call: Callable[..., Any], *arrays: np.ndarray, g: np.ndarray) -> list[np.ndarray]:
    """Gradients of sum(call(...) * g) by torch, in float64; pictures stay N,C,H,W."""
    import torch

    inputs = [torch.tensor(a, dtype=torch.float64, requires_grad=True) for a in arrays]
    call(*inputs).backward(torch.tensor(g, dtype=torch.float64))
    return [t.grad.numpy() for t in inputs]


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def nhwc(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 2, 3, 1))
