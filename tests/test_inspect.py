"""Feature maps, receptive fields, top patches, Grad-CAM, saliency, maximisation, sheets, and the command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import cnnfast as cf
from cnnfast import inspect, nn
from cnnfast.cli import main
from cnnfast.errors import ShapeError
from cnnfast.inspect import crop, grad_cam, maximise, saliency, top_patches, window

Array = np.ndarray


class Small(nn.Module):
    """Convolutions with strides, padding and a pooling, and three classes."""

    def __init__(self) -> None:
        self.trunk = nn.Sequential(
            nn.Conv2d(3, 4, 5, stride=2, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Conv2d(4, 6, 3, dilation=2, padding=2),
            nn.ReLU(),
        )
        self.pool = nn.GlobalAvgPool2d()
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(6, 3)

    def forward(self, x: Any) -> Any:
        return self.fc(self.flatten(self.pool(self.trunk(x))))


@pytest.fixture
def model() -> nn.Module:
    return Small().initialize(1)


def inputs(rng: np.random.Generator, n: int, h: int = 30, w: int = 25) -> Array:
    return rng.standard_normal((n, h, w, 3)).astype(np.float32)


# --- layers -------------------------------------------------------------------------------------------


def test_feature_maps(backend: str, model: nn.Module, rng: np.random.Generator) -> None:
    x = inputs(rng, 2)
    model.train()
    found = inspect.feature_maps(model, x, ["trunk.3", "trunk.0"])
    first = model.trunk._modules["0"](x)
    np.testing.assert_array_equal(found["trunk.0"], first)
    np.testing.assert_array_equal(
        found["trunk.3"],
        model.trunk._modules["3"](cf.ops.max_pool2d(cf.ops.relu(first), 3, stride=2, padding=1)),
    )
    assert model.training  # as before
    assert all(p.requires_grad for p in model.parameters())
    for path, message in (("trunk.9", "there is no layer 'trunk.9'; nearest: trunk"), ("", "no layer ''")):
        with pytest.raises(ValueError, match=message):
            inspect.feature_maps(model, x, [path])
    with pytest.raises(ValueError, match="expected layers, got none"):
        inspect.feature_maps(model, x, [])


def test_what_comes_after_is_not_computed(model: nn.Module, rng: np.random.Generator) -> None:
    def never(module: nn.Module, given: Any) -> None:
        raise AssertionError("computed")

    model.trunk._modules["1"].register_forward_pre_hook(never)
    inspect.feature_maps(model, inputs(rng, 1), ["trunk.0"])


def test_receptive_fields_are_exact(native: None, model: nn.Module, rng: np.random.Generator) -> None:
    """A unit changes with a pixel inside of its field's border, and with none outside."""
    layer, shape = "trunk.3", (41, 37, 3)
    # Without ReLU and maxima, which hide changes, the outermost pixels count too.
    model.trunk._modules["1"] = nn.Identity()
    model.trunk._modules["2"] = nn.AvgPool2d(3, stride=2, padding=1)
    fields = inspect.field_of(model, layer, shape)
    x = rng.standard_normal((1, *shape)).astype(np.float32)
    for row, column in ((0, 0), (3, 4), (9, 8)):
        leaf = cf.Tensor(x, requires_grad=True)
        maps = model.trunk._modules["3"](model.trunk._modules["2"](model.trunk._modules["0"](leaf)))
        cf.ops.reduce_sum(maps[:, row : row + 1, column : column + 1]).backward()
        assert leaf.grad is not None
        seen = np.abs(leaf.grad[0]).sum(axis=2) > 0
        top, bottom, left, right = window(fields, row, column)
        rows, columns = np.flatnonzero(seen.any(axis=1)), np.flatnonzero(seen.any(axis=0))
        assert (rows[0], rows[-1]) == (max(top, 0), min(bottom, shape[0]) - 1)
        assert (columns[0], columns[-1]) == (max(left, 0), min(right, shape[1]) - 1)
    summary = next(r for r in cf.summary(model, shape).rows if r.path == layer)
    assert summary.receptive_field == (bottom - top, right - left) == (fields[0].size, fields[1].size)


def test_crop(rng: np.random.Generator) -> None:
    x = rng.standard_normal((6, 7, 3))
    np.testing.assert_array_equal(crop(x, (1, 4, 2, 6)), x[1:4, 2:6])
    wide = np.pad(x, ((5, 5), (5, 5), (0, 0)), constant_values=9.0)
    for place in ((-3, 2, -1, 9), (4, 10, 5, 12), (-5, 11, -5, 12)):
        top, bottom, left, right = place
        expected = wide[top + 5 : bottom + 5, left + 5 : right + 5]
        np.testing.assert_array_equal(crop(x, place, 9.0), expected)
    assert (crop(x, (8, 10, 0, 3), 1.0) == 1).all()


