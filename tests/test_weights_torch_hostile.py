"""Hostile checkpoints: code in pickles, lying structures, bombs, truncations and flipped bytes."""

from __future__ import annotations

import os
import pickle
import re
import subprocess
import sys
import textwrap
import time
import zipfile

import numpy as np
import pytest

from cnnfast.weights import load_weights
from loading import refused, right_or_refused
from processes import SANITIZED
from torch_files import (
    ARRAYS,
    MAGIC,
    ORDERED,
    REBUILD,
    Call,
    Global,
    Persistent,
    Raw,
    checkpoint,
    dumps,
    encode,
    legacy_checkpoint,
    storage,
    tensor,
    whole,
    zip_checkpoint,
)


def nothing_to_call(module: str, name: str, *arguments: object) -> object:
    return Call(Global(module, name), *arguments)


TOUCH = "touch executed"
FLOATS = storage("FloatStorage", "0", 4, False)
GOOD = tensor(FLOATS, 0, (4,), (1,))
RAW = {"0": bytes(16)}
LIMIT = 10_000  # bytes of arrays, more than any file here holds

# Every value becomes the data.pkl of a checkpoint whose storage 0 holds four floats.
VALUES: dict[str, tuple[object, str]] = {
    "os.system": (
        nothing_to_call("os", "system", TOUCH),
        "came the global 'os' 'system'; nothing was executed",
    ),
    "posix.system": (nothing_to_call("posix", "system", TOUCH), "'posix' 'system'"),
    "eval": (nothing_to_call("builtins", "eval", "open('executed','w')"), "'builtins' 'eval'"),
    "eval, Python 2": (
        nothing_to_call("__builtin__", "eval", "open('executed','w')"),
        "'__builtin__' 'eval'",
    ),
    "getattr": (nothing_to_call("builtins", "getattr", ORDERED, "fromkeys"), "'getattr'"),
    "attribute chain": (
        nothing_to_call("torch", "serialization.os.system", TOUCH),
        "'serialization.os.system'",
    ),
    "module with dots": (
        nothing_to_call("torch.serialization.os", "system", TOUCH),
        "'torch.serialization.os'",
    ),
    "dunder": (nothing_to_call("collections", "OrderedDict.__init__.__globals__"), "__globals__"),
    "load inside": (nothing_to_call("torch.storage", "_load_from_bytes", Raw(b"C\1x")), "_load_from_bytes"),
    "torch.load": (nothing_to_call("torch", "load", "other.pt"), "'torch' 'load'"),
    "hub": (nothing_to_call("torch.hub", "load", "x"), "'torch.hub'"),
    "numpy": (nothing_to_call("numpy.core.multiarray", "_reconstruct"), "'numpy.core.multiarray'"),
    "in a dictionary": ({"a": GOOD, "b": Global("os", "system")}, "'os' 'system'"),
    "stack global": (Raw(b"\x8c\2os\x8c\6system\x93."), "'os' 'system'"),
    "stack global of numbers": (Raw(b"K\1K\2\x93."), "came the global 1 2"),
    "endless global": (Raw(b"c" + b"a" * 10_000), "no end of line"),
    "inst": (Raw(b"(" + encode(TOUCH) + b"ios\nsystem\n."), "opcode .* came b'i'"),
    "obj": (Raw(b"(" + ORDERED.code + b"o."), "opcode .* came b'o'"),
    "newobj": (Raw(ORDERED.code + b")\x81."), "opcode"),
    "newobj_ex": (Raw(ORDERED.code + b")}\x92."), "opcode"),
    "extension": (Raw(b"\x82\1."), "opcode"),
    "text persistent id": (Raw(b"Pstorage\n."), "opcode .* came b'P'"),
    "long4 of 2 GB": (Raw(b"\x8b\xff\xff\xff\x7f."), "opcode"),
    "bytearray of 8 EB": (Raw(b"\x96" + b"\xff" * 8), "opcode"),
    "text of 16 EB": (Raw(b"\x8d" + b"\xff" * 8), "cut off"),
    "bytes of 16 EB": (Raw(b"\x8e" + b"\xff" * 8), "cut off"),
    "text of 4 GB": (Raw(b"X\xff\xff\xff\xff"), "cut off"),
    "bad text": (Raw(b"X\1\0\0\0\xff."), "UTF-8"),
    "call of a type": (Call(Global("torch", "FloatStorage"), 10), "call of a known constructor"),
    "call of a tensor": (Call(GOOD, 1), "call of a known constructor"),
    "call of text": (Call("os.system", TOUCH), "call of a known constructor"),
    "call with a list": (Raw(ORDERED.code + b"]R."), "call of a known constructor"),
    "OrderedDict of numbers": (Call(ORDERED, [1, 2]), "pairs"),
    "OrderedDict of text": (Call(ORDERED, "ab"), "pairs"),
    "OrderedDict twice": (Call(ORDERED, [], []), "pairs"),
    "state of a global": (Raw(ORDERED.code + encode({"__reduce__": 1}) + b"b."), "dictionary to change"),
    "state of a tensor": (Raw(encode(GOOD) + encode({"shape": 1}) + b"b."), "dictionary to change"),
    "append to a tuple": (Raw(b")K\1a."), "a list to change"),
    "append to a dictionary": (Raw(b"}K\1a."), "a list to change"),
    "item of a list": (Raw(b"]K\1K\2s."), "a dictionary to change"),
    "key alone": (Raw(b"}(K\1u."), "key alone"),
    "key twice": (Raw(b"}(K\1K\1K\1K\1u."), "each key once"),
    "list as key": (Raw(b"}(]K\1u."), "as key"),
    "tuple as key": (Raw(b"})K\1s."), "as key"),
    "long as key": ({1 << 100: 1}, "as key"),
    "float as key": ({1.5: 1}, "as key"),
    "empty stack": (Raw(b"."), "on the stack"),
    "no mark": (Raw(b"t."), "a mark"),
    "pop below the mark": (Raw(b"K\1(\x85."), "on the stack"),
    "leftovers": (Raw(b"K\1K\2."), "leftovers"),
    "open mark": (Raw(b"(K\2."), "leftovers"),
    "memo not set": (Raw(b"h\5."), "memo index"),
    "memo of nothing": (Raw(b"q\5."), "memo index"),
    "memo index of 2**32 - 1": (Raw(b"Nr\xff\xff\xff\xff."), "memo index"),
    "protocol 9": (b"\x80\x09N.", "protocol"),
    "no end": (b"\x80\x02N", "cut off"),
    "empty pickle": (b"", "cut off"),
    "list inside itself": (Raw(b"]q\0h\0a."), "dictionary of tensors"),
    "dictionary inside itself": (Raw(b"}q\0X\1\0\0\0ah\0s."), "came 1 entries: 'a'"),
    "state dict inside itself": (Raw(b"}q\0" + encode("state_dict") + b"h\0s."), "came 1 entries"),
    "no tensors": ({"epoch": 3}, "came 1 entries: 'epoch'"),
    "tensor alone": (GOOD, "dictionary of tensors"),
    "text alone": ("text", "came 'text'"),
    "list of tensors": ([GOOD], "dictionary of tensors"),
    "nested": ({"a": GOOD, "b": {"c": GOOD}}, "came 2 entries: 'a', 'b'"),
    "number as name": ({1: GOOD}, "names of tensors as text"),
    "control characters": ({"\x1b[2J": 1}, r"\\x1b"),
    "long names": ({"n" * 100_000: 1}, r"\(100000 long\)"),
    "long number": (Raw(b"\x8a\xff" + b"\x7f" * 255 + b"."), "an integer of 2039 bits"),
    # Tensors that do not fit their storage
    "too large": (tensor(FLOATS, 0, (5,), (1,)), "at most the 4 elements"),
    "offset too large": (tensor(FLOATS, 1, (4,), (1,)), "inside the 4 elements of its storage, came 5"),
    "stride too large": (tensor(FLOATS, 0, (2,), (4,)), "came 5"),
    "huge stride": (tensor(FLOATS, 0, (2,), (1 << 61,)), "inside the 4 elements"),
    "overflowing stride": (tensor(FLOATS, 0, (2, 2), ((1 << 62) - 1,) * 2), "inside the 4 elements"),
    "stride of 2**64": (tensor(FLOATS, 0, (2,), (1 << 64,)), "2\\*\\*62"),
    "stride 0 to 2**40": (tensor(FLOATS, 0, (1 << 40,), (0,)), "at most the 4 elements"),
    "stride 0 to 2**90": (tensor(FLOATS, 0, (1 << 45, 1 << 45), (0, 0)), "2\\*\\*62"),
    "negative size": (tensor(FLOATS, 0, (-1,), (1,)), "dimensions from 0"),
    "two negative sizes": (tensor(FLOATS, 0, (-2, -2), (1, 1)), "dimensions from 0"),
    "negative stride": (tensor(FLOATS, 3, (4,), (-1,)), "dimensions from 0"),
    "negative offset": (tensor(FLOATS, -1, (4,), (1,)), "offset of 0 or more"),
    "offset of 2**200": (tensor(FLOATS, 1 << 200, (1,), (1,)), "inside the 4 elements|came"),
    "float size": (tensor(FLOATS, 0, (4.0,), (1,)), "dimensions from 0"),
    "bool size": (tensor(FLOATS, 0, (True,), (1,)), "dimensions from 0"),
    "text as size": (tensor(FLOATS, 0, "4", (1,)), "dimensions"),
    "dictionary as size": (tensor(FLOATS, 0, {}, (1,)), "dimensions"),
    "nested size": (tensor(FLOATS, 0, ((4,),), (1,)), "dimensions from 0"),
    "strides missing": (tensor(FLOATS, 0, (2, 2), (1,)), "expected 2 strides, came 1"),
    "33 dimensions": (tensor(FLOATS, 0, (1,) * 33, (1,) * 33), "at most 32 dimensions"),
    "empty and huge": (tensor(FLOATS, 0, (0, 1 << 61, 8), (1, 1, 1)), "2\\*\\*62"),
    "few arguments": (Call(REBUILD, FLOATS, 0), "4, 6 or 7 arguments"),
    "no storage": (tensor(3, 0, (1,), (1,)), "expected a storage"),
    "global as storage": (tensor(Global("torch", "FloatStorage"), 0, (1,), (1,)), "expected a storage"),
    "conjugate": (Call(REBUILD, FLOATS, 0, (1,), (1,), False, None, {"conj": True}), "conjugate"),
    "parameter of nothing": (
        Call(Global("torch._utils", "_rebuild_parameter"), 1, 2, 3),
        "data of a parameter",
    ),
    # Storages
    "not a storage": ({"a": Persistent(("file", "/etc/passwd"))}, "id of a storage"),
    "text id": ({"a": Persistent("storage")}, "id of a storage"),
    "short id": ({"a": Persistent(("storage",))}, "id of a storage"),
    "module": ({"a": Persistent(("module", 1, "f.py", "source"))}, "state_dict\\(\\)"),
    "unknown storage type": ({"a": storage("FooStorage", "0", 4, False)}, "'FooStorage'"),
    "number as key": (
        {"a": tensor(storage("FloatStorage", 0, 4, False), 0, (4,), (1,))},
        "a storage type and a key",
    ),
    "negative count": (
        {"a": tensor(storage("FloatStorage", "0", -4, False), 0, (4,), (1,))},
        "number of elements",
    ),
    "count of 2**60": (
        {"a": tensor(storage("FloatStorage", "0", 1 << 60, False), 0, (4,), (1,))},
        "number of elements",
    ),
    "lying count": (
        {"a": tensor(storage("FloatStorage", "0", 5, False), 0, (5,), (1,))},
        "expected 20 bytes, came 16",
    ),
    "lying count of 2**50": (
        {"a": tensor(storage("FloatStorage", "0", 1 << 50, False), 0, (1 << 50,), (1,))},
        "of arrays from",
    ),
    "large storage, small tensor": (
        {"a": tensor(storage("FloatStorage", "0", 1 << 50, False), 0, (1,), (1,))},
        "expected 4503599627370496 bytes, came 16",
    ),
    "two sizes": (
        {"a": GOOD, "b": tensor(storage("FloatStorage", "0", 2, False), 0, (2,), (1,))},
        "different type or size",
    ),
    "two types": (
        {"a": GOOD, "b": tensor(storage("IntStorage", "0", 4, False), 0, (2,), (1,))},
        "different type or size",
    ),
    "path as key": (
        {"a": tensor(storage("FloatStorage", "../../../../etc/passwd", 4, False), 0, (4,), (1,))},
        "expected a zip entry of that name",
    ),
    "missing storage": (
        {"a": tensor(storage("FloatStorage", "9", 4, False), 0, (4,), (1,))},
        "expected a zip entry of that name",
    ),
    "complex": (
        {"a": tensor(storage("ComplexFloatStorage", "0", 2, False), 0, (2,), (1,))},
        "tensor 'a': expected an element type .* came complex64",
    ),
    "quantised": ({"a": tensor(storage("QInt8Storage", "0", 16, False), 0, (2,), (1,))}, "came qint8"),
    "bool of 2": ({"a": tensor(storage("BoolStorage", "2", 1, False), 0, (1,), (1,))}, "bool bytes"),
}


