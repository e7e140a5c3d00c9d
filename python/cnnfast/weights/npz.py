"""The npz format: a zip file with one npy file per array. Pickled objects are refused."""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Mapping
from typing import BinaryIO

import numpy as np
from numpy.lib import format as npy

from cnnfast.errors import WeightsError
from cnnfast.weights.archive import open_entry, read_entry
from cnnfast.weights.elements import ELEMENTS, Element, element_count, own_array, result_dtype, stored_dtype
from cnnfast.weights.limits import MAX_NPY_HEADER_BYTES, MAX_TENSORS, shown
from cnnfast.weights.stored import Ready, Stored


def stored(archive: zipfile.ZipFile, entries: Mapping[str, zipfile.ZipInfo]) -> dict[str, Stored | Ready]:
    """Every array of an opened npz file."""
    if len(entries) > MAX_TENSORS:
        raise WeightsError(f"zip directory: expected at most {MAX_TENSORS} arrays, came {len(entries)}")
    arrays: dict[str, Stored | Ready] = {}
    for entry, info in entries.items():
        name = entry.removesuffix(".npy")
        if name == entry:
            raise WeightsError(f"zip entry {shown(entry)}: expected a name that ends in .npy, came another")
        arrays[name] = _array(f"array {shown(name)}", archive, info)
    return arrays


def _array(place: str, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> Stored | Ready:
    with open_entry(archive, info) as stream:
        beginning = io.BytesIO(stream.read(MAX_NPY_HEADER_BYTES + 12))
    try:
        with warnings.catch_warnings():
            # Headers written by Python 2 and odd type codes warn; the checks below judge the outcome.
            warnings.simplefilter("ignore")
            version = npy.read_magic(beginning)
            if version == (1, 0):
                header = npy.read_array_header_1_0(beginning, max_header_size=MAX_NPY_HEADER_BYTES)
            elif version == (2, 0):
                header = npy.read_array_header_2_0(beginning, max_header_size=MAX_NPY_HEADER_BYTES)
            else:
                raise ValueError(f"npy version {version}")
    except Exception as error:
        # The header is parsed as Python source: SyntaxError, RecursionError, MemoryError and more can come,
        # and all of them mean the same for these few bytes.
        raise WeightsError(f"{place}: expected an npy header, came: {shown(str(error))}") from None
    shape, fortran_order, dtype = header
    if dtype.hasobject:
        raise WeightsError(f"{place}: expected numbers, came pickled Python objects, which are never loaded")
    element = ELEMENTS.get(dtype.name) if dtype.fields is None and dtype.subdtype is None else None
    element = element or Element(shown(str(dtype)), max(dtype.itemsize, 1), None)
    result_dtype(place, element)
    expected = element_count(place, shape, element.itemsize) * element.itemsize
    start = beginning.tell()
    if info.file_size - start != expected:
        raise WeightsError(
            f"{place}: expected {expected} bytes for shape {shape}, came {info.file_size - start}"
        )
    byteorder = ">" if dtype.byteorder == ">" else "<"
    if fortran_order and len(shape) > 1:
        data = read_entry(archive, info)[start:].view(stored_dtype(element, byteorder))
        return Ready(own_array(place, data.reshape(shape[::-1]).T, element))
    return Stored(place, shape, element, byteorder, lambda: open_entry(archive, info, start))


def write(file: BinaryIO, arrays: Mapping[str, np.ndarray]) -> None:
    """Write ``arrays`` uncompressed, as ``numpy.savez`` does."""
    for name in arrays:
        if "\0" in name or len(name.encode("utf-8")) > 60_000:
            raise WeightsError(f"array {shown(name)}: expected a name fit for a zip entry, came another")
    with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            with archive.open(zipfile.ZipInfo(name + ".npy"), "w", force_zip64=True) as entry:
                npy.write_array(entry, array, allow_pickle=False)