@pytest.mark.parametrize("each", [1, 2, None])
@pytest.mark.parametrize("k", [9, 3])
def test_top_patches_equal_brute_force(
    backend: str, model: nn.Module, rng: np.random.Generator, k: int, each: int | None
) -> None:
    pictures = np.round(inputs(rng, 12))  # with ties
    pictures[7] = pictures[2]
    found = top_patches(model, pictures, "trunk.4", k=k, each=each)
    assert list(found) == list(range(6))
    maps = np.stack([inspect.feature_maps(model, p[None], ["trunk.4"])["trunk.4"][0] for p in pictures])
    fields = inspect.field_of(model, "trunk.4", pictures.shape[1:])
    for i, patches in found.items():
        places = sorted(np.ndindex(*maps.shape[:3]), key=lambda at, i=i: (-float(maps[(*at, i)]), at))
        expected: list[Any] = []
        for at in places:
            if each is None or sum(e[0] == at[0] for e in expected) < each:
                expected.append(at)
        assert [(p.picture, p.row, p.column) for p in patches] == expected[:k]
        assert [p.value for p in patches] == [float(maps[(*at, i)]) for at in expected[:k]]
        assert all(p.place == window(fields, p.row, p.column) for p in patches)
    some = top_patches(model, pictures, "trunk.4", [4, 1], k=k, each=each)
    assert some == {4: found[4], 1: found[1]}


def test_wrong_calls_of_top_patches(model: nn.Module, rng: np.random.Generator) -> None:
    x = inputs(rng, 2)
    with pytest.raises(ValueError, match="k must be a whole number from 1, got 0"):
        top_patches(model, x, "trunk.4", k=0)
    with pytest.raises(ValueError, match="has units 0 to 5, got 6"):
        top_patches(model, x, "trunk.4", [6])
    with pytest.raises(ValueError, match="expected pictures, got none"):
        top_patches(model, [], "trunk.4")
    with pytest.raises(ShapeError, match="pictures of one shape"):
        top_patches(model, [x[0], x[1, 1:]], "trunk.4")
    with pytest.raises(ShapeError, match="fc gives no feature maps"):
        top_patches(model, x, "fc")


# --- gradients ----------------------------------------------------------------------------------------


def test_grad_cam(backend: str, model: nn.Module, rng: np.random.Generator) -> None:
    """Where a mean over pixels and a dense layer follow, the weights are those of the class."""
    x = inputs(rng, 1)
    maps = inspect.feature_maps(model, x, ["trunk.4"])["trunk.4"]
    scores = model.eval()(x)[0]
    weight = model.fc.weight.data  # (in, out)
    for target in (None, 0, 2):
        found = grad_cam(model, x, "trunk.4", target)
        k = int(scores.argmax()) if target is None else target
        assert found.target == k
        assert found.score == pytest.approx(float(scores[k]), rel=1e-5)
        area = maps.shape[1] * maps.shape[2]
        expected = np.maximum((maps[0] * weight[:, k]).sum(axis=2) / area, 0)
        np.testing.assert_allclose(found.coarse, expected, rtol=1e-4, atol=1e-6)
        assert found.map.shape == x.shape[1:3]
        assert found.map.min() >= 0
        assert found.map.max() == (1 if expected.any() else 0)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    with pytest.raises(ValueError, match="expected a class from 0 to 2, got 3"):
        grad_cam(model, x, "trunk.4", 3)
    with pytest.raises(ShapeError, match="expected a layer with feature maps, fc gives none"):
        grad_cam(model, x, "fc")
    with pytest.raises(ShapeError, match="expected one picture"):
        grad_cam(model, inputs(rng, 2), "trunk.4")


def test_grad_cam_of_a_layer_that_is_called_twice(rng: np.random.Generator) -> None:
    """The last call counts: LeNet-5 has one pooling, which gives 14 x 14 and then 5 x 5."""
    x = rng.standard_normal((1, 32, 32, 1)).astype(np.float32)
    found = grad_cam(cf.models.lenet5(), x, "pool", 3)
    assert found.coarse.shape == (5, 5)
    assert found.coarse.any()


