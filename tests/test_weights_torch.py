"""Checkpoints of torch, good and hostile, made without torch; and real ones where torch is installed."""

from __future__ import annotations

import gc
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest

from cnnfast.errors import WeightsError
from cnnfast.weights import load_weights
from loading import refused
from torch_files import (
    ARRAYS,
    ORDERED,
    Call,
    Global,
    Persistent,
    Raw,
    assert_arrays,
    checkpoint,
    encode,
    legacy_checkpoint,
    storage,
    tensor,
    whole,
    zip_checkpoint,
)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
def test_state_dicts(tmp_path, legacy, key):
    def wrap(state):
        return (
            state
            if key is None
            else {"epoch": 3, "arch": "net", key: state, "best": 0.5, "opt": {"state": [1]}}
        )

    path = tmp_path / "w.pth"
    path.write_bytes(checkpoint(ARRAYS, legacy, wrap))
    assert_arrays(path, ARRAYS)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_ordered_dict_with_metadata_and_scalars(tmp_path, legacy):
    def wrap(state):
        items = {**state, "name": "net", "epoch": 3, "none": None, "lr": 0.1, "raw": Raw(b"C\3abc")}
        pairs = b"".join(encode(key) + encode(value) for key, value in items.items())
        metadata = {"_metadata": Call(ORDERED)}
        return Raw(encode(Call(ORDERED)) + b"(" + pairs + b"u" + encode(metadata) + b"b")

    path = tmp_path / "w.pt"
    path.write_bytes(checkpoint(ARRAYS, legacy, wrap))
    assert_arrays(path, ARRAYS)
    # Python 2 gave the pairs as an argument.
    path.write_bytes(checkpoint(ARRAYS, legacy, lambda s: Call(ORDERED, [list(pair) for pair in s.items()])))
    assert_arrays(path, ARRAYS)


def test_shared_and_partial_views(tmp_path):
    base = np.arange(20, dtype=np.float32)
    source = storage("FloatStorage", "0", 20, False)
    value = {
        "a": tensor(source, 0, (4, 5), (5, 1)),
        "b": tensor(source, 0, (5, 4), (1, 5)),
        "c": tensor(source, 3, (2, 3), (8, 2)),
        "d": tensor(source, 19, (), ()),
        "parameter": Call(
            Global("torch._utils", "_rebuild_parameter"), tensor(source, 1, (2,), (1,)), True, None
        ),
        "first version": Call(Global("torch._utils", "_rebuild_tensor"), source, 0, Raw(b"](K\2e"), (1,)),
        "overlapping": tensor(source, 0, (3, 4), (1, 1)),
    }
    path = tmp_path / "w.pt"
    path.write_bytes(zip_checkpoint(value, {"0": base.tobytes()}))
    expected = {
        "a": base.reshape(4, 5),
        "b": base.reshape(4, 5).T,
        "c": np.array([[3, 5, 7], [11, 13, 15]], np.float32),
        "d": np.array(19, np.float32),
        "parameter": base[1:3],
        "first version": base[:2],
        "overlapping": np.array([[0, 1, 2, 3], [1, 2, 3, 4], [2, 3, 4, 5]], np.float32),
    }
    assert_arrays(path, expected)
    got = load_weights(path)
    got["a"][:] = 0
    assert got["b"].any()


def test_big_endian(tmp_path):
    expected = {"f": np.arange(5, dtype=np.float32), "i": np.array([1, -2]), "u": np.array([3], np.uint8)}
    value = {name: whole(array, name, False) for name, array in expected.items()}
    raw = {name: array.astype(array.dtype.newbyteorder(">")).tobytes() for name, array in expected.items()}
    path = tmp_path / "w.pt"
    path.write_bytes(zip_checkpoint(value, raw, b"big"))
    assert_arrays(path, expected)
    refused(path, zip_checkpoint(value, raw, b"pdp"), "expected little or big, came b'pdp'")
    refused(path, zip_checkpoint(value, raw, b"x" * 1000), "expected little or big")
    little = {name: array.tobytes() for name, array in expected.items()}
    path.write_bytes(zip_checkpoint(value, little, None))
    assert_arrays(path, expected)


def test_bfloat16_and_untyped_storages(tmp_path):
    bits = np.array([0x3F80, 0xC000, 0x7F80], np.uint16)
    version3 = Global("torch._utils", "_rebuild_tensor_v3")
    untyped = Persistent(("storage", Global("torch.storage", "UntypedStorage"), "1", "cpu", 6))
    arguments = (0, (3,), (1,), False, Call(ORDERED))
    value = {
        "b": tensor(storage("BFloat16Storage", "0", 3, False), 0, (3,), (1,)),
        "u": Call(version3, untyped, *arguments, Global("torch", "uint16")),
    }
    path = tmp_path / "w.pt"
    path.write_bytes(zip_checkpoint(value, {"0": bits.tobytes(), "1": bits.tobytes()}))
    assert_arrays(path, {"b": np.array([1, -2, np.inf], np.float32), "u": bits})
    value["u"] = Call(version3, untyped, *arguments, Global("torch", "float8_e5m2"))
    refused(
        path,
        zip_checkpoint(value, {"0": b"", "1": b""}),
        "tensor 'u': expected an element type .* came float8",
    )
    value["u"] = Call(version3, untyped, *arguments, Global("torch", "float32"))
    refused(path, zip_checkpoint(value, {"0": b"", "1": b""}), "at most the 1 elements of its storage")


