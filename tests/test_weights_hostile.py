"""Corrupt and hostile safetensors and npz files, and files that are neither."""

from __future__ import annotations

import io
import json
import os
import socket
import struct
import zipfile

import numpy as np
import pytest
from numpy.lib import format as npy

from cnnfast.errors import WeightsError
from cnnfast.weights import limits, load_weights, save_weights
from loading import refused, right_or_refused

WEIGHTS = {
    "conv.weight": np.arange(54, dtype=np.float32).reshape(3, 3, 2, 3),
    "conv.bias": np.array([True, False]),
    "steps": np.array(7),
}
LIMIT = 2 * sum(array.nbytes for array in WEIGHTS.values())


def safetensors_file(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def tensor(dtype: str, shape: list, begin: int, end: int) -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [begin, end]}


# A message that carries any of these is good enough: the library's words differ between its versions.
SAFETENSORS = {
    "nothing": (b"", "came a file of 0 bytes"),
    "short": (b"1234567", "came a file of 7 bytes"),
    "length 2**63": (struct.pack("<Q", 1 << 63) + b"{}", f"came {1 << 63}"),
    "length 2**64 - 1": (b"\xff" * 8 + b"{}", "at most 100000000 bytes"),
    "length over the file": (struct.pack("<Q", 1000) + b"{}", "expected 1000 bytes, came 2"),
    "not JSON": (safetensors_file(b"{nonsense}"), "expected JSON"),
    "not UTF-8": (safetensors_file(b'{"\xff":1}'), "expected JSON"),
    "a list": (safetensors_file(b"[1]     "), "expected a JSON object"),
    "deep nesting": (safetensors_file(b'{"a":' * 200_000), "safetensors header"),
    "deep lists": (safetensors_file(b'{"a":' + b"[" * 1_000_000), "safetensors header"),
    "many objects": (safetensors_file(b'{"a":' + b"{" * 100_003), "at most 100000 tensors"),
    "many commas": (safetensors_file(b'{"a":[' + b"0," * 2_000_001), "at most 100000 tensors"),
    "big number": (safetensors_file(b'{"a":' + b"9" * 10_000 + b"}"), "safetensors header"),
    "no offsets": (safetensors_file({"a": {"dtype": "F32", "shape": [1]}}, b"1234"), "header"),
    "overlap": (
        safetensors_file({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 1, 3)}, b"123"),
        "header",
    ),
    "same bytes": (
        safetensors_file({"a": tensor("U8", [2], 0, 2), "b": tensor("U8", [2], 0, 2)}, b"12"),
        "header",
    ),
    "hole": (
        safetensors_file({"a": tensor("U8", [1], 0, 1), "b": tensor("U8", [1], 2, 3)}, b"123"),
        "header",
    ),
    "starts late": (safetensors_file({"a": tensor("U8", [1], 1, 2)}, b"12"), "header"),
    "data cut off": (safetensors_file({"a": tensor("U8", [4], 0, 4)}, b"123"), "header"),
    "data too long": (safetensors_file({"a": tensor("U8", [1], 0, 1)}, b"123"), "header"),
    "backwards": (safetensors_file({"a": tensor("U8", [1], 1, 0)}, b"1"), "header"),
    "negative": (safetensors_file({"a": tensor("U8", [-1], 0, 1)}, b"1"), "header"),
    "shape lies": (safetensors_file({"a": tensor("F32", [2], 0, 4)}, b"1234"), "header"),
    "shape overflows": (safetensors_file({"a": tensor("U8", [1 << 40, 1 << 40], 0, 0)}), "header"),
    "empty and huge": (safetensors_file({"a": tensor("U8", [0, 1 << 63], 0, 0)}), "tensor 'a'"),
    "empty and 2**80": (
        safetensors_file({"a": tensor("U8", [0, 1 << 40, 1 << 40], 0, 0)}),
        "2\\*\\*62|header",
    ),
    "100 dimensions": (safetensors_file({"a": tensor("U8", [1] * 100, 0, 1)}, b"1"), "at most 32 dimensions"),
    "float8": (safetensors_file({"a": tensor("F8_E4M3", [1], 0, 1)}, b"1"), "came F8_E4M3|header"),
    "complex": (safetensors_file({"a": tensor("C64", [1], 0, 8)}, b"12345678"), "came C64|header"),
    "unknown type": (safetensors_file({"a": tensor("X9", [1], 0, 1)}, b"1"), "header"),
    "bool of 2": (
        safetensors_file({"a": tensor("BOOL", [1], 0, 1)}, b"\2"),
        "expected bool bytes 0 or 1, came 2",
    ),
    "name twice": (
        safetensors_file(b'{"a":%s,"a":%s}' % ((json.dumps(tensor("U8", [1], 0, 1)).encode(),) * 2), b"1"),
        "stands there twice",
    ),
    "control characters": (safetensors_file({"\x1b[2J": tensor("BOOL", [1], 0, 1)}, b"\2"), r"\\x1b"),
    "control characters in the library's words": (
        safetensors_file({"\x1b[2J": tensor("U8", [2], 1, 2)}, b"\2"),
        "header",
    ),
    "long name": (safetensors_file({"n" * 100_000: tensor("BOOL", [1], 0, 1)}, b"\2"), r"\(100000 long\)"),
}