def test_saliency(model: nn.Module, rng: np.random.Generator) -> None:
    x = inputs(rng, 1)
    found = saliency(model, x, 1)
    leaf = cf.Tensor(x, requires_grad=True)
    cf.ops.reduce_sum(model.eval()(leaf)[:, 1:2]).backward()
    assert leaf.grad is not None
    expected = np.abs(leaf.grad[0]).max(axis=2)
    np.testing.assert_allclose(found, expected / expected.max(), rtol=1e-5, atol=1e-7)
    smooth = [saliency(model, x, samples=3, seed=s) for s in (1, 1, 2)]
    np.testing.assert_array_equal(smooth[0], smooth[1])
    assert not np.array_equal(smooth[0], smooth[2])
    with pytest.raises(ValueError, match="samples must be a whole number"):
        saliency(model, x, samples=0)


def test_maximise(model: nn.Module, rng: np.random.Generator) -> None:
    def excitement(x: Array, unit: int | None) -> float:
        maps = inspect.feature_maps(model, x, ["trunk.3"])["trunk.3"]
        return float((maps**2).mean() if unit is None else maps[..., unit].mean())

    start = 0.1 * inputs(rng, 1, 40, 33)
    calls: list[int] = []
    for unit in (None, 2):
        found = maximise(model, "trunk.3", unit, start=start, steps=6, done=lambda: calls.append(1))
        assert found.shape == start.shape
        assert excitement(found, unit) > excitement(start, unit) + 0.1
        assert np.abs(found).max() <= 2
    assert len(calls) == 36
    seeded = [maximise(model, "trunk.0", 1, size=(24, 20), steps=2, seed=s) for s in (3, 3, 4)]
    np.testing.assert_array_equal(seeded[0], seeded[1])
    assert not np.array_equal(seeded[0], seeded[2])
    with pytest.raises(ValueError, match="has units 0 to 5, got 6"):
        maximise(model, "trunk.3", 6)
    with pytest.raises(ValueError, match="expected low below high"):
        maximise(model, "trunk.3", low=(1, 1, 1), high=(1, 1, 1))


# --- sheets -------------------------------------------------------------------------------------------


def test_sheets() -> None:
    tiles = [np.full((4, 6, 3), v, np.uint8) for v in (10, 20, 30)]
    sheet = inspect.contact_sheet(tiles, 2, gap=1)
    assert sheet.shape == (2 * 5 + 1, 2 * 7 + 1, 3)
    assert (sheet[1:5, 8:14] == 20).all()
    assert (sheet[6:10, 1:7] == 30).all()
    assert (sheet[6:10, 8:14] == 255).all()
    assert inspect.contact_sheet(tiles[:1], size=13, gap=0).shape == (8, 12, 3)
    assert inspect.contact_sheet(tiles[:1], size=3, gap=0).shape == (2, 3, 3)
    for wrong in ([], [tiles[0][..., 0]], [tiles[0].astype(float)]):
        with pytest.raises(ShapeError, match="contact_sheet: expected pictures"):
            inspect.contact_sheet(wrong)
    np.testing.assert_array_equal(inspect.grey([[0.0, 1.0], [2.0, np.nan]])[..., 0], [[0, 128], [255, 0]])
    assert (inspect.grey(np.ones((2, 2))) == 0).all()
    assert inspect.heat([[0.0, 1.0]]).tolist() == [[[0, 0, 64], [255, 32, 0]]]
    with pytest.raises(ShapeError, match="overlay: expected"):
        inspect.overlay(tiles[0], np.zeros((3, 3)))


def test_filter_pictures() -> None:
    weight = np.zeros((3, 3, 3, 2), np.float32)
    weight[0, 0, 0, 0], weight[1, 1, :, 0] = 2.0, -1.0
    one, two = inspect.filter_pictures(weight)
    assert one[0, 0].tolist() == [255, 128, 128]
    assert one[1, 1].tolist() == [64, 64, 64]
    assert (two == 128).all()
    many = np.zeros((3, 3, 5, 1), np.float32)
    many[2, 1, 3, 0] = -4.0
    assert inspect.filter_pictures(many)[0][2, 1].tolist() == [0, 0, 0]
    with pytest.raises(ShapeError, match="expected a weight"):
        inspect.filter_pictures(weight[0])


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder, rng = tmp_path_factory.mktemp("inspect"), np.random.default_rng(4)
    model = cf.models.create_model("cifar_resnet20", seed=2)
    cf.save_weights(folder / "w.safetensors", model.state_dict("torch"))
    part = {k: v for k, v in model.state_dict("torch").items() if k.startswith(("conv1", "bn1", "layer1"))}
    cf.save_weights(folder / "trunk.safetensors", part)
    cf.save_weights(folder / "other.safetensors", {"a": np.zeros(3, np.float32)})
    names = []
    for i in range(3):
        names.append(str(folder / f"{i}.png"))
        Image.fromarray(rng.integers(0, 256, (40, 36, 3), dtype=np.uint8)).save(names[-1])
    return {"folder": folder, "pictures": names}


