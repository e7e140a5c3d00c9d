"""OpenVINO on a model of one node, with NCHW tensors and, for images, with NHWC ones; the faster counts."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ..arrays import Operands
from ..problems import Problem, pair
from . import Candidate, NotSupported, from_nchw, missing, onnx_model, to_nchw

if TYPE_CHECKING:
    from ..networks.source import Network

LABEL = "openvino"
COLUMNS = ("packed",)
WAYS = ("nchw", "nhwc")


def available() -> str | None:
    return missing("onnx", "openvino")


def version() -> str:
    import openvino

    return str(openvino.__version__).partition("-")[0]  # the rest names the build


def set_threads(threads: int) -> None:
    """Threads belong to the compiled model."""


def prepare(problem: Problem, operands: Operands, threads: int) -> dict[str, Candidate]:
    import openvino as ov

    core = ov.Core()
    try:
        model = read(core, problem, operands)
    except RuntimeError as error:
        raise NotSupported(f"cannot read the node: {str(error).strip().splitlines()[-1]}") from error
    fed = onnx_model.feeds(problem, operands)
    ways = {"nchw": compiled(core, model, fed, problem, threads, nhwc=False)}
    images = all(array.ndim == 4 for array in fed.values()) and len(problem.out or ()) == 4
    if images and problem.op not in ("add", "mul"):
        fed = {name: np.ascontiguousarray(from_nchw(array)) for name, array in fed.items()}
        ways["nhwc"] = compiled(core, in_nhwc(model), fed, problem, threads, nhwc=True)
    return ways


def read(core: Any, problem: Problem, operands: Operands) -> Any:
    """The ONNX model as OpenVINO's own."""
    import openvino as ov

    if problem.op == "resize" and problem.attrs.get("antialias"):
        # The reader of ONNX models overlooks the attribute; OpenVINO's own operator set has it.
        n, h, w, c = problem.shapes["x"]
        x = ov.opset13.parameter([n, c, h, w], dtype=np.float32, name="x")
        size = np.array(pair(problem.attrs["size"]), np.int64)
        axes = np.array([2, 3], np.int64)
        return ov.Model([ov.opset13.interpolate(x, size, "bilinear_pillow", "sizes", axes=axes)], [x])
    return core.read_model(model=onnx_model.build(problem, operands), weights=b"")


def in_nhwc(model: Any) -> Any:
    """The same model, fed and read in NHWC; the plugin chooses its layout inside."""
    from openvino import Layout
    from openvino.preprocess import PrePostProcessor

    steps = PrePostProcessor(model)
    for port in range(len(model.inputs)):
        steps.input(port).tensor().set_layout(Layout("NHWC"))
        steps.input(port).model().set_layout(Layout("NCHW"))
    if len(model.output().shape) == 4:
        steps.output().model().set_layout(Layout("NCHW"))
        steps.output().tensor().set_layout(Layout("NHWC"))
    return steps.build()


def compiled(
    core: Any, model: Any, fed: dict[str, np.ndarray], problem: Problem, threads: int, *, nhwc: bool
) -> Candidate:
    """A compiled model with tensors set once; ``infer`` copies nothing."""
    import openvino as ov

    request = core.compile_model(model, "CPU", settings(threads)).create_infer_request()
    tensors = [ov.Tensor(array, shared_memory=True) for array in fed.values()]
    for index, tensor in enumerate(tensors):
        request.set_input_tensor(index, tensor)

    def run(alive: tuple[Any, ...] = (fed, tensors)) -> None:
        # The request shares the memory of the arrays but does not hold it: `alive` does.
        request.infer(share_outputs=True)

    def result(_: Any) -> np.ndarray:
        data = request.get_output_tensor(0).data.copy()
        return data if nhwc else onnx_model.result(problem, data)

    return Candidate(run, result)


def settings(threads: int) -> dict[str, Any]:
    """For the least latency, in float32: the plugin would take bf16 where the processor has it."""
    return {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "NUM_STREAMS": 1,
    }


def convert(network: Network) -> None:
    """The file in OpenVINO's own format, as its users keep it; float32, which it would not be unasked."""
    import openvino as ov

    model = ov.Core().read_model(network.onnx)
    ov.save_model(model, network.folder / "openvino.xml", compress_to_fp16=False)


def load(network: Network, way: str, threads: int, x: np.ndarray) -> Candidate:
    import openvino as ov

    core = ov.Core()
    model = core.read_model(network.folder / "openvino.xml")
    nhwc = way == "nhwc"
    model = in_nhwc(model) if nhwc else model
    request = core.compile_model(model, "CPU", settings(threads)).create_infer_request()
    fed = x if nhwc else to_nchw(x)
    tensor = ov.Tensor(fed, shared_memory=True)
    request.set_input_tensor(tensor)

    def run(alive: tuple[Any, ...] = (fed, tensor)) -> None:
        request.infer(share_outputs=True)

    def result(_: Any) -> np.ndarray:
        data = request.get_output_tensor(0).data.copy()
        return data if nhwc else from_nchw(data)

    return Candidate(run, result)
