"""Graphs of operators: tracing a module, rewriting, and running on the NumPy references."""

from .interpret import interpret
from .ir import Graph, Node, Value
from .passes import (
    decompose,
    drop_dead_code,
    fold_batch_norm,
    fold_constants,
    fuse_depthwise_blocks,
    fuse_epilogues,
    fuse_gates,
    fuse_padding,
    fuse_pooling,
    optimize,
)
from .trace import trace

__all__ = [
    "Graph",
    "Node",
    "Value",
    "decompose",
    "drop_dead_code",
    "fold_batch_norm",
    "fold_constants",
    "fuse_depthwise_blocks",
    "fuse_epilogues",
    "fuse_gates",
    "fuse_padding",
    "fuse_pooling",
    "interpret",
    "optimize",
    "trace",
]