def test_legacy_storage_views(tmp_path):
    """Before 0.4 several storages could be views of one."""
    base = np.arange(10, dtype=np.float64)
    view = storage("DoubleStorage", "0", 10, True, ("1", 4, 5))
    path = tmp_path / "w.pt"
    path.write_bytes(legacy_checkpoint({"a": tensor(view, 1, (2, 2), (2, 1))}, {"0": (10, base.tobytes())}))
    assert_arrays(path, {"a": np.array([[5.0, 6.0], [7.0, 8.0]])})
    past = {"a": tensor(view, 2, (4,), (1,))}
    refused(path, legacy_checkpoint(past, {"0": (10, base.tobytes())}), "inside the 5 elements|came 6")
    for bad in [("1", 6, 5), ("1", -1, 5), ("1", 0, -5), ("1", 0), ("1", "0", 5), ("1", 1 << 62, 1 << 62)]:
        value = {"a": tensor(storage("DoubleStorage", "0", 10, True, bad), 0, (1,), (1,))}
        refused(path, legacy_checkpoint(value, {"0": (10, base.tobytes())}), "view")


def test_deflated_checkpoint(tmp_path):
    path = tmp_path / "w.pt"
    ones = np.ones(10_000, np.float32)
    value = {"a": whole(ones, "0", False)}
    path.write_bytes(zip_checkpoint(value, {"0": ones.tobytes()}, method=zipfile.ZIP_DEFLATED))
    assert path.stat().st_size < 2000
    assert_arrays(path, {"a": ones})


def test_protocol_4(tmp_path):
    path = tmp_path / "w.pt"
    plain = pickle.dumps(
        {"epoch": 3, "names": ["a", ("b", 2.5, None, True, 1 << 70)], "set": frozenset({1}), "b": b""}, 4
    )
    refused(path, zip_checkpoint(plain, {}), "came 4 entries: 'epoch', 'names', 'set', 'b'")


# The real thing, where it is installed


@pytest.fixture(scope="module")
def torch():
    return pytest.importorskip("torch")


@pytest.mark.parametrize("options", [{}, {"pickle_protocol": 4}], ids=["protocol 2", "protocol 4"])
@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_files_of_torch(tmp_path, torch, new, options):
    base = torch.arange(100.0)
    kinds = ["uint8", "int8", "int16", "int32", "int64", "float16", "float32", "float64", "bfloat16", "bool"]
    state = {kind: torch.arange(3).to(getattr(torch, kind)) for kind in kinds}
    state.update(
        transposed=base.reshape(10, 10).T,
        part=base[3:9:2],
        empty=torch.zeros(0, 4),
        scalar=torch.tensor(3),
        parameter=torch.nn.Parameter(base[:5]),
        channels_last=torch.arange(120.0).reshape(2, 3, 4, 5).contiguous(memory_format=torch.channels_last),
    )
    value = {
        "epoch": 3,
        "state_dict": state,
        "scalars": [2.5, None, True, 1 << 40, "text", b"bytes\xff", (1, 2), {1, 2}],
        "objects": [torch.float32, torch.device("cuda", 1), torch.Size([1, 2])],
        "complex": torch.zeros(2, dtype=torch.complex64),
    }
    path = tmp_path / "w.pt"
    torch.save(value, path, _use_new_zipfile_serialization=new, **options)
    expected = {name: tensor.detach() for name, tensor in state.items()}
    expected["bfloat16"] = expected["bfloat16"].float()
    assert_arrays(path, {name: tensor.numpy() for name, tensor in expected.items()})


@pytest.mark.parametrize("new", [True, False], ids=["zip", "legacy"])
def test_modules_and_optimizers_of_torch(tmp_path, torch, new):
    module = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    optimizer = torch.optim.Adam(module.parameters())
    module(torch.ones(1, 3, 4, 4)).sum().backward()
    optimizer.step()
    scheduler = torch.optim.lr_scheduler.MultiStepLR(optimizer, [1, 2])
    value = {"model": module.state_dict(), "opt": optimizer.state_dict(), "schedule": scheduler.state_dict()}
    path = tmp_path / "w.pt"
    torch.save(value, path, _use_new_zipfile_serialization=new)
    assert_arrays(path, {name: tensor.numpy() for name, tensor in module.state_dict().items()})
    torch.save(module, path, _use_new_zipfile_serialization=new)
    refused(path, path.read_bytes(), "came the global 'torch.nn.modules.container' 'Sequential'")


def test_own_zip_files_are_read_by_torch(tmp_path, torch):
    """The generator above writes what torch reads, so what these tests load is the real format."""
    for legacy in (False, True):
        path = tmp_path / "w.pt"
        path.write_bytes(checkpoint(ARRAYS, legacy))
        loaded = torch.load(path, weights_only=True)
        assert list(loaded) == list(ARRAYS)
        for name, array in ARRAYS.items():
            assert np.array_equal(loaded[name].numpy(), array), name


def test_memory_is_given_back(tmp_path):
    path = tmp_path / "w.pt"
    path.write_bytes(checkpoint(ARRAYS, False))
    bad = tmp_path / "bad.pt"
    bad.write_bytes(checkpoint(ARRAYS, False)[:-100])

    def rounds(count: int) -> int:
        for _ in range(count):
            load_weights(path)
            with pytest.raises(WeightsError):
                load_weights(bad)
        gc.collect()
        return tracemalloc.get_traced_memory()[0]

    tracemalloc.start()
    try:
        before = rounds(20)
        assert rounds(100) - before < 20_000
    finally:
        tracemalloc.stop()
