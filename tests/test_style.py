"""Style transfer: the objective and its gradient, the loop, memory, resuming, and the command."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast import losses, style
from cnnfast.cli import main
from cnnfast.errors import ShapeError, TrainingError, WeightsError
from cnnfast.models.vgg import vgg_features
from cnnfast.pictures import load_picture
from cnnfast.style import Features, Objective, Plan, load_features, transfer
from cnnfast.style.memory import plans, resident
from cnnfast.style.objective import CONTENT_LAYERS, STYLE_LAYERS
from cnnfast.style.transfer import begin_from, choose_plan

Array = np.ndarray
SHALLOW: dict[str, Any] = {
    "content_layers": {"conv2_1": 1.0},
    "style_layers": {"conv1_1": 0.5, "conv2_1": 0.5},
}


def state_of(depth: int) -> dict[str, Array]:
    state = vgg_features(depth).initialize(3).state_dict("torch")
    return {f"features.{name}": array for name, array in state.items()}


@pytest.fixture(scope="module")
def state() -> dict[str, Array]:
    """The trunk of a VGG-11 that has learnt nothing."""
    return state_of(11)


@pytest.fixture
def features(state: dict[str, Array]) -> Features:
    return Features(state)


@pytest.fixture(scope="module")
def weights_file(state: dict[str, Array], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "vgg11_features.safetensors"
    cf.save_weights(path, state)
    return path


def pictures(rng: np.random.Generator, *sizes: tuple[int, int], dtype: Any = np.float32) -> list[Array]:
    return [rng.uniform(0, 255, (1, *size, 3)).astype(dtype) for size in sizes]


# --- features -----------------------------------------------------------------------------------------


def test_defaults() -> None:
    assert {f"conv{i}_1": 0.2 for i in range(1, 6)} == STYLE_LAYERS
    assert CONTENT_LAYERS == {"conv4_2": 1.0}


@pytest.mark.parametrize("depth", [11, 13, 16, 19])
def test_names(depth: int) -> None:
    made = Features(state_of(depth))
    counts = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}[depth]
    assert made.depth == depth
    assert made.layers == tuple(f"conv{b}_{k}" for b, n in enumerate(counts, 1) for k in range(1, n + 1))
    assert made.layer("relu4_1") == "conv4_1"


def test_features_are_those_of_the_network(
    backend: str, state: dict[str, Array], rng: np.random.Generator
) -> None:
    (x,) = pictures(rng, (32, 38))
    trunk = vgg_features(11)
    trunk.load_state_dict({k.removeprefix("features."): v for k, v in state.items()}, layout="torch")
    value = (x - np.float32([123.675, 116.28, 103.53])) / np.float32([58.395, 57.12, 57.375])
    expected = {}
    for i, layer in enumerate(trunk.eval().children()):
        value = layer(value)
        expected[i] = value
    found = dict(Features(state)(x, ["conv1_1", "relu2_1", "conv3_2"]))
    assert list(found) == ["conv1_1", "conv2_1", "conv3_2"]
    for name, i in {"conv1_1": 1, "conv2_1": 4, "conv3_2": 9}.items():
        np.testing.assert_allclose(found[name], expected[i], rtol=1e-4, atol=1e-5)


def test_features_of_a_file(assets: Path) -> None:
    made = load_features(assets / "models" / "vgg16_features.safetensors")
    assert (made.depth, made.pixels) == (16, style.CAFFE)
    with np.load(assets / "expected" / "vgg16_features.npz") as data:
        picture, expected = data["style_image"][None], data["relu4_2_mean"][1]
        x = data["input"].transpose(0, 2, 3, 1) + np.float32(style.CAFFE.mean)
        grams = {name: data[f"gram_relu{name[4:]}"] for name in ("conv1_1", "conv2_1", "conv3_1")}
    (mean,) = (f.mean((1, 2)) for _, f in made(picture.astype(np.float32), ["relu4_2"]))
    np.testing.assert_allclose(mean[0], expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    for name, found in made(x, list(grams)):
        gram = cf.ops.gram_matrix(found) / found[0].size
        np.testing.assert_allclose(gram, grams[name], rtol=1e-3, atol=1e-4 * np.abs(gram).max())


def test_files(state: dict[str, Array], weights_file: Path, tmp_path: Path) -> None:
    assert load_features(weights_file).pixels == style.CAFFE
    assert load_features(str(weights_file), pixels=style.TORCHVISION).pixels == style.TORCHVISION
    whole = tmp_path / "vgg11.safetensors"
    cf.save_weights(whole, {**state, "classifier.6.bias": np.zeros(10, np.float32)})
    assert load_features(whole, pooling="avg").pixels == style.TORCHVISION
    few = tmp_path / "few.safetensors"
    cf.save_weights(few, {k: v for k, v in state.items() if not k.startswith("features.0.")})
    with pytest.raises(WeightsError, match=r"few.safetensors: Features: expected the convolutions of a VGG"):
        load_features(few)
    with pytest.raises(ValueError, match="pooling must be 'max' or 'avg'"):
        Features(state, pooling="sum")


@pytest.mark.parametrize("name", ["conv1_2", "pool1", "conv6_1", "conv", ""])
def test_unknown_layers(features: Features, name: str) -> None:
    with pytest.raises(ValueError, match=r"expected layers out of conv1_1, conv2_1, .* got"):
        features.layer(name)


# --- the objective ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("scale", "factor"), [("half", 0.5), ("mean_half", None), ("mean_quarter", None)])
def test_costs_by_their_formulas(
    features: Features, rng: np.random.Generator, scale: str, factor: Any
) -> None:
    content, example, x = pictures(rng, (12, 16), (18, 10), (12, 16), dtype=np.float64)
    objective = Objective(
        features, content, example, **SHALLOW, content_weight=2.0, style_weight=3.0, variation_weight=0.25,
        content_scale=scale,
    )  # fmt: skip
    costs, _ = objective(x)
    names = ["conv1_1", "conv2_1"]
    f_c, f_s, f_x = (dict(features(p, names)) for p in (content, example, x))
    n = f_x["conv2_1"].size
    factor = factor or {"mean_half": 1 / (2 * n), "mean_quarter": 1 / (4 * n)}[scale]
    assert costs.content == pytest.approx(
        2 * factor * ((f_x["conv2_1"] - f_c["conv2_1"]) ** 2).sum(), rel=1e-12
    )
    total = 0.0
    for name in names:
        _, h, w, c = f_x[name].shape
        a, b = (f[name].reshape(-1, c) for f in (f_x, f_s))
        gram, wanted = a.T @ a, b.T @ b * (h * w / len(b))
        total += 0.5 / (2 * h * w * c) ** 2 * ((gram - wanted) ** 2).sum()
    assert costs.style == pytest.approx(3 * total, rel=1e-12)
    variation = (np.diff(x, axis=1) ** 2).sum() + (np.diff(x, axis=2) ** 2).sum()
    assert costs.variation == pytest.approx(variation / 4, rel=1e-12)
    assert costs.total == pytest.approx(costs.content + costs.style + costs.variation, rel=1e-12)


@pytest.mark.parametrize("pooling", ["max", "avg"])
def test_gradient(state: dict[str, Array], rng: np.random.Generator, pooling: str) -> None:
    """Against differences in float64, and the same for every way to divide the steps."""
    content, example, x = pictures(rng, (13, 16), (18, 10), (13, 16), dtype=np.float64)
    layers: dict[str, Any] = {
        "content_layers": {"conv3_1": 0.5, "conv3_2": 0.5}, "style_layers": {"conv1_1": 0.5, "conv3_1": 0.5},
    }  # fmt: skip
    made = Features(state, pooling=pooling)
    found = []
    for starts in ((0,), (0, 2), (0, 2, 4)):
        objective = Objective(
            made, content, example, **layers, variation_weight=1e-4, plan=Plan(starts=starts)
        )
        found.append(objective(x))
    for costs, g in found[1:]:
        assert costs == found[0][0]
        np.testing.assert_array_equal(g, found[0][1])
    direction = rng.standard_normal(x.shape)
    step = 1e-5
    slope = (objective(x + step * direction)[0].total - objective(x - step * direction)[0].total) / (2 * step)
    assert slope == pytest.approx((found[0][1] * direction).sum(), rel=1e-6)


def test_gradient_in_float32(native: None, features: Features, rng: np.random.Generator) -> None:
    """Weights kept in the form for Winograd and weights as they are, against float64."""
    content, example, x = pictures(rng, (24, 32), (30, 20), (24, 32), dtype=np.float64)
    exact = Objective(features, content, example, **SHALLOW)(x)
    content, example, x = (p.astype(np.float32) for p in (content, example, x))
    for packed in (True, False):
        costs, g = Objective(features, content, example, **SHALLOW, plan=Plan(packed=packed))(x)
        assert costs.total == pytest.approx(exact[0].total, rel=1e-4)
        # Where a sum before a ReLU is zero but for rounding, the two may differ.
        assert np.linalg.norm(g - exact[1]) <= 1e-2 * np.linalg.norm(exact[1])


def test_gradient_is_that_of_the_tape_and_of_torch(
    native: None, state: dict[str, Array], rng: np.random.Generator
) -> None:
    torch = pytest.importorskip("torch")
    content, example, x = pictures(rng, (20, 24), (16, 24), (20, 24), dtype=np.float64)
    _, g = Objective(Features(state), content, example, content_layers={"conv2_1": 1.0}, style_layers={
        "conv1_1": 1.0, "conv2_1": 1.0}, style_weight=1.0)(x)  # fmt: skip
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1)
                 for v in (style.TORCHVISION.mean, style.TORCHVISION.std))  # fmt: skip

    def run(picture: Array, wants: bool = False) -> tuple[Any, Any, Any]:
        leaf = torch.tensor(picture[0].transpose(2, 0, 1), requires_grad=wants)
        w = {k: torch.tensor(v, dtype=torch.float64) for k, v in state.items() if k[9] in "03"}
        one = torch.relu(torch.nn.functional.conv2d(
            ((leaf - mean) / std)[None], w["features.0.weight"], w["features.0.bias"], padding=1
        ))  # fmt: skip
        two = torch.relu(torch.nn.functional.conv2d(
            torch.nn.functional.max_pool2d(one, 2), w["features.3.weight"], w["features.3.bias"], padding=1
        ))  # fmt: skip
        return leaf, one, two

    leaf, *ours = run(x, True)
    _, _, target = run(content)
    loss = ((ours[1] - target) ** 2).sum() / (4 * target.numel())
    for mine, wanted in zip(ours, run(example)[1:], strict=True):
        a, b = mine[0].flatten(1), wanted[0].flatten(1)
        gram = a @ a.T - b @ b.T * (a.shape[1] / b.shape[1])
        loss = loss + (gram**2).sum() / (2 * mine.numel()) ** 2
    loss.backward()
    np.testing.assert_allclose(g[0], leaf.grad.numpy().transpose(1, 2, 0), rtol=1e-9, atol=1e-12)


def test_the_backend_is_the_one_that_was_chosen(
    native: None, features: Features, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the NumPy reference no engine is made."""
    content, example = pictures(rng, (10, 12), (12, 10))
    expected, _ = Objective(features, content, example, **SHALLOW)(content)
    with cf.use_backend("numpy"):
        for name in ("conv2d", "conv2d_grad_input", "Plan"):
            monkeypatch.delattr(cf._cpu, name)
        found, _ = Objective(features, content, example, **SHALLOW)(content)
    assert found.total == pytest.approx(expected.total, rel=1e-3)


