"""One-shot recognition: miners, thresholds, galleries and recognizers against their definitions."""

from __future__ import annotations

import itertools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import cnnfast as cf
from cnnfast import data, face, losses, nn
from cnnfast.errors import CnnfastError, DataError, DTypeError, PictureError, ShapeError, WeightsError
from cnnfast.tensor import Tensor

NATIVE = cf._cpu is not None
MEASURES = ("squared_distance", "cosine_similarity")


class Mean(nn.Module):
    """Encodes a picture as the mean of its colours, turned by a quarter of a circle if asked to."""

    def __init__(self, turned: bool = False) -> None:
        self.register_buffer("turn", np.roll(np.eye(3, dtype=np.float32), int(turned), 0))
        self.calls = 0

    def forward(self, x: Any) -> Any:
        self.calls += x.shape[0]
        return cf.ops.linear(cf.ops.flatten(cf.ops.global_avg_pool2d(x)), self.turn)


def encoder(**options: Any) -> face.Encoder:
    plain = data.Preprocess((4, 4), 4, mean=(0.0,) * 3, std=(1.0,) * 3)
    return face.Encoder(Mean(options.pop("turned", False)), plain, **options)


def colour(*rgb: int) -> np.ndarray:
    return np.full((6, 5, 3), rgb, np.uint8)


RED, PINK, GREEN, BLUE = colour(250, 0, 0), colour(250, 90, 90), colour(0, 250, 0), colour(0, 0, 250)


# --- comparison -------------------------------------------------------------------------------------


def test_pairwise_is_what_losses_measure(rng: np.random.Generator) -> None:
    a, b = rng.normal(size=(5, 7)), rng.normal(size=(4, 7))
    for measure, loss in (
        ("squared_distance", losses.squared_distance),
        ("cosine_similarity", losses.cosine_similarity),
    ):
        between = face.pairwise(a, b, measure)
        want = [[float(loss(x, y).data) for y in b] for x in a]
        np.testing.assert_allclose(between, want, rtol=1e-12)
        assert np.array_equal(face.pairwise(b, a, measure), between.T)
    assert np.array_equal(face.pairwise(a, a).diagonal(), np.zeros(5))
    assert face.pairwise(np.zeros((1, 3)), np.ones((1, 3)), "cosine_similarity") == 0


def test_a_distance_is_accepted_below_and_a_similarity_above_the_threshold() -> None:
    values = np.array([0.2, 0.5, 0.8])
    assert face.accepts(values, 0.5, "squared_distance").tolist() == [True, True, False]
    assert face.accepts(values, 0.5, "cosine_similarity").tolist() == [False, True, True]
    with pytest.raises(ShapeError, match="measure"):
        face.accepts(values, 0.5, "nearness")


@pytest.mark.parametrize("name", ["character_encoder", "nn4_small2"])
def test_siamese_distance(name: str, rng: np.random.Generator) -> None:
    size = cf.models.registry.entry(name).input_size
    model = face.Siamese(cf.models.create_model(name)).eval()
    x, y = rng.normal(size=(2, 2, *size)).astype(np.float32)
    assert model.encoder(x).shape == (2, 128)
    between = model(x, y)
    assert between.shape == (2,)
    assert (between > 0).all()
    assert np.array_equal(model(x, x), [0, 0])
    assert np.array_equal(model(y, x), between)
    np.testing.assert_allclose(
        between, face.pairwise(model.encoder(x), model.encoder(y)).diagonal(), rtol=1e-5
    )


def test_siamese_weights_are_shared_and_its_head_has_129() -> None:
    model = face.Siamese(cf.models.character_encoder(), nn.SiameseHead(128))
    alone = sum(p.size for p in cf.models.character_encoder().parameters())
    assert sum(p.size for p in model.parameters()) == alone + 129
    x = np.random.default_rng(0).normal(size=(4, 32, 32, 1)).astype(np.float32)
    score = model(Tensor(x), Tensor(x[::-1].copy()))
    losses.binary_cross_entropy(score, [1, 0, 0, 1]).backward()
    assert all(p.grad is not None for p in model.parameters())


