"""XML without what makes it dangerous: no document types, so no entities, and bounded depth and size."""

from __future__ import annotations

import os
from typing import Any, NoReturn
from xml.etree.ElementTree import Element, TreeBuilder
from xml.parsers import expat

from ..errors import DataError
from .files import Name

__all__ = ["read_xml"]

_MAX_BYTES = 16 << 20
_MAX_DEPTH = 32


def read_xml(path: Name) -> Element:
    """The root element of an XML file.

    Raises
    ------
    DataError
        If it is not well-formed, has a document type (which is where entities are declared), is nested
        deeper than 32 elements or larger than 16 MiB; the message names file, line and column.
    OSError
    """
    name = os.fspath(path)
    with open(name, "rb") as file:
        content = file.read(_MAX_BYTES + 1)
    if len(content) > _MAX_BYTES:
        raise DataError(f"{name}: expected at most {_MAX_BYTES} bytes of XML, got more")
    parser = expat.ParserCreate()
    builder = TreeBuilder()
    depth = 0

    def fail(expected: str, got: str) -> NoReturn:
        where = f"line {parser.CurrentLineNumber}, column {parser.CurrentColumnNumber}"
        raise DataError(f"{name}: {where}: expected {expected}, got {got}")

    def start(tag: str, attributes: dict[str, str]) -> None:
        nonlocal depth
        depth += 1
        if depth > _MAX_DEPTH:
            fail(f"at most {_MAX_DEPTH} nested elements", "more")
        builder.start(tag, attributes)

    def end(tag: str) -> None:
        nonlocal depth
        depth -= 1
        builder.end(tag)

    def doctype(*_: Any) -> None:
        fail("XML without a document type", "one")

    parser.StartElementHandler, parser.EndElementHandler = start, end
    parser.CharacterDataHandler = builder.data
    parser.StartDoctypeDeclHandler = doctype
    try:
        parser.Parse(content, True)
    except (expat.ExpatError, ValueError, LookupError) as error:
        if isinstance(error, DataError):
            raise
        raise DataError(f"{name}: expected well-formed XML, got: {error}") from None
    return builder.close()