def test_only_the_picture_has_a_gradient(
    native: None, features: Features, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = {s.name: s.weight.copy() for s in features.steps if hasattr(s, "weight")}
    module = cf._cpu

    def never(*args: Any) -> None:
        raise AssertionError("the gradient of a weight was computed")

    monkeypatch.setattr(module, "conv2d_grad_weight", never)
    monkeypatch.setattr(module, "channel_sums", never)
    content, example = pictures(rng, (16, 16), (16, 16))
    kept = content.copy(), example.copy()
    transfer(content[0], example[0], features, iterations=3, init="noise", **SHALLOW)
    for step in features.steps:
        if hasattr(step, "weight"):
            np.testing.assert_array_equal(step.weight, before[step.name])
    np.testing.assert_array_equal(content, kept[0])
    np.testing.assert_array_equal(example, kept[1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"style_weight": -1.0}, "expected weights from 0, got -1.0"),
        ({"content_weight": float("nan")}, "expected weights from 0, got nan"),
        ({"content_layers": {}, "style_layers": {}}, "expected layers for content or style, got none"),
        ({"content_layers": {"conv5_1": 1.0}}, "expected a picture large enough for conv5_1"),
        ({"content_layers": {"fc7": 1.0}}, "got 'fc7'"),
    ],
)
def test_wrong_objectives(
    features: Features, rng: np.random.Generator, change: dict[str, Any], message: str
) -> None:
    content, example = pictures(rng, (12, 12), (12, 12))
    with pytest.raises(ValueError, match=message):
        Objective(features, content, example, **{**SHALLOW, **change})
    with pytest.raises(ShapeError, match=r"content must have shape \(1,H,W,3\), got \(12, 12, 3\)"):
        Objective(features, content[0], example)
    with pytest.raises(
        ShapeError, match=r"expected a picture of shape \(1, 12, 12, 3\), got \(1, 12, 11, 3\)"
    ):
        Objective(features, content, example, **SHALLOW)(content[:, :, 1:])


