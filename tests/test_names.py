"""Tests that need another library are found by their names: .ci/run chooses them by these."""

from __future__ import annotations

import ast
from pathlib import Path

PEERS = ("torch", "onnx")


def test_tests_of_peers_are_named_for_them() -> None:
    for path in Path(__file__).parent.glob("test_*.py"):
        source = path.read_text()
        for node in ast.parse(source).body:
            text = ast.get_source_segment(source, node) or ""
            if not any(f'importorskip("{peer}' in text for peer in PEERS):
                continue
            name = node.name if isinstance(node, ast.FunctionDef) else ""
            assert any(word in f"{path.stem} {name}" for word in (*PEERS, "bench")) or name[:4] != "test", (
                name
            )
