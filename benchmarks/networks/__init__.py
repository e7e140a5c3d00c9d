"""Whole networks beside the libraries that run whole networks.

``cnnfast bench models`` or ``python -m cnnfast.bench models``. Every contestant lives in a process of its
own, where it is loaded, checked and timed; importing this package imports no peer.
"""