# --- the loop -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
@pytest.mark.parametrize("init", ["content", "noise"])
def test_loss_falls_and_pixels_stay_in_range(
    backend: str, features: Features, rng: np.random.Generator, optimizer: str, init: str
) -> None:
    content, example = pictures(rng, (16, 20), (14, 18))
    made = transfer(
        content[0], example[0], features, iterations=12, optimizer=optimizer, init=init, **SHALLOW
    )  # fmt: skip
    totals = [row["total"] for row in made.rows]
    assert totals[-1] < 0.8 * totals[0]
    assert [row["iteration"] for row in made.rows] == list(range(1, 13))
    wild = transfer(content[0], example[0], features, iterations=3, optimizer="adam", lr=60.0, **SHALLOW)
    for found in (made, wild):
        assert found.pixels.min() >= 0
        assert found.pixels.max() <= 255
        assert found.picture.dtype == np.uint8
        assert found.picture.shape == (16, 20, 3)
        np.testing.assert_array_equal(found.picture, np.rint(found.pixels[0]))
    assert ((wild.pixels == 0) | (wild.pixels == 255)).any()


def test_deeper_layers_keep_less_of_the_pixels(native: None, assets: Path) -> None:
    made = load_features(assets / "models" / "vgg16_features.safetensors")
    picture = style.fitted(load_picture(assets / "pictures" / "eagle.jpg"), 48)[0]
    errors = []
    for layer in ("conv1_1", "conv3_1", "conv5_1"):
        found = transfer(
            picture, picture, made, iterations=15, init="noise", content_layers={layer: 1.0}, style_layers={}
        )
        errors.append(float(((found.pixels[0] - picture) ** 2).mean()))
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.parametrize("optimizer", ["adam", "lbfgs"])
def test_resumed_runs_have_the_same_bits(
    backend: str, features: Features, rng: np.random.Generator, tmp_path: Path, optimizer: str
) -> None:
    content, example = pictures(rng, (12, 14), (14, 12))
    settings: dict[str, Any] = {**SHALLOW, "optimizer": optimizer, "init": "noise", "seed": 5}
    whole = transfer(content[0], example[0], features, iterations=7, **settings)
    path = tmp_path / "run.safetensors"
    threads = cf.get_num_threads()
    try:
        for until, n in ((3, 1), (4, 2), (7, 3)):
            cf.set_num_threads(n)
            found = transfer(
                content[0], example[0], features, iterations=until, checkpoint=path, resume=True, **settings
            )
    finally:
        cf.set_num_threads(threads)
    np.testing.assert_array_equal(found.pixels, whole.pixels)
    assert found.rows == whole.rows
    with pytest.raises(FileExistsError, match="resume=True goes on from it"):
        transfer(content[0], example[0], features, checkpoint=path)
    with pytest.raises(TrainingError, match="came one of others"):
        transfer(content[0], example[0], features, checkpoint=path, resume=True, **{**settings, "lr": 0.5})
    with pytest.raises(TrainingError, match="came one of others"):
        transfer(example[0], content[0], features, checkpoint=path, resume=True, **settings)
    cf.train.checkpoint.save_checkpoint(path, {"model": 1})
    with pytest.raises(WeightsError, match="expected a checkpoint of style transfer"):
        transfer(content[0], example[0], features, checkpoint=path, resume=True, **settings)


