"""Small ONNX models, and their results by ONNX Runtime."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
node = onnx.helper.make_node


def model(
    nodes: Sequence[Any],
    inputs: Mapping[str, Any],
    outputs: Sequence[str],
    tensors: Mapping[str, Any] | None = None,
    opset: int = 17,
    free: bool = False,
) -> Any:
    """A model whose inputs have the shapes and types of arrays; ``free`` leaves the sizes open."""
    values = []
    for name, array in inputs.items():
        kind = onnx.helper.np_dtype_to_tensor_dtype(array.dtype)
        sizes = [f"{name}{i}" for i in range(array.ndim)] if free else array.shape
        values.append(onnx.helper.make_tensor_value_info(name, kind, sizes))
    results = [onnx.ValueInfoProto(name=name) for name in outputs]
    stored = [onnx.numpy_helper.from_array(np.asarray(v), k) for k, v in (tensors or {}).items()]
    graph = onnx.helper.make_graph(list(nodes), "g", values, results, stored)
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", opset)])
    made.ir_version = 8
    return made


def session(content: bytes) -> Any:
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])


def run(content: bytes, *inputs: np.ndarray) -> list[np.ndarray]:
    """Results of ONNX Runtime."""
    ready = session(content)
    names = [value.name for value in ready.get_inputs()]
    return ready.run(None, dict(zip(names, inputs, strict=True)))


def write(folder: Path, content: Any) -> Path:
    path = folder / "model.onnx"
    path.write_bytes(content if isinstance(content, bytes) else content.SerializeToString())
    return path


PICTURE = (2, 6, 9, 7)  # N, C, H, W


def values(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(np.float32)


def whole(*numbers: int) -> np.ndarray:
    return np.array(numbers, np.int64)


def close(got: Any, expected: np.ndarray) -> None:
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got, expected, rtol=2e-5, atol=2e-5)