@pytest.mark.parametrize("case", SAFETENSORS)
def test_safetensors(tmp_path, case):
    content, message = SAFETENSORS[case]
    refused(tmp_path / "w.safetensors", content, message)


def npy_file(array: np.ndarray) -> bytes:
    stream = io.BytesIO()
    npy.write_array(stream, array)
    return stream.getvalue()


def npy_header(text: str, version: bytes = b"\1\0") -> bytes:
    form = "<H" if version == b"\1\0" else "<I"
    return b"\x93NUMPY" + version + struct.pack(form, len(text)) + text.encode("latin1")


def zip_file(entries: list[tuple[str, bytes]], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, content in entries:
            archive.writestr(zipfile.ZipInfo(name), content, method)
    return stream.getvalue()


def described(descr: str, shape: str = "(1,)", data: bytes = b"12345678") -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}"
    return zip_file([("a.npy", npy_header(header) + data)])


ONE = npy_file(np.ones(1))


def patched(content: bytes, old: bytes, new: bytes) -> bytes:
    assert old in content
    return content.replace(old, new)


def with_flag(content: bytes, flag: int) -> bytes:
    at = content.rindex(b"PK\1\2") + 8
    return content[:at] + struct.pack("<H", flag) + content[at + 2 :]


def with_central(content: bytes, offset: int, form: str, value: int) -> bytes:
    """Overwrite a field of the (only) directory entry."""
    at = content.rindex(b"PK\1\2") + offset
    return content[:at] + struct.pack(form, value) + content[at + struct.calcsize(form) :]


def with_symlink() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        info = zipfile.ZipInfo("a.npy")
        info.external_attr = 0o120777 << 16
        archive.writestr(info, "/etc/passwd")
    return stream.getvalue()


def overlapping() -> bytes:
    """Two directory entries for the same bytes."""
    content = zip_file([("a.npy", ONE), ("b.npy", ONE)])
    second = content.rindex(b"PK\1\2")
    return content[: second + 42] + struct.pack("<I", 0) + content[second + 46 :]


class Evil:
    def __reduce__(self):
        return os.system, ("touch executed",)


def object_array() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, a=np.array([Evil()], dtype=object))
    return stream.getvalue()