def test_a_resumed_run_keeps_the_form_of_its_weights(
    native: None,
    features: Features,
    rng: np.random.Generator,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """With more or less memory than before it goes on to the same bits, or says that it cannot."""
    content, example = (p[0] for p in pictures(rng, (40, 48), (48, 40)))
    layers = {"content_layers": {"conv3_1": 1.0}, "style_layers": {"conv1_1": 0.5, "conv3_1": 0.5}}
    settings: dict[str, Any] = {**layers, "iterations": 4}
    monkeypatch.setattr(sys.modules["cnnfast.style.transfer"], "resident", lambda: 0)
    steps = features.until(["conv3_1"])
    found = [p.bytes for p in plans(steps, features.shapes(steps, (40, 48))) if not p.packed]
    little = min(found) + (5 << 20)  # no room for packed weights
    whole = transfer(content, example, features, memory=little, **settings)
    assert not whole.plan.packed
    path = tmp_path / "run.safetensors"
    transfer(content, example, features, memory=little, checkpoint=path, **{**settings, "iterations": 2})
    found = transfer(content, example, features, checkpoint=path, resume=True, **settings)
    assert not found.plan.packed
    np.testing.assert_array_equal(found.pixels, whole.pixels)
    path.unlink()
    transfer(content, example, features, checkpoint=path, **{**settings, "iterations": 2})
    with pytest.raises(MemoryError, match="are allowed"):
        transfer(content, example, features, memory=little, checkpoint=path, resume=True, **settings)


def test_seeds_and_pictures_to_begin_with(features: Features, rng: np.random.Generator) -> None:
    content, example, other = (p[0] for p in pictures(rng, (10, 12), (12, 10), (5, 6)))
    again = [
        transfer(content, example, features, iterations=1, init="noise", seed=s, **SHALLOW) for s in (1, 1, 2)
    ]
    np.testing.assert_array_equal(again[0].pixels, again[1].pixels)
    assert not np.array_equal(again[0].pixels, again[2].pixels)
    made = begin_from(other, content[None], 0)
    np.testing.assert_array_equal(made, np.clip(style.fitted(other, (10, 12)), 0, 255))
    with pytest.raises(ValueError, match=r"lr must be above 0, got 0\.0"):
        transfer(content, example, features, lr=0.0)
    with pytest.raises(ValueError, match="init must be 'content', 'noise' or a picture, got 'black'"):
        transfer(content, example, features, init="black")


def test_previews_and_progress(
    features: Features, rng: np.random.Generator, capsys: pytest.CaptureFixture[str]
) -> None:
    content, example = pictures(rng, (10, 12), (12, 10))
    seen: list[tuple[int, Array]] = []
    made = transfer(
        content[0], example[0], features, iterations=5, preview=lambda n, p: seen.append((n, p)),
        preview_every=2, progress=True, **SHALLOW,
    )  # fmt: skip
    assert [n for n, _ in seen] == [2, 4, 5]
    np.testing.assert_array_equal(seen[-1][1], made.picture)
    lines = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r"iteration 2/5  loss [0-9.e+-]+, 0:00:\d\d left", lines[0])
    assert len(lines) == 2