@pytest.mark.parametrize("case", VALUES)
def test_hostile_values(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    value, message = VALUES[case]
    refused(tmp_path / "w.pt", zip_checkpoint(value, {**RAW, "2": b"\2"}), message)
    assert os.listdir(tmp_path) == ["w.pt"]


@pytest.mark.parametrize("case", VALUES)
def test_hostile_values_in_legacy_files(tmp_path, monkeypatch, case):
    """The same machine reads these; storages are refused here for the form of their id already."""
    monkeypatch.chdir(tmp_path)
    content = legacy_checkpoint(VALUES[case][0], {"0": (4, bytes(16))})
    refused(tmp_path / "w.pt", content, "expected")
    assert os.listdir(tmp_path) == ["w.pt"]


def test_code_in_every_pickle_of_a_legacy_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    evil = dumps(Call(Global("os", "system"), TOUCH))
    parts = [dumps(MAGIC), dumps(1001), dumps({}), dumps({}), dumps([])]
    (tmp_path / "good.pt").write_bytes(b"".join(parts))
    assert load_weights(tmp_path / "good.pt") == {}
    for i in range(len(parts)):
        content = b"".join([*parts[:i], evil, *parts[i + 1 :]])
        refused(tmp_path / "w.pt", content, "came the global 'os' 'system'")
    assert sorted(os.listdir(tmp_path)) == ["good.pt", "w.pt"]


def legacy_cases() -> dict[str, tuple[bytes, str]]:
    good = {"a": whole(np.ones(4, np.float32), "0", True)}
    raw = np.ones(4, np.float32).tobytes()
    two = {**good, "b": whole(np.ones(1, np.float32), "1", True)}
    return {
        "other pickle": (pickle.dumps({"a": 1}), "expected a checkpoint of torch, came a pickle of a dict"),
        "other number": (dumps(12), "came a pickle of 12"),
        "protocol": (legacy_checkpoint(good, {"0": (4, raw)}, protocol=1), "expected 1001, came 1"),
        "count lies": (legacy_checkpoint(good, {"0": (5, raw)}), "expected 16 bytes, came 5 elements"),
        "negative count": (legacy_checkpoint(good, {"0": (-4, raw)}), "came -4 elements"),
        "count of 2**62": (legacy_checkpoint(good, {"0": (1 << 62, raw)}), "elements of float32"),
        "data cut off": (legacy_checkpoint(good, {"0": (4, raw[:-1])}), "expected an end by byte"),
        "data too long": (legacy_checkpoint(good, {"0": (4, raw + b"x")}), "came 1 more bytes"),
        "no keys": (legacy_checkpoint(good, {}), "expected the 1 of the checkpoint, came 0"),
        "other key": (legacy_checkpoint(good, {"1": (4, raw)}), "storage keys"),
        "key twice": (legacy_checkpoint(good, {"0": (4, raw)}, ["0", "0"]), "storage keys"),
        "number as key": (legacy_checkpoint(good, {"0": (4, raw)}, [0]), "a list of text"),
        "text as keys": (legacy_checkpoint(good, {"0": (4, raw)}, "0"), "a list of text"),
        "storage missing": (legacy_checkpoint(two, {"0": (4, raw)}, ["0", "1"]), "came the end of the file"),
        "lies in both": (
            legacy_checkpoint(
                {"a": tensor(storage("FloatStorage", "0", 1 << 40, True), 0, (1 << 40,), (1,))},
                {"0": (1 << 40, raw)},
            ),
            "expected an end by byte",
        ),
        "persistent id in the magic": (dumps(Persistent(("storage",))), "expected no persistent id"),
    }


@pytest.mark.parametrize("case", legacy_cases())
def test_legacy_structure(tmp_path, case):
    content, message = legacy_cases()[case]
    refused(tmp_path / "w.pth", content, message)


def zip_cases() -> dict[str, tuple[bytes, str]]:
    value = {"a": GOOD}
    return {
        "TorchScript": (zip_checkpoint(value, RAW, **{"constants.pkl": b"x"}), "TorchScript"),
        "code": (zip_checkpoint(value, RAW, **{"code/__torch__.py": b"x"}), "TorchScript"),
        "two archives": (
            zip_checkpoint(value, RAW, **{"../other/data.pkl": b"x"}),
            "one NAME/data.pkl, came 2",
        ),
        "no root": (zip_checkpoint(value, RAW, root=""), "one NAME/data.pkl, came 0"),
        "deep root": (zip_checkpoint(value, RAW, root="a/b/"), "one NAME/data.pkl, came 0"),
        "no pickle": (
            zip_checkpoint(value, RAW).replace(b"/data.pkl", b"/data.pkk"),
            "expected torch .* came npz",
        ),
        "storage too long": (zip_checkpoint(value, {"0": bytes(17)}), "expected 16 bytes, came 17"),
        "storage too short": (zip_checkpoint(value, {"0": bytes(15)}), "expected 16 bytes, came 15"),
        "outside": (zip_checkpoint(value, {"../data/0": bytes(16)}), "expected a zip entry of that name"),
        "checksum": (
            zip_checkpoint(value, {"0": b"damage--" * 2}).replace(b"damage", b"d4mage", 1),
            "intact data",
        ),
    }


@pytest.mark.parametrize("case", zip_cases())
def test_zip_structure(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, message = zip_cases()[case]
    refused(tmp_path / "w.pt", content, message)
    assert os.listdir(tmp_path) == ["w.pt"]


# Files that ask for much memory or time run in a process of their own, where both can be seen.

JUDGE = """
    import re, resource, sys, time
    from cnnfast.errors import WeightsError
    from cnnfast.weights import load_weights
    resource.setrlimit(resource.RLIMIT_AS, (3 << 30, 3 << 30))
    start = time.process_time()
    try:
        print("loaded", len(load_weights(sys.argv[1])))
    except WeightsError as error:
        print("refused", error)
    # Not getrusage: a child begins with the peak of the process that started it.
    peak = re.search(r"VmHWM:\\s+(\\d+) kB", open("/proc/self/status").read())
    print(peak[1], time.process_time() - start)
"""


def judged(path, content: bytes) -> str:
    """Load in a new process, hold it to the promise on memory and time, and return what it said."""
    if SANITIZED:
        pytest.skip("sanitizers reserve the address space that this test limits")
    path.write_bytes(content)
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    command = [sys.executable, "-c", textwrap.dedent(JUDGE), str(path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr
    said, numbers = done.stdout.strip().rsplit("\n", 1)
    kilobytes, seconds = numbers.split()
    assert int(kilobytes) < 1.5 * (1 << 20), said
    assert float(seconds) < 60, said
    return said


# Ways to make little of a file much in memory or time.
BOMBS = {
    "laughs in tuples": (Raw(b")" + b"q\0h\0\x86" * 100_000), "a dictionary of tensors, came a tuple"),
    "deep lists": (Raw(b"(" * 1_000_000), "cut off|stack|leftovers"),
    "deep tuples": (Raw(b")" + b"\x85" * 1_900_000), "a dictionary of tensors, came a tuple"),
    "deep dictionaries": (Raw(b"}" + b"}" * 1_900_000 + b"K\1K\1s"), "leftovers|stack"),
    "many lists": (Raw(b"(" + b"]" * 3_000_000 + b"t"), "at most 2000000 steps"),
    "many marks": (Raw(b"(" * 3_000_000), "at most 2000000 steps"),
    "many memos": (Raw(b"N" + b"\x94" * 3_000_000), "at most 2000000 steps"),
    "copies of pairs": (
        Raw(
            ORDERED.code
            + b"q\0]("
            + b"".join(encode((i, i)) for i in range(100_000))
            + b"e\x85q\1R("
            + b"h\0h\1R" * 100_000
            + b"t"
        ),
        "at most 2000000 steps",
    ),
    "copies of bytes": (
        Raw(
            b"c_codecs\nencode\nq\0"
            + encode("x" * 1_000_000)
            + encode("latin1")
            + b"\x86q\1R("
            + b"h\0h\1R" * 100_000
            + b"t"
        ),
        "at most 2000000 steps",
    ),
    "copies of a tensor": (
        Raw(
            REBUILD.code
            + b"q\0"
            + encode((FLOATS, 0, (1,) * 32, (1,) * 32, False, None))
            + b"q\1R("
            + b"h\0h\1R" * 600_000
            + b"t"
        ),
        "at most 2000000 steps",
    ),
    "colliding keys": ({i << 40: 0 for i in range(400_000)}, "came 400000 entries"),
    "wide characters": ({"\U0001f600" * 15_000_000: 0}, "came 1 entries"),
}


SLOW_BOMBS = ("deep dictionaries", "many lists", "many memos", "colliding keys", "copies of pairs")


@pytest.mark.parametrize(
    "case", [pytest.param(case, marks=[pytest.mark.slow] if case in SLOW_BOMBS else []) for case in BOMBS]
)
def test_bombs_in_pickles(tmp_path, case):
    value, message = BOMBS[case]
    said = judged(tmp_path / "w.pt", zip_checkpoint(value, RAW))
    assert said.startswith("refused")
    assert re.search(message, said), said


def test_pickle_too_large(tmp_path):
    content = zip_checkpoint(b"\x80\2" + b"N" * (65 << 20), {}, method=zipfile.ZIP_DEFLATED)
    assert "expected at most 67108864 bytes" in judged(tmp_path / "w.pt", content)


def test_many_names_for_one_storage(tmp_path):
    """Each array has its own memory, so a thousand names for one storage are a thousand times its size."""
    source = storage("ByteStorage", "0", 10_000_000, False)
    value = {str(i): tensor(source, 0, (10_000_000,), (1,)) for i in range(1000)}
    said = judged(tmp_path / "w.pt", zip_checkpoint(value, {"0": bytes(10_000_000)}))
    assert "of arrays from" in said
    value = {str(i): value[str(i)] for i in range(50)}
    said = judged(tmp_path / "w.pt", zip_checkpoint(value, {"0": bytes(10_000_000)}))
    assert said == "loaded 50"


@pytest.mark.slow
def test_deflated_storages(tmp_path):
    """Just below the limit on expansion: the promise on memory holds."""
    count = 500 << 20
    value = {"a": tensor(storage("ByteStorage", "0", count, False), 0, (count,), (1,))}
    content = zip_checkpoint(value, {"0": bytes(count)}, method=zipfile.ZIP_DEFLATED)
    assert judged(tmp_path / "w.pt", content) == "loaded 1"


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_truncations(tmp_path, legacy):
    """No prefix of a file is a file."""
    content = checkpoint(ARRAYS, legacy, lambda state: {"epoch": 3, "state_dict": state})
    for length in range(0, len(content), 5):
        assert not right_or_refused(tmp_path / "w.pt", content[:length], LIMIT), length
    assert right_or_refused(tmp_path / "w.pt", content, LIMIT)


@pytest.mark.parametrize("legacy", [False, True], ids=["zip", "legacy"])
def test_byte_flips(tmp_path, legacy):
    content = checkpoint(ARRAYS, legacy, lambda state: {"epoch": 3, "state_dict": state})
    random = np.random.default_rng(20)
    loaded = 0
    for _ in range(800):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), random.integers(1, 4)):
            damaged[at] ^= int(random.integers(1, 256))
        loaded += right_or_refused(tmp_path / "w.pt", bytes(damaged), LIMIT)
    assert loaded < 700


def test_flips_in_the_pickle_alone(tmp_path):
    """With a right checksum, so that the damage gets to the machine."""
    good = dumps({"epoch": 3, "a": GOOD, "b": tensor(FLOATS, 2, (2,), (1,))})
    random = np.random.default_rng(21)
    loaded = 0
    for _ in range(1500):
        damaged = bytearray(good)
        for at in random.integers(0, len(good), random.integers(1, 3)):
            damaged[at] = int(random.integers(0, 256))
        loaded += right_or_refused(tmp_path / "w.pt", zip_checkpoint(bytes(damaged), RAW), LIMIT)
    assert loaded < 1400


@pytest.mark.slow
def test_fuzz(tmp_path):
    """A minute of random opcodes; the seed is printed when something else than WeightsError comes."""
    seed = int(time.time())
    print("seed", seed)
    random = np.random.default_rng(seed)
    codes = [bytes([code]) for code in b"N\x88\x89K\1)}](tueas\x85\x86\x87Rb0Qq\0h\0q\1h\1."]
    codes += [
        encode(part) for part in (GOOD, FLOATS, REBUILD, ORDERED, "a", "state_dict", 1 << 70, (1, 2), {})
    ]
    end = time.monotonic() + 60
    while time.monotonic() < end:
        picks = random.integers(0, len(codes), random.integers(1, 30))
        right_or_refused(
            tmp_path / "w.pt",
            zip_checkpoint(b"\x80\2" + b"".join(codes[i] for i in picks) + b".", RAW),
            LIMIT,
        )