def npz_cases() -> dict[str, tuple[bytes, str]]:
    one = zip_file([("a.npy", ONE)])
    size = len(ONE)
    return {
        "objects": (object_array(), "pickled Python objects, which are never loaded"),
        "structured": (described("[('x', '<f4'), ('y', '<f4')]"), "expected an element type"),
        "subarray": (described("'(1000000000,)f4'"), "expected an element type|npy header"),
        "text": (described("'<U2'"), "expected an element type"),
        "huge text": (described("'<U100000000'"), "expected an element type"),
        "dates": (described("'<M8[s]'"), "expected an element type"),
        "complex": (described("'<c8'"), "came complex64|came 'complex64'"),
        "void": (described("'|V8'"), "expected an element type"),
        "unknown": (described("'xyz'"), "npy header"),
        "negative": (described("'<f8'", "(-1,)"), "expected dimensions from 0"),
        "too large": (described("'<f8'", "(2305843009213693952,)"), "below 2\\*\\*62"),
        "empty but huge": (described("'<f8'", "(0, 4611686018427387903)", b""), "below 2\\*\\*62"),
        "shape lies": (described("'<f8'", "(1099511627776,)"), "expected 8796093022208 bytes .* came 8"),
        "33 dimensions": (described("'<f8'", "(" + "1," * 33 + ")"), "at most 32 dimensions"),
        "bool as dimension": (described("'<f8'", "(True,)"), "npy header|dimensions"),
        "data too long": (described("'<f8'", "(1,)", b"x" * 9), "expected 8 bytes"),
        "bool of 2": (described("'|b1'", "(1,)", b"\2"), "bool bytes"),
        "python code": (described("__import__('os').system('touch executed')"), "npy header"),
        "deep header": (described("(" * 3000), "npy header"),
        "minus signs": (described("-" * 9000 + "1"), "npy header"),
        "long header": (zip_file([("a.npy", npy_header(" " * 60_000))]), "npy header"),
        "header of 4 GB": (zip_file([("a.npy", b"\x93NUMPY\2\0" + b"\xff" * 4)]), "npy header"),
        "version 9": (zip_file([("a.npy", npy_header("{}", b"\x09\0"))]), "npy header"),
        "not npy": (zip_file([("a.npy", b"hello")]), "npy header"),
        "empty entry": (zip_file([("a.npy", b"")]), "npy header"),
        "other entry": (zip_file([("a.txt", b"x")]), "ends in .npy"),
        "link": (with_symlink(), "symbolic link"),
        "overlap": (overlapping(), "overlap"),
        "encrypted": (with_flag(one, 1), "encrypted"),
        "method": (with_central(one, 10, "<H", 14), "method 14"),
        "stored size lies": (
            with_central(one, 24, "<I", 1 << 30),
            f"expected {1 << 30} stored bytes, came {size}",
        ),
        "both sizes lie": (
            with_central(with_central(one, 24, "<I", 1 << 30), 20, "<I", 1 << 30),
            "expected to end before the directory",
        ),
        "ratio lies": (
            with_central(zip_file([("a.npy", ONE)], zipfile.ZIP_DEFLATED), 24, "<I", 1 << 31),
            "deflated ones",
        ),
        "offset lies": (with_central(one, 42, "<I", 1 << 20), "zip"),
        "checksum": (patched(one, np.ones(1).tobytes(), np.zeros(1).tobytes()), "intact data"),
        "local name": (one.replace(b"a.npy", b"b.npy", 1), "intact data"),
        "NUL in name": (zip_file([("a.npy?.npy", ONE)]).replace(b"?", b"\0"), "plain name|valid"),
        "comment": (one[:-2] + b"\5\0" + b"hello", "end record"),
        "junk before": (one[:4] + b"junk" + one, "expected to end at byte"),
        "junk behind": (one + b"junk", "end record"),
        "directory size lies": (one[:-10] + struct.pack("<I", 1 << 31) + one[-6:], "at most 16777216 bytes"),
        "data.pkl beside": (zip_file([("a.npy", ONE), ("x/data.pkl", b"")]), "expected npz .* came torch"),
    }


@pytest.mark.parametrize("case", npz_cases())
def test_npz(tmp_path, monkeypatch, case):
    monkeypatch.chdir(tmp_path)
    content, message = npz_cases()[case]
    refused(tmp_path / "w.npz", content, message)
    assert os.listdir(tmp_path) == ["w.npz"]


def test_duplicate_entries(tmp_path):
    with pytest.warns(UserWarning, match="Duplicate name"):
        content = zip_file([("a.npy", ONE), ("a.npy", ONE)])
    refused(tmp_path / "w.npz", content, "expected one entry of that name")


def test_names_are_only_names(tmp_path, monkeypatch):
    """A path in the archive is a key like any other; no file is touched."""
    (tmp_path / "inside").mkdir()
    monkeypatch.chdir(tmp_path / "inside")
    entries = ["../escaped", "/tmp/cnnfast-escaped", "C:\\x", ".."]
    (tmp_path / "w.npz").write_bytes(zip_file([(name + ".npy", ONE) for name in entries]))
    assert list(load_weights(tmp_path / "w.npz")) == entries
    assert sorted(os.listdir(tmp_path)) == ["inside", "w.npz"]
    assert os.listdir(tmp_path / "inside") == []
    assert not os.path.exists("/tmp/cnnfast-escaped")