def test_a_loss_that_is_not_finite(features: Features, rng: np.random.Generator) -> None:
    content, example = pictures(rng, (10, 12), (12, 10))
    with pytest.raises(TrainingError, match=r"the loss is (inf|nan) in iteration 1"):
        transfer(1e35 * content[0], example[0], features, iterations=2, init="noise", **SHALLOW)


def test_fitted(rng: np.random.Generator) -> None:
    picture = rng.uniform(0, 255, (30, 40, 3))
    assert style.fitted(picture, 20).shape == (1, 15, 20, 3)
    assert style.fitted(picture, None).shape == (1, 30, 40, 3)
    assert style.fitted(picture, 20, 2.0).shape == (1, 30, 40, 3)
    assert style.fitted(picture, (7, 9)).shape == (1, 7, 9, 3)
    with pytest.raises(ShapeError, match=r"expected a picture of shape \(H,W,3\), got \(30, 40\)"):
        style.fitted(picture[..., 0], 20)


# --- memory -------------------------------------------------------------------------------------------


def test_plans(native: None, features: Features) -> None:
    steps = features.until(["conv4_1"])
    shapes = features.shapes(steps, (64, 64))
    found = plans(steps, shapes)
    assert found[0].starts == (0,)
    assert found[0].packed
    assert found[0].again == 0
    assert {plan.packed for plan in found} == {True, False}
    least = min(found, key=lambda plan: plan.bytes)
    assert not least.packed
    assert any(plan.again > 0 for plan in found)
    assert all(steps[s - 1].name.startswith("pool") for plan in found for s in plan.starts[1:])


