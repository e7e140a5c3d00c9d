"""Operator benchmarks: real layer shapes, checked before they are timed, beside the peers that are installed.

``python -m cnnfast.bench --quick`` or ``cnnfast bench``; importing this package imports no peer.
"""
