"""ONNX Runtime on a model of one node: plain runs and bound buffers, with and without its blocked layout."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Operands
from ..problems import Problem
from . import Candidate, from_nchw, missing, onnx_model, to_nchw

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "onnxruntime"
COLUMNS = ("packed",)
WAYS = ("io_binding",)


def available() -> str | None:
    return missing("onnx", "onnxruntime")


def version() -> str:
    import onnxruntime

    return str(onnxruntime.__version__)


def set_threads(threads: int) -> None:
    """Threads belong to the session."""


def prepare(problem: Problem, operands: Operands, threads: int) -> dict[str, Candidate]:
    import onnxruntime as ort

    model = onnx_model.build(problem, operands)
    fed = onnx_model.feeds(problem, operands)
    levels = {"all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL}
    if problem.macs:
        # Without the blocked layout a single node is spared two reorders of its activations.
        levels["extended"] = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    ways = {}
    for level, value in levels.items():
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.graph_optimization_level = value
        options.log_severity_level = 3
        session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        run = partial(session.run, None, fed)
        ways[f"{level}, run"] = Candidate(run, lambda out: onnx_model.result(problem, out[0]))
        ways[f"{level}, io_binding"] = bound(session, fed, problem)
    return ways


def bound(session: Any, fed: dict[str, np.ndarray], problem: Problem) -> Candidate:
    """Runs with input and output buffers that the runtime keeps."""
    import onnxruntime as ort

    binding = session.io_binding()
    values = {name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in fed.items()}
    for name, value in values.items():
        binding.bind_ortvalue_input(name, value)
    output = session.get_outputs()[0].name
    first = session.run(None, fed)[0]
    if problem.out is None:
        binding.bind_output(output)  # the size depends on the data
    else:
        values[output] = ort.OrtValue.ortvalue_from_numpy(np.empty_like(first))
        binding.bind_ortvalue_output(output, values[output])

    def result(_: Any) -> np.ndarray:
        return onnx_model.result(problem, binding.copy_outputs_to_cpu()[0])

    def run(alive: tuple[Any, ...] = (fed, values)) -> None:
        # The binding shares the memory of the arrays but does not hold it: `alive` does.
        session.run_with_iobinding(binding)

    return Candidate(run, result)


def convert(network: Network) -> None:
    """It reads ONNX."""


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    """All optimisations, on bound buffers. Nothing asks for less than float32 there (fast math is off)."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.log_severity_level = 3
    session = ort.InferenceSession(network.onnx, options, providers=["CPUExecutionProvider"])
    binding = session.io_binding()
    value = ort.OrtValue.ortvalue_from_numpy(to_nchw(x))
    output = session.get_outputs()[0]
    out = ort.OrtValue.ortvalue_from_shape_and_type(output.shape, np.float32)
    binding.bind_ortvalue_input(session.get_inputs()[0].name, value)
    binding.bind_ortvalue_output(output.name, out)

    def run(alive: tuple[Any, ...] = (value,)) -> Any:
        session.run_with_iobinding(binding)
        return out

    return Candidate(run, lambda result: from_nchw(result.numpy()))