def test_binary_heads_are_their_formulas(rng: np.random.Generator) -> None:
    f, g = rng.random((2, 3, 128)).astype(np.float32)
    f[0, :5] = g[0, :5] = 0  # 0 / 0 counts as 0
    for kind, gap in (("l1", np.abs(f - g)), ("chi_square", (f - g) ** 2 / np.where(f + g == 0, 1, f + g))):
        head = nn.SiameseHead(128, kind).initialize(3)
        w, b = (p.data for p in head.parameters())
        assert w.size + b.size == 129
        np.testing.assert_allclose(head(f, g), gap @ w[:, 0] + b, rtol=1e-5, atol=1e-6)


def test_classifiers_of_identities(rng: np.random.Generator) -> None:
    f = rng.normal(size=(4, 8)).astype(np.float32)
    plain = face.IdentityClassifier(8, 3).initialize(0)
    assert plain(f).shape == (4, 3)
    angular = face.CosineClassifier(8, 3).initialize(0)
    want = face.pairwise(f, angular.weight.data.T, "cosine_similarity")
    np.testing.assert_allclose(angular(f), want, rtol=0, atol=1e-6)
    np.testing.assert_allclose(angular(5 * f), want, rtol=0, atol=1e-6)
    with pytest.raises(ShapeError, match="CosineClassifier"):
        angular(f[:, :5])


def test_softmax_of_cosines(rng: np.random.Generator) -> None:
    cosines, labels = rng.uniform(-1, 1, (4, 3)), [2, 0, 1, 1]
    for margin in (0.0, 0.35):
        logits = 20 * (cosines - margin * np.eye(3)[labels])
        want = float(losses.cross_entropy(logits, labels).data)
        found = losses.cosine_softmax(cosines, labels, scale=20, margin=margin)
        assert float(found.data) == pytest.approx(want, rel=1e-12)


# --- mining -----------------------------------------------------------------------------------------


def brute_force(
    f: np.ndarray, y: list[int], kind: str, margin: float, distance: str
) -> tuple[list[Any], int, int]:
    """Triplets one by one, from the definitions."""

    def d(i: int, j: int) -> float:
        if distance == "squared":
            return float(((f[i] - f[j]) ** 2).sum())
        a, b = (v / max(math.sqrt((v * v).sum()), 1e-12) for v in (f[i], f[j]))
        return -float((a * b).sum())

    n = range(len(y))
    every = [(a, p, q) for a, p, q in itertools.product(n, n, n) if a != p and y[a] == y[p] and y[a] != y[q]]
    active = [t for t in every if d(t[0], t[1]) - d(t[0], t[2]) + margin > 0]
    if kind == "all":
        chosen = every
    elif kind == "hard":
        chosen = [
            (
                a,
                max((t[1] for t in of), key=lambda p: (d(a, p), -p)),
                min((t[2] for t in of), key=lambda q: (d(a, q), q)),
            )
            for a in n
            if (of := [t for t in every if t[0] == a])
        ]
    else:
        chosen = []
        for a, p in dict.fromkeys((t[0], t[1]) for t in every):
            within = [t[2] for t in active if t[:2] == (a, p) and d(a, t[2]) > d(a, p)]
            if within:
                chosen.append((a, p, min(within, key=lambda q: (d(a, q), q))))
    return chosen, len(every), len(active)


@pytest.mark.parametrize("distance", ["squared", "cosine"])
@pytest.mark.parametrize("kind", ["all", "hard", "semi-hard"])
@settings(deadline=None)
@given(
    rows=st.lists(st.tuples(st.integers(0, 3), *[st.integers(-3, 3)] * 2), min_size=0, max_size=9),
    margin=st.sampled_from([0.0, 0.2, 1.5, 6.0]),
)
def test_mining_is_brute_force(kind: str, distance: str, rows: list[tuple[int, ...]], margin: float) -> None:
    y = [row[0] for row in rows]
    f = np.array([row[1:] for row in rows], np.float64).reshape(-1, 2)
    chosen, valid, active = brute_force(f, y, kind, margin, distance)
    found = face.mine_triplets(f, np.array(y, np.int64), kind=kind, margin=margin, distance=distance)
    assert list(zip(found.anchor, found.positive, found.negative, strict=True)) == chosen
    assert len(found) == len(chosen)
    assert found.valid == valid
    assert found.active == (active / valid if valid else 0)


