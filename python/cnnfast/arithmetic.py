"""Signs of arithmetic for arrays that know no arithmetic themselves."""

from __future__ import annotations

from typing import Any


class Arithmetic:
    """Base of what is added, subtracted, multiplied and divided by the operators of :mod:`cnnfast.ops`.

    The imports wait, because those operators know tensors and device arrays.
    """

    __slots__ = ()
    # NumPy must leave `array + x` to x, and not take it for a sequence of objects.
    __array_ufunc__ = None

    def __add__(self, other: Any) -> Any:
        from . import ops

        return ops.add(self, other)

    __radd__ = __add__

    def __mul__(self, other: Any) -> Any:
        from . import ops

        return ops.mul(self, other)

    __rmul__ = __mul__

    def __sub__(self, other: Any) -> Any:
        from . import ops

        return ops.sub(self, other)

    def __rsub__(self, other: Any) -> Any:
        from . import ops

        return ops.sub(other, self)

    def __truediv__(self, other: Any) -> Any:
        from . import ops

        return ops.div(self, other)

    def __rtruediv__(self, other: Any) -> Any:
        from . import ops

        return ops.div(other, self)

    def __neg__(self) -> Any:
        from . import ops

        return ops.neg(self)