def told(capsys: pytest.CaptureFixture[str], *arguments: Any, status: int = 0) -> tuple[str, str]:
    assert main([str(a) for a in arguments]) == status
    out, err = capsys.readouterr()
    return out, err


@pytest.mark.parametrize(
    ("what", "count", "more"),
    [
        ("filters", 0, ["--units", "0,3"]),
        ("features", 1, ["--layer", "layer1.0.conv1"]),
        ("top9", 3, ["--layer", "layer1.0.conv1", "--units", "1,2"]),
        ("gradcam", 2, ["--target", "3"]),
        ("saliency", 1, []),
        ("dream", 0, ["--steps", "1", "--layer", "layer1", "--units", "0,1"]),
        ("dream", 1, ["--steps", "1"]),
    ],
)
def test_command(
    files: dict[str, Any],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    what: str,
    count: int,
    more: list[str],
) -> None:
    run = ["inspect", *files["pictures"][:count], "--what", what, "--model", "cifar_resnet20", "--weights",
           files["folder"] / "w.safetensors", "-o", tmp_path / "sheet.png", *more]  # fmt: skip
    out, _ = told(capsys, *run, "--json", "--quiet")
    report = json.loads(out)
    assert report["what"] == what
    with Image.open(tmp_path / "sheet.png") as image:
        assert image.size[0] > 30
    if what == "top9":
        assert [row["unit"] for row in report["patches"]] == [1] * 9 + [2] * 9
    if what == "gradcam":
        assert report["layer"].startswith("layer3.2")
        assert [row["class"] for row in report["results"]] == [3, 3]
    out, err = told(capsys, *run, "--quiet")
    assert out.startswith(str(tmp_path / "sheet.png"))
    assert not err


def test_files_with_a_trunk(
    files: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [
        "inspect",
        files["pictures"][0],
        "--model",
        "cifar_resnet20",
        "-o",
        tmp_path / "a.png",
        "--weights",
    ]
    trunk = [*run, files["folder"] / "trunk.safetensors"]
    told(capsys, *trunk, "--what", "features", "--layer", "layer1.1.conv1")
    _, err = told(capsys, *trunk, "--what", "features", "--layer", "layer2.0.conv1", status=2)
    assert "layer2.0.conv1 needs layer2.0.conv1.weight, which is not in the file" in err
    assert "is missing" in told(capsys, *trunk, "--what", "gradcam", status=2)[1]
    other = [*run, files["folder"] / "other.safetensors", "--what", "features"]
    assert "expected weights of cifar_resnet20, came others" in told(capsys, *other, status=2)[1]


LENET = ("--model", "lenet5", "--weights", "none.npz")


@pytest.mark.parametrize(
    ("arguments", "status", "message"),
    [
        ([], 2, "expected one FILE, or --what, got 0 files"),
        (["--what", "filters"], 2, "--what filters needs --model"),
        (["--what", "filters", "--model", "lenet5"], 2, "--what filters needs --weights"),
        (["--what", "filters", "--model", "lenet5", "--weights", "w.npz"], 2, "needs --output"),
        (["--what", "noise"], 2, "invalid choice"),
        (["--what", "gradcam", *LENET, "-o", "a.png"], 2, "expected pictures, got 0"),
        (["a.png", "--what", "filters", *LENET, "-o", "a.png"], 2,
         "expected no picture, got 1"),
        (["--what", "filters", *LENET, "-o", "a.xyz"], 2, "cannot tell the format"),
        (["--what", "filters", *LENET, "-o", "a.png"], 2, "No such file"),
        (["--units", "1,x"], 2, "expected a whole number"),
    ],
)  # fmt: skip
def test_wrong_commands(
    capsys: pytest.CaptureFixture[str], arguments: list[str], status: int, message: str
) -> None:
    assert message in told(capsys, "inspect", *arguments, status=status)[1]


def test_real_weights(native: None, assets: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = ["inspect", assets / "pictures" / "eagle.jpg", "--model", "mobilenet_v2", "--weights",
           assets / "models" / "mobilenet_v2-b0353104.pth", "--what", "gradcam",
           "-o", tmp_path / "a.png"]  # fmt: skip
    report = json.loads(told(capsys, *run, "--json", "--quiet")[0])
    names = (assets / "imagenet_classes.txt").read_text().splitlines()
    assert "eagle" in names[report["results"][0]["class"]]