def test_too_little_memory(native: None, features: Features, rng: np.random.Generator) -> None:
    content, example = pictures(rng, (12, 14), (14, 12))
    with pytest.raises(MemoryError, match=r"12 x 14 pixels need [0-9,]+ MiB at least, 10 MiB are allowed"):
        transfer(content[0], example[0], features, memory=10 << 20, **SHALLOW)
    made = transfer(content[0], example[0], features, memory=resident() + (1 << 30), iterations=1, **SHALLOW)
    assert made.plan.packed
    assert choose_plan(features, ["conv2_1"], [], (64, 64), (64, 64), None) == Plan()


MEASURED = """
import json, sys
import numpy as np
import cnnfast as cf
from cnnfast import style
from cnnfast.style.memory import give_back, resident
from cnnfast.style.transfer import choose_plan

cf.set_num_threads(2)
features = style.load_features(sys.argv[1])
rng = np.random.default_rng(0)
content, example = (rng.uniform(0, 255, (int(rows), 256, 3)) for rows in sys.argv[2:4])
style_layers = {"conv1_1": 0.5, "conv2_1": 0.5, "conv3_1": 0.5}
layers = {"content_layers": {"conv3_1": 1.0}, "style_layers": style_layers}
give_back()
with open("/proc/self/clear_refs", "w") as file:
    file.write("5")  # the largest size begins anew
for more in range(4, 4000, 4):  # the least that is enough
    asked = resident() + (more << 20)
    try:
        plan = choose_plan(features, *layers.values(), content.shape[:2], example.shape[:2], asked)
    except MemoryError:
        continue
    if plan.packed or sys.argv[4] == "least":
        break
asked += 4 << 20
found = style.transfer(content, example, features, iterations=2, memory=asked, **layers).plan
with open("/proc/self/status") as file:
    most = next(int(line.split()[1]) << 10 for line in file if line.startswith("VmHWM"))
print(json.dumps({"asked": asked, "most": most, "packed": found.packed}))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
@pytest.mark.parametrize(
    ("rows", "style_rows", "kind"), [(256, 256, "packed"), (256, 128, "least"), (128, 512, "least")]
)
def test_never_more_memory_than_asked(
    native: None, weights_file: Path, rows: int, style_rows: int, kind: str
) -> None:
    """The largest resident size of a process of its own, which is allowed the least that a plan needs."""
    found = subprocess.run(
        [sys.executable, "-c", MEASURED, weights_file, str(rows), str(style_rows), kind],
        capture_output=True, text=True, env={**os.environ, "CNNFAST_BACKEND": "cpu"},
    )  # fmt: skip
    assert not found.stderr
    told = json.loads(found.stdout)
    assert told["packed"] or kind == "least"
    assert told["most"] <= told["asked"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_the_command_never_takes_more_than_asked(native: None, weights_file: Path, tmp_path: Path) -> None:
    """From its first to its last moment, reading of a large picture and of the weights included."""
    rng = np.random.default_rng(0)
    Image.fromarray(rng.integers(0, 256, (1500, 2000, 3), np.uint8)).save(tmp_path / "a.bmp")
    layers = ["--content-layers", "conv3_1", "--style-layers", "conv1_1,conv3_1"]
    command = [sys.executable, "-m", "cnnfast", "style", tmp_path / "a.bmp", tmp_path / "a.bmp", "--weights",
               weights_file, "-o", tmp_path / "b.png", "--size", "96", "--iterations", "2", "--quiet",
               "--threads", "1", *layers]  # fmt: skip
    # Of a small process of its own, or the one that runs the tests would count.
    program = """
