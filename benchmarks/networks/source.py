"""A network to compare: its weights, an input, the float64 answer, and the file that the peers read."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

__all__ = ["NETWORKS", "Network", "NetworkError", "build", "flat_graph", "load_model", "only", "read"]

# U-Net is the form with same padding (64 channels); GoogLeNet the published one, with response normalisation.
NETWORKS = (
    "lenet5", "alexnet", "vgg16", "resnet18", "resnet50", "googlenet_original",
    "mobilenet_v1", "mobilenet_v2", "efficientnet_b0", "unet", "yolov2_tiny",
)  # fmt: skip


class NetworkError(Exception):
    """A network that cannot be compared; the message says why."""


@dataclass(frozen=True)
class Network:
    """A network for one batch size, with its files in a folder."""

    name: str
    shape: tuple[int, int, int, int]  # of the input: N,H,W,C
    out: tuple[int, ...]  # of the output, images in N,H,W,C
    flops: float  # of convolutions and dense layers by the direct algorithm
    folder: Path

    @property
    def batch(self) -> int:
        return self.shape[0]

    @property
    def weights(self) -> Path:
        return self.folder / "weights.safetensors"

    @property
    def onnx(self) -> Path:
        """Normalisations folded; input and images in the output are N,C,H,W."""
        return self.folder / "model.onnx"

    def input(self) -> np.ndarray:
        return np.load(self.folder / "x.npy")

    def exact(self) -> np.ndarray:
        """The answer in float64."""
        return np.load(self.folder / "exact.npy")

    def to_json(self) -> dict[str, Any]:
        return {key: value for key, value in asdict(self).items() if key != "folder"}


def build(name: str, batch: int, folder: Path) -> Network:
    """Make a network with seeded weights, its input and the answer, and write all that into a folder."""
    import cnnfast as cf
    from cnnfast.graph import interpret, trace
    from cnnfast.models.registry import entry

    try:
        known = entry(name)
    except ValueError as error:
        raise NetworkError(str(error)) from None
    single, shape = (1, *known.input_size), (batch, *known.input_size)
    model = cf.models.create_model(name, seed=0).eval()
    graph = trace(model, single)
    if len(graph.outputs) != 1:
        raise NetworkError(f"{name} has {len(graph.outputs)} outputs; only networks with one are compared")
    x = np.random.default_rng(20).uniform(-1, 1, shape).astype(np.float32)
    # Numbers of their own and the first image alone: the weights are the same for every batch.
    scale_weights(graph, x[:1], np.random.default_rng(21))
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", x)
    # Image by image: in double precision a batch of U-Net would not fit into memory.
    exact = np.concatenate([only(interpret(graph, image[None].astype(np.float64))) for image in x])
    np.save(folder / "exact.npy", exact)
    flops = sum(n.op.cost(n.spec).flops for n in graph.nodes if n.op.name in WEIGHTED) * batch
    network = Network(name, shape, exact.shape, flops, folder)
    cf.save_weights(network.weights, model.state_dict())
    cf.onnx.save(model, network.onnx, shape, layout="NCHW")
    (folder / "network.json").write_text(json.dumps(network.to_json()), encoding="utf-8")
    return network


def read(folder: Path) -> Network:
    """The network that :func:`build` has written there."""
    stored = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    shapes = {key: tuple(stored[key]) for key in ("shape", "out")}
    return Network(stored["name"], flops=stored["flops"], folder=folder, **shapes)


def load_model(network: Network) -> Any:
    """The module with its weights."""
    import cnnfast as cf

    model = cf.models.create_model(network.name)
    model.load_state_dict(cf.load_weights(network.weights))
    return model.eval()


def flat_graph(network: Network) -> Any:
    """The graph with normalisations folded and activations still apart, to write other formats from."""
    return folded(load_model(network), network.shape)


def folded(model: Any, shape: tuple[int, ...]) -> Any:
    """As :func:`flat_graph`, of a model on arrays of this shape."""
    from cnnfast.graph import passes, trace

    graph = passes.fold_constants(passes.drop_dead_code(trace(model, shape)))
    return passes.drop_dead_code(passes.fold_batch_norm(graph))


def only(result: Any) -> np.ndarray:
    """The output of a network that may give it in a tuple or a mapping."""
    while not isinstance(result, np.ndarray):
        (result,) = result.values() if isinstance(result, dict) else result
    return result


WEIGHTED = ("conv2d", "depthwise_conv2d", "conv2d_transpose", "linear")


def scale_weights(graph: Any, x: np.ndarray, rng: np.random.Generator) -> None:
    """Change the parameters of a graph in place, so that values keep their size from layer to layer.

    Initial values would let them grow or vanish over many layers, and errors could not be told from noise.
    Normalisations get the statistics of their input, other layers are divided by the deviation of theirs.
    """
    from cnnfast import use_backend

    normalised = {n.inputs[0] for n in graph.nodes if n.op.name == "batch_norm"}
    values: dict[Any, np.ndarray] = {graph.inputs[0]: x}
    last = {value: node for node in graph.nodes for value in node.inputs}
    with use_backend("cpu" if native() else "numpy"):
        for node in graph.nodes:
            if node.op.name == "batch_norm":
                mean, var, scale, shift = [value.data for value in node.inputs[1:]]
                seen = values[node.inputs[0]]
                axes = tuple(range(seen.ndim - 1))
                mean[...], var[...] = seen.mean(axes), np.maximum(seen.var(axes), 1e-3)
                scale[...] = rng.uniform(0.8, 1.2, scale.shape)
                shift[...] = rng.uniform(-0.1, 0.1, shift.shape)
            elif node.op.name in WEIGHTED and node.output not in normalised:
                bias = node.inputs[3] if len(node.inputs) > 3 else None
                if bias is not None:
                    bias.data[...] = rng.uniform(-0.1, 0.1, bias.shape)
                deviation = float(call(node, values).std())
                if not math.isfinite(deviation) or deviation == 0:
                    raise NetworkError(f"{node.scope}: the weights give no values to scale")
                node.inputs[1].data[...] /= deviation
            results = call(node, values)
            values.update(
                zip(node.outputs, results if isinstance(results, tuple) else (results,), strict=True)
            )
            for value in node.inputs:
                if last.get(value) is node:
                    values.pop(value, None)


def call(node: Any, values: dict[Any, np.ndarray]) -> Any:
    arrays = [None if v is None else values[v] if v in values else v.data for v in node.inputs]  # noqa: SIM401
    return node.op(node.spec, *arrays)


def native() -> bool:
    from cnnfast.config import config

    return bool(config()["native"]["available"])