class Unit(nn.Module):
    """Encodings of length 1 by two dense layers."""

    def __init__(self) -> None:
        self.layers = nn.Sequential(nn.Linear(3, 16), nn.ReLU(), nn.Linear(16, 3))

    def forward(self, x: Any) -> Any:
        return cf.ops.l2_normalize(self.layers(x))


@pytest.mark.parametrize("kind", ["all", "hard", "semi-hard"])
def test_mined_triplets_train(kind: str) -> None:
    rng = np.random.default_rng(4)
    labels = np.arange(30) % 3
    x = (np.eye(3)[labels] + rng.normal(0, 0.2, (30, 3))).astype(np.float32)
    model = Unit().initialize(1)
    loss = face.TripletLoss(kind, margin=1.0)
    found = face.mine_triplets(model(x), labels, kind=kind, margin=1.0)
    a, p, n = found.of(model(x))
    want = np.maximum(((a - p) ** 2).sum(1) - ((a - n) ** 2).sum(1) + 1, 0).mean()
    assert float(loss(Tensor(model(x)), labels).data) == pytest.approx(want, rel=1e-5)
    assert loss.active == found.active
    history = cf.train.fit(
        model,
        (x, labels),
        loss=loss,
        optimizer=cf.optim.Adam(model.parameters(), 0.01),
        metrics={"active": lambda f, y: face.mine_triplets(f, y, margin=1.0).active},
        epochs=25,
        batch_size=30,
        progress=False,
    )
    assert history["active"][-1] < 0.5 * history["active"][0]
    f = Tensor(model(x), requires_grad=True)
    nothing = loss(f, np.zeros(30, int))  # one label alone
    nothing.backward()
    assert float(nothing.data) == 0
    assert not f.grad.any()


def test_mining_refuses() -> None:
    f = np.zeros((3, 2))
    with pytest.raises(ShapeError, match="mine_triplets"):
        face.mine_triplets(f, [0, 1, 1], kind="easy")
    with pytest.raises(ShapeError, match="mine_triplets: labels"):
        face.mine_triplets(f, [0, 1])
    with pytest.raises(DTypeError, match="mine_triplets: labels"):
        face.mine_triplets(f, [0.5, 1, 1])
    with pytest.raises(ShapeError, match="pairwise"):
        face.pairwise(f, np.zeros((3, 3)))
    with pytest.raises(DTypeError, match="pairwise"):
        face.pairwise(f, [["a", "b"]])


# --- thresholds -------------------------------------------------------------------------------------


@settings(deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 6), st.booleans()), min_size=2, max_size=30).filter(
        lambda pairs: len({same for _, same in pairs}) == 2
    ),
    st.sampled_from(MEASURES),
    st.floats(0, 1),
)
def test_roc_is_brute_force(pairs: list[tuple[int, bool]], measure: str, rate: float) -> None:
    values, same = np.array([v for v, _ in pairs], float), np.array([s for _, s in pairs])
    curve = face.roc(values, same, measure=measure)
    for threshold, false, true in zip(curve.thresholds, curve.false_accept, curve.true_accept, strict=True):
        accepted = face.accepts(values, threshold, measure)
        assert false == accepted[~same].mean()
        assert true == accepted[same].mean()
    sign = 1 if measure == "squared_distance" else -1
    near, far = sign * values[same], sign * values[~same]
    wins = [(n < f) + 0.5 * (n == f) for n in near for f in far]
    assert curve.auc == pytest.approx(np.mean(wins))
    threshold = curve.threshold_at(rate)
    assert face.accepts(values[~same], threshold, measure).mean() <= rate
    laxer = [t for t in set(values) if sign * t > sign * threshold]
    assert all(face.accepts(values[~same], t, measure).mean() > rate for t in laxer)
    assert curve.true_accept_at(rate) == face.accepts(values[same], threshold, measure).mean()
    assert 0 <= curve.eer <= 1