import json, resource, subprocess, sys
done = subprocess.run(sys.argv[1:], capture_output=True, text=True)
most = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
print(json.dumps([most, done.returncode, done.stderr]))
"""
    statuses = []
    for allowed in (70, 150, 190, 230, 330):  # MiB
        run = [sys.executable, "-c", program, *map(str, command), "--memory", f"{allowed}MB"]
        most, status, said = json.loads(subprocess.run(run, capture_output=True, check=True).stdout)
        statuses.append(status)
        if status == 0:
            assert most <= allowed << 10
        else:
            assert "are allowed" in said
    assert statuses[0] == 2
    assert statuses[-1] == 0


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, rng: np.random.Generator) -> list[str]:
    paths = []
    for name, size in (("content.png", (24, 18)), ("style.png", (20, 30))):
        Image.fromarray(rng.integers(0, 256, (*size[::-1], 3), dtype=np.uint8)).save(tmp_path / name)
        paths.append(str(tmp_path / name))
    return paths


LAYERS = ["--content-layers", "conv2_1", "--style-layers", "conv1_1:.5,relu2_1:.5"]


def told(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> tuple[str, str]:
    assert main([str(a) for a in arguments]) == status
    out, err = capsys.readouterr()
    return out, err


def test_command(
    files: list[str], weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command: list[Any] = [
        "style",
        *files,
        "--weights",
        weights_file,
        "--size",
        20,
        *LAYERS,
        "--init",
        "noise",
    ]
    run = [*command, "--checkpoint", tmp_path / "run.safetensors", "--every", 2]
    out, err = told(
        capsys, *run, "-o", tmp_path / "a.png", "--iterations", 4, "--preview", tmp_path / "at{}.png"
    )
    assert re.fullmatch(r".*a\.png: 20 x 15 after 4 iterations, loss \S+ -> \S+\n", out)
    assert "iteration 2/4  loss" in err
    assert (tmp_path / "at2.png").exists()
    with Image.open(tmp_path / "a.png") as image:
        assert image.size == (20, 15)
    assert (tmp_path / "at4.png").read_bytes() == (tmp_path / "a.png").read_bytes()
    out, err = told(
        capsys, *run, "-o", tmp_path / "b.png", "--iterations", 6, "--resume", "--json", "--quiet"
    )
    report = json.loads(out)
    assert not err
    assert report["iterations"] == 6
    assert (report["width"], report["height"]) == (20, 15)
    assert report["last"]["iteration"] == 6
    out, _ = told(capsys, *command, "-o", tmp_path / "c.png", "--iterations", 6, "--json", "--quiet")
    assert json.loads(out)["last"] == report["last"]
    assert (tmp_path / "b.png").read_bytes() == (tmp_path / "c.png").read_bytes()
    assert "exists already; --resume goes on" in told(capsys, *run, "-o", tmp_path / "d.png", status=2)[1]
    told(capsys, *run, "-o", tmp_path / "d.png", "--iterations", 1, "--force", "--quiet")


@pytest.mark.parametrize(
    ("change", "status", "message"),
    [
        (["--memory", "1MB"], 2, "are allowed"),
        (["--memory", "much"], 2, "expected a size like 800MB or 1.5GiB, got 'much'"),
        (["--style-layers", "conv9_9"], 2, "got 'conv9_9'"),
        (["--style-layers", "conv1_1:.5,conv2_1"], 2, "expected layers like"),
        (["--style-weight", "-3"], 2, "expected a number from 0, got '-3'"),
        (["--init", "nowhere.png"], 2, "nowhere.png: No such file"),
        (["--preview", "a.xyz"], 2, "cannot tell the format"),
        (["--resume"], 2, "--resume needs --checkpoint"),
        (["--checkpoint", "run.zip"], 2, "expected a name that ends in .safetensors"),
        (["--size", "0"], 2, "expected a whole number from 1"),
        (["--size", "1"], 2, "expected a picture large enough"),
        (["--weights", "vgg.pth"], 2, "vgg.pth: No such file"),
    ],
)
def test_wrong_commands(
    native: None, files: list[str], weights_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str],
    change: list[str], status: int, message: str,
) -> None:  # fmt: skip
    arguments = ["style", *files, "--weights", weights_file, "-o", tmp_path / "a.png", "--size", 16, *LAYERS]
    _, err = told(capsys, *arguments, *change, status=status)
    assert message in err
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("text", "size"), [("7", 7), ("2k", 2048), ("800MB", 800 << 20), ("1.5GiB", 3 << 29)]
)
def test_sizes_of_memory(text: str, size: int) -> None:
    from cnnfast.cli.style import memory

    assert memory(text) == size


def test_losses_are_those_of_the_package() -> None:
    assert {"content", "style", "total_variation"} <= set(losses.__all__)
