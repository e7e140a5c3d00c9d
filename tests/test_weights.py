"""Reading and writing weights: round trips, real files, and what an interrupted save leaves behind."""

from __future__ import annotations

import errno
import itertools
import json
import os
import signal
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from cnnfast.errors import WeightsError
from cnnfast.weights import load_weights, save_weights
from cnnfast.weights.atomic import replace_file

FORMATS = (".safetensors", ".npz")
SINGLE_THREADED = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
DTYPES = ("bool", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8")


def assert_same(got: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Names, order, shapes, types and bits; and what load_weights promises about memory."""
    assert list(got) == list(expected)
    for name, array in got.items():
        wanted = np.asarray(expected[name])
        assert array.shape == wanted.shape, name
        assert array.dtype == wanted.dtype.newbyteorder("="), name
        assert array.dtype.isnative
        assert array.tobytes() == wanted.astype(array.dtype).tobytes(), name
        assert array.flags.c_contiguous
        assert array.flags.writeable
        assert array.flags.aligned
    arrays = list(got.values())
    assert not any(np.shares_memory(a, b) for a, b in itertools.pairwise(arrays))


names = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=20).filter(
    lambda name: name != "__metadata__"
)
arrays = hnp.arrays(
    st.sampled_from([order + kind for kind in DTYPES[1:] for order in "<>"] + ["bool"]).map(np.dtype),
    hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=5),
)


@pytest.mark.parametrize("extension", FORMATS)
@settings(max_examples=60, deadline=None)
@given(weights=st.dictionaries(names, arrays, max_size=5))
def test_round_trip(tmp_path_factory, extension, weights):
    path = tmp_path_factory.mktemp("round") / ("w" + extension)
    save_weights(path, weights)
    assert_same(load_weights(path), weights)


@pytest.mark.parametrize("extension", FORMATS)
def test_layouts_are_stored_by_value(tmp_path, extension):
    base = np.arange(120, dtype=np.float32).reshape(2, 3, 4, 5)
    weights = {
        "transposed": base.transpose(3, 1, 0, 2),
        "fortran": np.asfortranarray(base),
        "strided": base[:, ::2, 1:, ::-1],
        "swapped": base.astype(">f4"),
        "broadcast": np.broadcast_to(np.float32(2), (3, 4)),
        "scalar": np.float64(2.5),
        "list": [1.0, 2.0],
        "empty": np.zeros((0, 3), np.int64),
        "nan": np.array([0x7FC00123, 0xFF800000, 0x00000001], np.uint32).view(np.float32),
    }
    path = tmp_path / ("w" + extension)
    save_weights(path, weights)
    got = load_weights(str(path))
    assert_same(got, {name: np.asarray(value) for name, value in weights.items()})
    assert got["nan"].view(np.uint32)[0] == 0x7FC00123


def test_files_are_readable_by_their_own_libraries(tmp_path):
    weights = {
        "a": np.arange(6, dtype=np.float32).reshape(2, 3),
        "b": np.array(3),
        "c": np.ones(3, np.float16),
    }
    save_weights(tmp_path / "w.npz", weights)
    with np.load(tmp_path / "w.npz", allow_pickle=False) as loaded:
        assert_same(dict(loaded), weights)
    save_weights(tmp_path / "w.safetensors", weights)
    numpy_side = pytest.importorskip("safetensors.numpy")
    loaded = numpy_side.load_file(tmp_path / "w.safetensors")
    assert_same({name: loaded[name] for name in weights}, weights)


def test_files_of_the_other_libraries_are_readable(tmp_path):
    weights = {
        "a.b": np.arange(6, dtype=np.float32).reshape(2, 3).T,
        "file": np.array(True),
        "ü/x": np.ones(3, ">f2"),
    }
    with open(tmp_path / "w.npz", "wb") as file:
        np.savez_compressed(file, **{name: value for name, value in weights.items() if name != "file"})
    del weights["file"]
    assert_same(load_weights(tmp_path / "w.npz"), weights)
    numpy_side = pytest.importorskip("safetensors.numpy")
    weights = {"x": np.arange(5), "y": np.eye(3, dtype=np.float32)}
    numpy_side.save_file(weights, tmp_path / "w.safetensors", metadata={"format": "np"})
    assert_same(load_weights(tmp_path / "w.safetensors"), weights)


def test_safetensors_data_is_aligned(tmp_path):
    path = tmp_path / "w.safetensors"
    save_weights(path, {"a": np.ones(3, np.int8), "b": np.ones(2, np.float64), "c": np.ones(1, np.float16)})
    content = path.read_bytes()
    length = int.from_bytes(content[:8], "little")
    assert length % 8 == 0
    header = json.loads(content[8 : 8 + length])
    assert list(header) == ["a", "b", "c"]
    assert header["b"]["data_offsets"] == [0, 16]
    assert header["c"]["data_offsets"] == [16, 18]


def test_bfloat16_is_widened_exactly(tmp_path):
    bits = np.arange(65536, dtype=np.uint16)
    header = json.dumps({"w": {"dtype": "BF16", "shape": [256, 256], "data_offsets": [0, 131072]}}).encode()
    path = tmp_path / "w.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + bits.astype("<u2").tobytes())
    got = load_weights(path)["w"]
    assert got.dtype == np.float32
    assert np.array_equal(got.view(np.uint32).ravel(), bits.astype(np.uint32) << 16)


def test_saving_twice_gives_the_same_bytes(tmp_path):
    weights = {"b": np.ones(3), "a": np.ones(3, np.float32)}
    for extension in FORMATS:
        save_weights(tmp_path / ("1" + extension), weights)
        save_weights(tmp_path / ("2" + extension), weights)
        assert (tmp_path / ("1" + extension)).read_bytes() == (tmp_path / ("2" + extension)).read_bytes()


@pytest.mark.parametrize(
    ("name", "weights", "message"),
    [
        ("w.pth", {}, r"extension: expected .safetensors or .npz"),
        ("w", {}, "extension"),
        ("w.npz", [1], "expected a dictionary"),
        ("w.npz", {1: np.ones(2)}, "names as text"),
        ("w.npz", {"a": np.ones(2, complex)}, "tensor 'a': expected an element type"),
        ("w.npz", {"a": np.array([None])}, "object"),
        ("w.npz", {"a": "text"}, "element type"),
        ("w.npz", {"a": [[1], [1, 2]]}, "tensor 'a'"),
        ("w.safetensors", {"a": np.ones(2, np.longdouble)}, "element type"),
        ("w.npz", {"a\0b": np.ones(2)}, "name"),
        ("w.npz", {"a" * 70000: np.ones(2)}, "name"),
        ("w.npz", {"\ud800": np.ones(2)}, "UTF-8"),
        ("w.safetensors", {"__metadata__": np.ones(2)}, "reserve"),
    ],
)
def test_what_cannot_be_saved(tmp_path, name, weights, message):
    with pytest.raises(WeightsError, match=message) as caught:
        save_weights(tmp_path / name, weights)
    assert str(caught.value).startswith(f"save_weights: {tmp_path / name}: ")
    assert list(tmp_path.iterdir()) == []


def test_operating_system_errors_pass(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_weights(tmp_path / "none.npz")
    with pytest.raises(IsADirectoryError):
        load_weights(tmp_path)
    with pytest.raises(FileNotFoundError, match="missing"):
        save_weights(tmp_path / "missing" / "w.npz", {})
    (tmp_path / "d.npz").mkdir()
    with pytest.raises(IsADirectoryError):
        save_weights(tmp_path / "d.npz", {})
    if os.geteuid():
        (tmp_path / "r.npz").touch(mode=0o444)
        with pytest.raises(PermissionError):
            save_weights(tmp_path / "r.npz", {})
    assert not list(tmp_path.glob(".cnnfast*"))


def test_extension_and_content_must_agree(tmp_path):
    save_weights(tmp_path / "w.npz", {"a": np.ones(2)})
    os.rename(tmp_path / "w.npz", tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match="expected safetensors after the extension of the file, came npz"):
        load_weights(tmp_path / "w.safetensors")
    os.rename(tmp_path / "w.safetensors", tmp_path / "w.anything")
    assert list(load_weights(tmp_path / "w.anything")) == ["a"]


def test_permissions_and_links(tmp_path):
    path = tmp_path / "w.npz"
    old = os.umask(0o027)
    try:
        save_weights(path, {})
        assert stat.S_IMODE(path.stat().st_mode) == 0o640
    finally:
        os.umask(old)
    path.chmod(0o600)
    link = tmp_path / "link.npz"
    link.symlink_to(path)
    save_weights(link, {"a": np.ones(1)})
    assert link.is_symlink()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(load_weights(path)) == ["a"]


@pytest.mark.parametrize("extension", FORMATS)
@pytest.mark.parametrize("failure", [OSError(errno.ENOSPC, "No space left on device"), KeyboardInterrupt()])
def test_failure_while_saving_keeps_the_old_file(tmp_path, monkeypatch, extension, failure):
    path = tmp_path / ("w" + extension)
    save_weights(path, {"old": np.ones(3)})
    before = path.read_bytes()

    def fail(*_):
        raise failure

    for name in ("fsync", "replace"):
        with monkeypatch.context() as patched:
            patched.setattr(os, name, fail)
            with pytest.raises(type(failure)):
                save_weights(path, {"new": np.ones(3)})
        assert path.read_bytes() == before
        assert os.listdir(tmp_path) == [path.name]


def run_python(code: str, *arguments: object, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-c", textwrap.dedent(code), *map(str, arguments)]
    return subprocess.run(
        command, env=SINGLE_THREADED, capture_output=True, text=True, timeout=120, **options
    )


@pytest.mark.skipif(sys.platform == "win32", reason="needs signals")
def test_what_a_killed_process_left_is_removed_when_it_is_old(tmp_path):
    path = tmp_path / "w.npz"
    code = """
        import os, signal, sys
        from cnnfast.weights.atomic import replace_file
        with replace_file(sys.argv[1]) as file:
            file.write(b"half")
            os.kill(os.getpid(), signal.SIGKILL)
    """
    assert run_python(code, path).returncode == -9
    (left,) = tmp_path.iterdir()
    assert left.name.startswith(".cnnfast-")
    save_weights(path, {})
    assert left.exists()  # it might be somebody's who is about to go on
    long_ago = left.stat().st_mtime - 4000
    for name in (".cnnfast-0123.tmp", ".cnnfast-0123456789abcdeg.tmp", "cnnfast-0123456789abcdef.tmp"):
        (tmp_path / name).touch()
        os.utime(tmp_path / name, (long_ago, long_ago))
    link, folder = (tmp_path / f".cnnfast-{digit * 16}.tmp" for digit in "ab")
    link.symlink_to(path)
    os.utime(link, (long_ago, long_ago), follow_symlinks=False)
    folder.mkdir()
    os.utime(folder, (long_ago, long_ago))
    others = set(tmp_path.iterdir()) - {left}
    os.utime(left, (long_ago, long_ago))
    save_weights(path, {})
    assert set(tmp_path.iterdir()) == others


@pytest.mark.skipif(sys.platform == "win32", reason="files in use cannot be removed there")
def test_what_somebody_writes_to_stays_however_old(tmp_path):
    path = tmp_path / "w.npz"
    with replace_file(str(tmp_path / "slow.npz")) as file:
        file.write(b"a")
        file.flush()
        (temporary,) = tmp_path.iterdir()
        os.utime(temporary, (0, 0))
        save_weights(path, {})
        assert temporary.exists()
    assert (tmp_path / "slow.npz").read_bytes() == b"a"
    assert len(list(tmp_path.iterdir())) == 2


@pytest.mark.skipif(sys.platform == "win32", reason="needs resource limits")
@pytest.mark.parametrize("extension", FORMATS)
def test_full_disk(tmp_path, extension):
    """A limit on the size of files stands for a disk that fills up in the middle of the data."""
    path = tmp_path / ("w" + extension)
    save_weights(path, {"old": np.ones(3)})
    before = path.read_bytes()
    code = """
        import resource, signal, sys
        import numpy as np
        from cnnfast.weights import save_weights
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
        try:
            save_weights(sys.argv[1], {f"new{i}": np.ones(10_000) for i in range(5)})
        except OSError as error:
            print("OSError", error.errno)
    """
    done = run_python(code, path)
    assert done.stdout.split() == ["OSError", str(errno.EFBIG)], done.stderr
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def killed_saves(tmp_path: Path, extension: str, kills: int) -> None:
    """Kill a process that saves without pause; the file has to be whole after every kill."""
    path = tmp_path / ("w" + extension)
    code = """
        import itertools, sys
        import numpy as np
        from cnnfast.weights import save_weights
        print("ready", flush=True)
        for i in itertools.count():
            save_weights(sys.argv[1], {"n": np.array(i), **{f"x{k}": np.full(20_000, i) for k in range(10)}})
    """
    random = np.random.default_rng(7)
    command = [sys.executable, "-c", textwrap.dedent(code), str(path)]
    seen = set()
    for _ in range(kills):
        with subprocess.Popen(
            command, env={**os.environ, "OPENBLAS_NUM_THREADS": "1"}, stdout=subprocess.PIPE
        ) as child:
            assert child.stdout is not None
            assert child.stdout.readline().strip() == b"ready"
            deadline = time.monotonic() + 30
            while not path.exists() and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(random.uniform(0, 0.05))
            child.send_signal(signal.SIGKILL)
        weights = load_weights(path)
        assert len(weights) == 11
        assert all(np.all(weights[f"x{k}"] == weights["n"]) for k in range(10))
        seen.add(int(weights["n"]))
    assert len(seen) > 1


@pytest.mark.skipif(sys.platform == "win32", reason="needs kill -9")
@pytest.mark.parametrize("extension", FORMATS)
def test_kill_while_saving(tmp_path, extension):
    killed_saves(tmp_path, extension, 10)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs kill -9")
@pytest.mark.parametrize("extension", FORMATS)
def test_kill_while_saving_many_times(tmp_path, extension):
    killed_saves(tmp_path, extension, 500)


def test_only_numpy_is_imported():
    code = """
        import sys
        import cnnfast.weights
        print([name for name in ("torch", "safetensors", "PIL") if name in sys.modules])
    """
    done = run_python(code)
    assert done.stdout.strip() == "[]", done.stderr


# Real files


def asset(folder: Path, name: str) -> Path:
    path = folder / "models" / name
    if not path.exists():
        pytest.skip(f"no {name} among the test data")
    return path


REAL = {
    "mobilenet_v2-b0353104.pth": (314, "features.0.0.weight", (32, 3, 3, 3), "classifier.1.bias", (1000,)),
    "cifar_resnet20-12fca82f.th": (97, "module.conv1.weight", (16, 3, 3, 3), "module.linear.bias", (10,)),
    "lenet5_mnist.pth": (10, "convnet.c1.weight", (6, 1, 5, 5), "fc.f7.bias", (10,)),
    "vgg16_features.safetensors": (26, None, None, None, None),
}


@pytest.mark.parametrize("name", REAL)
def test_real_files(assets, name):
    count, first, first_shape, last, last_shape = REAL[name]
    weights = load_weights(asset(assets, name))
    assert len(weights) == count
    if first is not None:
        assert next(iter(weights)) == first
        assert list(weights)[-1] == last
        assert weights[first].shape == first_shape
        assert weights[last].shape == last_shape
    else:
        assert sum(w.size for w in weights.values()) == 14_714_688
        assert {w.ndim for w in weights.values()} == {1, 4}
    for value in weights.values():
        assert value.flags.c_contiguous
        assert value.flags.writeable
        assert np.isfinite(value).all()


@pytest.mark.parametrize("name", [name for name in REAL if not name.endswith(".safetensors")])
def test_real_files_as_torch_reads_them(assets, name):
    path = asset(assets, name)
    torch = pytest.importorskip("torch")
    expected = torch.load(path, weights_only=True, map_location="cpu")
    expected = expected.get("state_dict", expected)
    assert_same(load_weights(path), {name: tensor.numpy() for name, tensor in expected.items()})


def test_real_safetensors_as_the_library_reads_them(assets):
    path = asset(assets, "vgg16_features.safetensors")
    numpy_side = pytest.importorskip("safetensors.numpy")
    expected = numpy_side.load_file(path)
    weights = load_weights(path)
    assert_same(weights, {name: expected[name] for name in weights})
