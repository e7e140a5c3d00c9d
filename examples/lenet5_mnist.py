"""LeNet-5 reads handwritten digits with weights that were trained with torch.

    python examples/lenet5_mnist.py lenet5_mnist.pth mnist_test.npz [--backend numpy]

The checkpoint holds five layers under torch's names and layouts; the data file holds the pictures enlarged
to 32x32 (`x32`, uint8) and the digits (`y`).
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import cnnfast as cf

LAYERS = {"c1": "convnet.c1", "c3": "convnet.c3", "c5": "convnet.c5", "f6": "fc.f6", "f7": "fc.f7"}


def load_lenet5(path: str) -> dict[str, np.ndarray]:
    """Weights and biases by layer name, in the layouts of cnnfast."""
    stored = cf.load_weights(path)
    weights = {}
    for name, torch_name in LAYERS.items():
        w = stored[f"{torch_name}.weight"]
        # Convolutions O,I,KH,KW -> KH,KW,I,O; dense layers out,in -> in,out. Between the two, torch would
        # flatten C,H,W and we H,W,C: the same order here, as c5 leaves a single pixel.
        weights[f"{name}.weight"] = np.ascontiguousarray(w.transpose(2, 3, 1, 0) if w.ndim == 4 else w.T)
        weights[f"{name}.bias"] = stored[f"{torch_name}.bias"]
    return weights


def lenet5(weights: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """Log-probabilities (N, 10) of pictures (N, 32, 32, 1) in 0..1."""
    ops = cf.ops

    def conv(x: np.ndarray, name: str) -> np.ndarray:
        return ops.conv2d(x, weights[f"{name}.weight"], weights[f"{name}.bias"], activation="relu")

    x = ops.max_pool2d(conv(x, "c1"), 2)  # 28x28x6 -> 14x14x6
    x = ops.max_pool2d(conv(x, "c3"), 2)  # 10x10x16 -> 5x5x16
    x = conv(x, "c5").reshape(len(x), 120)
    x = ops.relu(ops.linear(x, weights["f6.weight"], weights["f6.bias"]))
    return ops.log_softmax(ops.linear(x, weights["f7.weight"], weights["f7.bias"]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("data")
    parser.add_argument("--backend", choices=("numpy", "cpu"))
    args = parser.parse_args()
    if args.backend:
        cf.use_backend(args.backend)

    weights = load_lenet5(args.checkpoint)
    with np.load(args.data) as data:
        x, y = data["x32"][..., None].astype(np.float32) / 255, data["y"]
    start = time.perf_counter()
    read = np.concatenate([lenet5(weights, x[i : i + 500]).argmax(axis=1) for i in range(0, len(x), 500)])
    seconds = time.perf_counter() - start
    print(f"{(read == y).mean():.2%} of {len(y)} digits right, {seconds * 1e6 / len(y):.1f} us per digit")


if __name__ == "__main__":
    main()
