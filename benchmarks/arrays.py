"""The numbers of a problem: reproducible operands, the float64 answer and the error measured against it."""

from __future__ import annotations

import math
import zlib
from typing import Any

import numpy as np

from .problems import OPERATORS, Problem, channels_out

__all__ = ["Operands", "error", "limit", "make"]

Operands = dict[str, Any]  # operand name -> array, or a list of arrays for "xs"

EPS = float(np.finfo(np.float32).eps)
IMAGE = 640.0  # side of the square in which boxes are drawn, in pixels


def make(problem: Problem) -> Operands:
    """Float32 operands by name; the same numbers every time."""
    rng = np.random.default_rng(zlib.crc32(problem.key().encode()))

    def uniform(shape: Any, low: float = -1.0) -> np.ndarray:
        return rng.uniform(low, 1.0, tuple(shape)).astype(np.float32)

    made: Operands = {}
    for name, shape in problem.shapes.items():
        if name == "xs":
            made[name] = [uniform(s) for s in shape]
        elif name == "boxes" or problem.op == "box_iou":
            made[name] = boxes(rng, shape[0], roi_image(problem))
            if problem.op.startswith("roi"):  # the first column is the picture in the batch
                made[name] = np.insert(made[name], 0, 0, axis=1)
        else:
            made[name] = uniform(shape)
    if problem.bias:
        made["b"] = uniform([channels_out(problem)])
    if problem.op == "batch_norm":
        channels = [problem.shapes["x"][-1]]
        made |= {"mean": uniform(channels), "var": uniform(channels, 0.5)}
        made |= {"scale": uniform(channels), "shift": uniform(channels)}
    if problem.op.endswith("nms"):
        count = problem.shapes["boxes"][0]
        # Distinct scores: the order of equal ones is a matter of taste among the peers.
        made["scores"] = rng.permutation(np.linspace(0.01, 0.99, count, dtype=np.float32))
    if problem.op == "batched_nms":
        made["classes"] = rng.integers(0, 20, problem.shapes["boxes"][0])
    return made


def boxes(rng: np.random.Generator, count: int, image: tuple[float, float]) -> np.ndarray:
    """Boxes x1,y1,x2,y2 as a detector gives them: crowds of about ten around each object."""
    size = np.array(image, np.float64)
    objects = max(1, count // 10)
    which = rng.integers(0, objects, count)
    extent = rng.uniform(0.03, 0.15, (objects, 2))[which] * rng.lognormal(0, 0.1, (count, 2))
    centre = rng.uniform(0.1, 0.9, (objects, 2))[which] + rng.normal(0, 0.08, (count, 2)) * extent
    corners = np.concatenate([(centre - extent / 2) * size, (centre + extent / 2) * size], axis=1)
    return np.clip(corners, 0.0, np.tile(size, 2)).astype(np.float32)


def roi_image(problem: Problem) -> tuple[float, float]:
    """Width and height of the image whose features x holds."""
    if not problem.op.startswith("roi"):
        return IMAGE, IMAGE
    scale = problem.attrs.get("spatial_scale", 1.0)
    return problem.shapes["x"][2] / scale, problem.shapes["x"][1] / scale


def terms(problem: Problem) -> int:
    """How many products are added up in one output element."""
    if problem.op == "linear":
        return int(problem.shapes["w"][0])
    if problem.op == "gram_matrix":
        return math.prod(problem.shapes["x"][1:3])
    if problem.op == "conv2d_transpose":
        return math.prod(problem.shapes["w"][:2]) * int(problem.shapes["w"][3])
    if problem.op == "depthwise_conv2d":
        return math.prod(problem.shapes["w"][:2])
    if problem.op == "conv2d":
        return math.prod(problem.shapes["w"][:3])
    if problem.op == "conv2d_grad_input":
        kh, kw, _, o = problem.shapes["w"]
        return int(kh * kw * o // problem.attrs.get("groups", 1))
    if problem.op == "conv2d_grad_weight":
        return math.prod(problem.shapes["g"][:3])
    return 1


def error(problem: Problem, operands: Operands, got: np.ndarray, exact: np.ndarray) -> float:
    """Worst error as a share of the greatest value a partial sum can reach.

    For sums of products that is terms * max|x| * max|w|, the scale on which rounding errors live; for the
    other operators the greatest magnitude of the answer. Indices must agree exactly.
    """
    if got.shape != exact.shape:
        return math.inf
    if exact.dtype.kind in "iu":
        return 0.0 if np.array_equal(got, exact) else math.inf
    if not np.array_equal(np.isfinite(got), np.isfinite(exact)):
        return math.inf
    if problem.macs:
        names = [name for name in OPERATORS[problem.op].operands if name in operands and name != "b"]
        x: np.ndarray = operands[names[0]]
        w: np.ndarray = operands[names[-1]]
        scale = terms(problem) * float(np.abs(x).max() * np.abs(w).max())
    else:
        # The mean of numbers around zero is far below the sums on the way to it.
        values: np.ndarray = operands["x"] if "avg" in problem.op else exact
        scale = float(np.abs(values).max(initial=0.0)) or 1.0
    return float(np.abs(got - exact).max(initial=0.0)) / scale


def limit(problem: Problem) -> float:
    """The scaled error above which an answer is wrong rather than rounded.

    Peers may add in any order or use Winograd, so it is wider than what cnnfast's own tests demand.
    """
    if problem.op in ("resize", "roi_align", "roi_pool"):
        # Coordinates in float32 are off by eps * size, and so is the weight between two pixels.
        return 4 * EPS * max(64, *problem.shapes["x"][1:3])
    return 16 * EPS if problem.op == "local_response_norm" else 8 * EPS