def test_zip_bombs(tmp_path):
    """A megabyte of deflated zeros unfolds to a gigabyte: seen in the directory, before any of it is read."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("a.npy", "w") as entry:
        entry.write(npy_header("{'descr': '|u1', 'fortran_order': False, 'shape': (1073741824,), }"))
        zeros = bytes(1 << 20)
        for _ in range(limits.EXPANSION_ALLOWANCE // len(zeros) + 8):
            entry.write(zeros)
    refused(tmp_path / "w.npz", stream.getvalue(), "expected at most .* bytes of arrays")
    # The same with a directory that claims less: reading stops at the claim.
    content = with_central(stream.getvalue(), 24, "<I", 1000)
    refused(tmp_path / "w.npz", content, "intact data|expected 1073741824 bytes|expected 1000 bytes|npy")


def test_many_entries(tmp_path, monkeypatch):
    monkeypatch.setattr("cnnfast.weights.npz.MAX_TENSORS", 3)
    monkeypatch.setattr("cnnfast.weights.archive.MAX_ZIP_DIRECTORY_BYTES", 1000)
    refused(tmp_path / "w.npz", zip_file([(f"{i}.npy", ONE) for i in range(4)]), "at most 3 arrays")
    refused(tmp_path / "w.npz", zip_file([(f"{i}.npy", ONE) for i in range(40)]), "at most 1000 bytes")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("w.npz", b"", "an empty file"),
        ("w", b"hello", "b'hello'"),
        ("w.pth", b"\0" * 257 + b"ustar" + b"\0" * 300, "a tar archive"),
        ("w.npy", npy_file(np.ones(3)), "a single npy array"),
        ("w.h5", b"\x89HDF\r\n\x1a\n", "HDF5"),
        ("w.gz", b"\x1f\x8b\x08", "gzip"),
        ("w.npz", safetensors_file({}), "expected npz .* came safetensors"),
        ("w.pt", zip_file([]), "expected torch .* came npz"),
        ("w", b"PK\3\4", "zip directory"),
    ],
)
def test_other_files(tmp_path, name, content, message):
    refused(tmp_path / name, content, message)


def test_pipes_and_sockets_do_not_block(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.npz")
    refused(tmp_path / "pipe.npz", None, "regular file")
    with pytest.raises(WeightsError, match="regular file"):
        save_weights(tmp_path / "pipe.npz", {})
    refused("/dev/zero", None, "regular file")
    monkeypatch.chdir(tmp_path)  # the names of sockets have to be short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind("socket.npz")
        refused(tmp_path / "socket.npz", None, "regular file")


def test_huge_sparse_file(tmp_path):
    path = tmp_path / "w.safetensors"
    with open(path, "wb") as file:
        file.write(safetensors_file({"a": tensor("U8", [1 << 40], 0, 1 << 40)}))
        try:
            file.truncate((1 << 40) + 100)
        except OSError:
            pytest.skip("the file system has no such large files")
    refused(path, None, "expected at most 17179869184 bytes")


@pytest.mark.parametrize("extension", [".safetensors", ".npz"])
def test_truncations(tmp_path, extension):
    """No prefix of a file is a file."""
    save_weights(tmp_path / ("w" + extension), WEIGHTS)
    content = (tmp_path / ("w" + extension)).read_bytes()
    path = tmp_path / ("cut" + extension)
    for length in range(len(content)):
        assert not right_or_refused(path, content[:length], LIMIT), length


@pytest.mark.parametrize("extension", [".safetensors", ".npz"])
def test_byte_flips(tmp_path, extension):
    save_weights(tmp_path / ("w" + extension), WEIGHTS)
    content = (tmp_path / ("w" + extension)).read_bytes()
    random = np.random.default_rng(20)
    loaded = 0
    for _ in range(600):
        damaged = bytearray(content)
        for at in random.integers(0, len(content), random.integers(1, 4)):
            damaged[at] ^= int(random.integers(1, 256))
        loaded += right_or_refused(tmp_path / ("cut" + extension), bytes(damaged), LIMIT)
    # A flip in the numbers themselves shows in npz only, which has checksums.
    assert loaded < 500