def test_equal_error_rates() -> None:
    same = np.array([True, True, False, False])
    assert face.roc([1.0, 2, 3, 4], same).eer == 0
    assert face.roc([3.0, 4, 1, 2], same).eer == 1
    assert face.roc([1.0, 3, 2, 4], same).eer == 0.5
    assert face.roc([1.0, 1, 1, 1], same).eer == 0.5
    ten = np.repeat([True, False], 10)
    values = np.concatenate([np.arange(10), np.arange(10) + 8.0])  # two of ten overlap
    assert face.roc(values, ten).eer == pytest.approx(0.1)
    assert face.roc(-values, ten, measure="cosine_similarity").eer == pytest.approx(0.1)


def test_roc_refuses() -> None:
    with pytest.raises(ShapeError, match="pairs of the same and of others"):
        face.roc([1.0, 2], [True, True])
    with pytest.raises(ShapeError, match="finite"):
        face.roc([1.0, math.nan], [True, False])
    with pytest.raises(DTypeError, match="bool"):
        face.roc([1.0, 2], [1, 0])
    with pytest.raises(ShapeError, match="false-accept rate"):
        face.roc([1.0, 2], [True, False]).threshold_at(2)
    with pytest.raises(ShapeError, match="label"):
        face.pairs_of(np.zeros((3, 2)), ["a", "b"])


# --- recognition ------------------------------------------------------------------------------------


@pytest.mark.parametrize("measure", MEASURES)
def test_one_picture_is_enough(measure: str, backend: str) -> None:
    who = face.Recognizer(encoder(), measure=measure, threshold=0.5)
    assert who.identify(RED).name is None  # nobody is enrolled
    before = {name: a.copy() for name, a in who.encoder.model.state_dict().items()}
    assert who.enrol("red", RED)
    assert who.enrol("green", GREEN)
    assert all(np.array_equal(a, before[name]) for name, a in who.encoder.model.state_dict().items())
    found = who.identify(PINK)
    assert found.name == "red"
    assert [c.name for c in found.candidates] == ["red", "green"]
    assert found.measure == measure
    assert who.identify(BLUE).name is None
    assert [c.name for c in who.identify(BLUE, topk=1).candidates] == ["red"]  # equally far: the first
    assert who.verify("red", PINK).same
    assert not who.verify("green", PINK).same
    assert who.compare(RED, PINK).same
    assert not who.compare(RED, GREEN).same
    same = who.compare(RED, RED)
    assert same.value == pytest.approx(0 if measure == "squared_distance" else 1, abs=1e-6)
    who.enrol("blue", BLUE)
    assert who.identify(BLUE).name == "blue"
    assert who.forget("blue") == 1
    assert who.identify(BLUE).name is None


def test_the_threshold_itself_is_the_same() -> None:
    who = face.Recognizer(encoder(), measure="squared_distance", threshold=0)
    assert who.compare(RED, RED).same
    assert not who.compare(RED, PINK).same
    d = who.compare(RED, PINK).value
    assert face.Recognizer(encoder(), threshold=d).compare(RED, PINK).same
    assert not face.Recognizer(encoder(), threshold=np.nextafter(d, 0)).compare(RED, PINK).same


def test_nothing_is_encoded_twice() -> None:
    who = face.Recognizer(encoder(), threshold=0.5)
    assert who.enrol("red", RED)
    calls = who.encoder.model.calls
    assert not who.enrol("red", RED)
    assert who.encoder.model.calls == calls
    assert len(who.gallery) == 1
    assert who.enrol("red", PINK)
    assert who.gallery.people == ["red"]
    with pytest.raises(DataError, match="enrolled as red"):
        who.enrol("crimson", RED)
    for name in ("", "two\nlines", "x" * 1001):
        with pytest.raises(DataError, match="name"):
            who.enrol(name, GREEN)


def test_encodings_do_not_depend_on_their_batch(rng: np.random.Generator) -> None:
    make = face.load_encoder("nn4_small2", cf.models.nn4_small2(seed=5).state_dict("torch"))
    pictures = list(rng.integers(0, 256, (3, 40, 30, 3), np.uint8))
    together = make(pictures)
    np.testing.assert_allclose(np.square(together).sum(1), 1, rtol=1e-6)
    for picture, row in zip(pictures, together, strict=True):
        np.testing.assert_allclose(make(picture)[0], row, rtol=0, atol=0 if NATIVE else 1e-6)


def test_means_of_shifted_pictures(rng: np.random.Generator) -> None:
    model = cf.models.character_encoder(seed=3).eval()
    plain = data.Preprocess((32, 32), None, mean=(1.0,), std=(0.3,))
    picture = rng.integers(0, 256, (32, 32), np.uint8)
    bordered = np.pad(picture, 2, mode="edge")
    nine = [bordered[i : i + 32, j : j + 32] for i in (4, 2, 0) for j in (4, 2, 0)]
    mean = face.Encoder(model, plain)(nine).mean(0)
    want = mean / np.linalg.norm(mean)
    np.testing.assert_allclose(face.Encoder(model, plain, shift=2)(picture)[0], want, atol=1e-6)


def test_calibration() -> None:
    rng = np.random.default_rng(1)
    kinds = np.repeat(np.eye(3)[:, None], 12, 1) * 200 + rng.integers(0, 120, (3, 12, 3))
    pictures = [colour(*map(int, rgb)) for rgb in kinds.reshape(-1, 3)]
    labels = [name for name in "abc" for _ in range(12)]
    for measure in MEASURES:
        who = face.Recognizer(encoder(), measure=measure)
        with pytest.raises(DataError, match="threshold"):
            who.compare(RED, RED)
        curve = who.calibrate(pictures, labels, false_accept_rate=0.05)
        assert (curve.same, curve.different) == (3 * 66, 3 * 144)
        values, same = face.pairs_of(who.encoder(pictures), labels, measure=measure)
        assert face.accepts(values[~same], who.threshold, measure).mean() <= 0.05
        assert face.accepts(values[same], who.threshold, measure).mean() == curve.true_accept_at(0.05)
        with pytest.raises(DataError, match="pairs of different things"):
            who.calibrate(pictures, labels, false_accept_rate=1e-4)
    with pytest.raises(DataError, match="got none"):
        who.calibrate([RED, GREEN, RED], ["a", "a", "b"], false_accept_rate=0)


def test_galleries_go_with_their_encoder(tmp_path: Path) -> None:
    path = tmp_path / "colours.safetensors"
    who = face.Recognizer(encoder(), threshold=0.25)
    who.enrol("Zoë", RED)
    who.enrol("bob", GREEN)
    who.save(path)
    again = face.Recognizer.load(path, encoder())
    assert (again.threshold, again.measure, again.gallery.people) == (
        0.25,
        "squared_distance",
        ["Zoë", "bob"],
    )
    assert again.identify(RED).name == "Zoë"
    assert not again.enrol("bob", GREEN)
    with pytest.raises(DataError, match="another one"):
        face.Recognizer.load(path, encoder(turned=True))
    with pytest.raises(DataError, match="measure"):
        face.Recognizer(encoder(), face.Gallery.load(path), measure="cosine_similarity")
    empty = face.Recognizer(encoder())
    empty.save(path)
    assert len(face.Gallery.load(path)) == 0


def test_a_gallery_is_replaced_as_a_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "g.safetensors"
    who = face.Recognizer(encoder(), threshold=0.5)
    who.enrol("red", RED)
    who.save(path)
    before = path.read_bytes()

    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    who.enrol("green", GREEN)
    with monkeypatch.context() as patch:
        patch.setattr("cnnfast.weights.atomic.os.fsync", full)
        with pytest.raises(OSError, match="space"):
            who.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["g.safetensors"]


def changed(**parts: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    return lambda note: note | parts


HOSTILE: dict[str, Callable[[dict[str, Any]], Any]] = {
    "version": changed(version=2),
    "list": lambda note: [note],
    "names": changed(names="ab"),
    "fewer names": changed(names=["a"]),
    "number for a name": changed(names=["a", 1]),
    "control character": changed(names=["a", "b\x1b[2J"]),
    "digests": changed(digests=["0" * 64, "../../etc/passwd"]),
    "encoder": changed(encoder="x"),
    "measure": changed(measure="taste"),
    "threshold": changed(threshold="1"),
    "threshold nan": changed(threshold=math.nan),
    "threshold inf": changed(threshold=math.inf),
    "truth": changed(threshold=True),
}


@pytest.fixture
def stored(tmp_path: Path) -> Path:
    who = face.Recognizer(encoder(), threshold=0.5)
    who.enrol("red", RED)
    who.enrol("green", GREEN)
    who.save(tmp_path / "g.safetensors")
    return tmp_path / "g.safetensors"


@pytest.mark.parametrize("what", HOSTILE)
def test_hostile_notes(stored: Path, what: str) -> None:
    tensors = cf.load_weights(stored)
    note = json.loads(cf.weights.read_metadata(stored)["cnnfast.face"])
    cf.save_weights(stored, tensors, metadata={"cnnfast.face": json.dumps(HOSTILE[what](note))})
    with pytest.raises(DataError, match="Gallery"):
        face.Gallery.load(stored)


def test_hostile_files(stored: Path) -> None:
    good, note = stored.read_bytes(), cf.weights.read_metadata(stored)
    for content in (b"", good[:40], good[:-1], good + b"x", b"\xff" * 64, b"PK\x03\x04" + good):
        stored.write_bytes(content)
        with pytest.raises(DataError, match="Gallery"):
            face.Gallery.load(stored)
    rows = np.eye(2, 3, dtype=np.float32)
    for tensors, text in (
        ({"encodings": rows * 2}, note),
        ({"encodings": rows * np.nan}, note),
        ({"encodings": rows[0]}, note),
        ({"encodings": rows.astype(np.float64)}, note),
        ({"encodings": rows, "more": rows}, note),
        ({"weights": rows}, note),
        ({"encodings": rows}, {}),
        ({"encodings": rows}, {"cnnfast.face": "[" * 100_000}),
        ({"encodings": rows}, {"cnnfast.face": "no json"}),
    ):
        cf.save_weights(stored, tensors, metadata=text)
        with pytest.raises(DataError, match="Gallery"):
            face.Gallery.load(stored)
    with pytest.raises(FileNotFoundError):
        face.Gallery.load(stored.parent / "none.safetensors")


# --- encoders ---------------------------------------------------------------------------------------


def test_encoders_from_files(tmp_path: Path, rng: np.random.Generator) -> None:
    model = cf.models.nn4_small2(seed=2).eval()
    pictures = list(rng.integers(0, 256, (2, 96, 96, 3), np.uint8))
    want = model(np.stack(pictures).astype(np.float32) / 255)
    cf.save_weights(tmp_path / "w.safetensors", model.state_dict("torch"))
    from_weights = face.load_encoder("nn4_small2", tmp_path / "w.safetensors")
    np.testing.assert_allclose(from_weights(pictures), want, rtol=0, atol=1e-5)
    small = cf.models.character_encoder(seed=4).eval()
    cf.onnx.save(small, tmp_path / "c.onnx", (1, 32, 32, 1))
    from_onnx = face.load_encoder(tmp_path / "c.onnx", mean=(1.0,), std=(0.3,))
    named = face.load_encoder("character_encoder", small.state_dict("torch"), mean=(1.0,), std=(0.3,))
    assert from_onnx.preprocess.input_size == (32, 32)
    np.testing.assert_allclose(from_onnx(pictures), named(pictures), rtol=0, atol=1e-5)
    assert from_onnx.fingerprint != from_weights.fingerprint
    Image.fromarray(pictures[0]).save(tmp_path / "p.png")
    assert np.array_equal(from_weights(tmp_path / "p.png"), from_weights(pictures[0]))


def test_facenet_encoder_gives_512_numbers_of_length_1() -> None:
    make = face.load_encoder(
        "inception_resnet_v1", cf.models.inception_resnet_v1(seed=1).state_dict("torch"), input_size=(80, 80)
    )
    assert make.preprocess.mean == (0.5, 0.5, 0.5)
    f = make(np.arange(80 * 80 * 3).astype(np.uint8).reshape(80, 80, 3))
    assert f.shape == (1, 512)
    assert np.square(f).sum() == pytest.approx(1, abs=1e-5)


def test_encoders_refuse(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="no weights of nn4_small2"):
        face.load_encoder("nn4_small2")
    with pytest.raises(ValueError, match="nn4_smal"):
        face.load_encoder("nn4_smal")
    with pytest.raises(FileNotFoundError):
        face.load_encoder(tmp_path / "none.onnx")
    for picture in (
        np.zeros((4, 4, 3), np.float32),
        np.zeros((0, 4, 3), np.uint8),
        np.zeros((4, 4, 2), np.uint8),
    ):
        with pytest.raises(PictureError, match="Encoder"):
            encoder()(picture)
    with pytest.raises(PictureError, match="at least one"):
        encoder()([])
    with pytest.raises(ShapeError, match="length"):
        encoder()(colour(0, 0, 0))  # the mean of black has no direction
    plain = data.Preprocess((4, 4), 4, mean=(0.0,) * 3, std=(1.0,) * 3)
    with pytest.raises(ShapeError, match="encodings"):
        face.Encoder(nn.Identity(), plain)(RED)
    with pytest.raises(CnnfastError):
        face.load_encoder(tmp_path / "none.onnx", "w.npz")


# --- faces ------------------------------------------------------------------------------------------


def test_similarity_transforms(rng: np.random.Generator) -> None:
    for mirrored in (False, True):
        for _ in range(20):
            source = rng.normal(size=(5, 2)) * 10 + 40
            angle, scale, shift = rng.uniform(-3, 3), rng.uniform(0.1, 4), rng.normal(size=2) * 30
            turn = np.array([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
            target = source * (1, -1 if mirrored else 1) @ (scale * turn).T + shift
            found = face.similarity_transform(source, target)
            linear = found[:, :2]
            assert np.linalg.det(linear) > 0 or np.linalg.norm(linear) < 1e-9  # never a mirror image
            np.testing.assert_allclose(linear @ linear.T, np.eye(2) * np.linalg.det(linear), atol=1e-9)
            if not mirrored:
                np.testing.assert_allclose(linear, scale * turn, rtol=1e-9, atol=1e-9)
                np.testing.assert_allclose(found[:, 2], shift, rtol=1e-9, atol=1e-8)


def test_similarity_transform_is_least_squares(rng: np.random.Generator) -> None:
    source, target = rng.normal(size=(2, 6, 2))
    # Linear in a, b, x, y: (a x - b y + tx, b x + a y + ty).
    rows = np.zeros((12, 4))
    rows[0::2] = np.stack([source[:, 0], -source[:, 1], np.ones(6), np.zeros(6)], 1)
    rows[1::2] = np.stack([source[:, 1], source[:, 0], np.zeros(6), np.ones(6)], 1)
    a, b, x, y = np.linalg.lstsq(rows, target.reshape(-1), rcond=None)[0]
    np.testing.assert_allclose(face.similarity_transform(source, target), [[a, -b, x], [b, a, y]], atol=1e-12)


def test_similarity_transform_refuses() -> None:
    good = np.arange(6.0).reshape(3, 2)
    for source, target in (
        (np.ones((3, 2)), good),
        (good, good[:2]),
        (good[:1], good[:1]),
        (good * np.nan, good),
    ):
        with pytest.raises(ShapeError, match="similarity_transform"):
            face.similarity_transform(source, target)


@pytest.mark.parametrize("size", [112, 80])
def test_aligned_landmarks_lie_where_they_should(size: int) -> None:
    for scale, degrees in ((1.0, 0), (0.7, 30), (3.4, -20)):
        turn = data.affine_matrix((0, 0), degrees=degrees, scale=scale)[:, :2]
        points = face.TEMPLATE * 112 @ turn.T + 150
        picture = np.zeros((700, 700, 3), np.uint8)
        x, y = points.round().astype(int).T
        for dx, dy in itertools.product(range(-3, 4), repeat=2):
            picture[y + dy, x + dx] = 255
        aligned = face.align(picture, points, size).astype(np.float64)[..., 0]
        assert aligned.shape == (size, size)
        for px, py in face.TEMPLATE * size:
            assert aligned[round(py - 0.5), round(px - 0.5)] > 100
    with pytest.raises(ShapeError, match="5,2"):
        face.align(picture, points[:4])


def test_yunet_finds_the_face_and_its_landmarks(assets: Path) -> None:
    known = np.load(assets / "expected/yunet_n.npz")
    want = face.decode_yunet(known, (320, 320))
    assert len(want) == 1
    # One place of the map, by hand: its stride is 16.
    score = np.sqrt(known["cls_16"] * known["obj_16"])[0, :, 0]
    place = int(score.argmax())
    row, column = divmod(place, 20)
    dx, dy, w, h = known["bbox_16"][0, place]
    cx, cy, w, h = (column + dx) * 16, (row + dy) * 16, math.exp(w) * 16, math.exp(h) * 16
    np.testing.assert_allclose(want.boxes[0], [cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2], rtol=1e-5)
    eyes = (known["kps_16"][0, place].reshape(5, 2) + np.array([column, row])) * 16
    np.testing.assert_allclose(want.landmarks[0], eyes, rtol=1e-5)
    assert want.scores[0] == pytest.approx(score[place])

    picture = np.ascontiguousarray(known["input"][0].transpose(1, 2, 0)[..., ::-1])  # RGB
    detector = face.YuNet(assets / "models/yunet_n_dynamic.onnx")
    for array in (picture, picture[:300, 20:310]):
        left = 20 if array.shape != picture.shape else 0
        found = detector(array)
        assert len(found) == 1
        np.testing.assert_allclose(
            found.boxes[0] + [left, 0, left, 0], want.boxes[0], atol=4 if left else 0.01
        )
    np.testing.assert_allclose(detector(picture).landmarks, want.landmarks, atol=0.01)
    larger = cf.ops.resize(picture[None].astype(np.float32), (960, 960))[0]
    tenth = (want.boxes[0, 2] - want.boxes[0, 0]) / 10  # the network sees another picture here
    np.testing.assert_allclose(detector(larger).landmarks / 3, want.landmarks, atol=tenth)
    detector.longest = 320
    np.testing.assert_allclose(detector(larger).landmarks / 3, want.landmarks, atol=1)

    made = encoder(detector=detector)
    assert made.seen(picture).shape == (112, 112, 3)
    again = detector(made.seen(picture))  # what is found in the aligned face lies where it was moved to
    matrix = face.similarity_transform(want.landmarks[0], face.TEMPLATE * 112)
    moved = want.landmarks[0] @ matrix[:, :2].T + matrix[:, 2]
    np.testing.assert_allclose(again.landmarks[0], moved, atol=112 / 20)
    assert made.fingerprint != encoder().fingerprint
    with pytest.raises(PictureError, match="found none"):
        made(np.zeros((64, 64, 3), np.uint8))


def test_yunet_refuses_other_networks(tmp_path: Path) -> None:
    cf.onnx.save(cf.models.character_encoder().eval(), tmp_path / "c.onnx", (1, 32, 32, 1))
    with pytest.raises(WeightsError, match="expected YuNet"):
        face.YuNet(tmp_path / "c.onnx")
    with pytest.raises(ShapeError, match="cls_8"):
        face.decode_yunet({}, (320, 320))
