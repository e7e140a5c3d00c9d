"""Tensors: arrays that networks hold, and the symbols that stand for arrays while a network is traced."""

from __future__ import annotations

import contextlib
import functools
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from .arithmetic import Arithmetic
from .cuda.array import DeviceArray, asarray
from .errors import DTypeError

if TYPE_CHECKING:
    from .autograd import Step
    from .graph.ir import Value
    from .ops.registry import Op

Array = np.ndarray

__all__ = ["Hook", "Parameter", "Tensor", "is_grad_enabled", "no_grad"]


class _Mode(threading.local):
    """How many ``no_grad`` blocks this thread is in."""

    blocks = 0


_mode = _Mode()


class no_grad(contextlib.ContextDecorator):
    """Without a tape: what is computed wants no gradient. A context manager, and a decorator.

    Notes
    -----
    Holds for the thread it is used on. Blocks may be nested, and one object may be used many times.
    """

    def __enter__(self) -> no_grad:
        _mode.blocks += 1
        return self

    def __exit__(self, *error: object) -> None:
        _mode.blocks -= 1


def is_grad_enabled() -> bool:
    """Whether this thread is outside of all ``no_grad`` blocks."""
    return not _mode.blocks


class Hook:
    """A function that was registered with something; see :meth:`cnnfast.Tensor.register_hook`."""

    __slots__ = ("_held", "function")

    def __init__(self, held: dict[int, Hook], function: Callable[..., Any]) -> None:
        self._held, self.function = held, function
        held[id(self)] = self

    def remove(self) -> None:
        """Do not call the function any more; the second time this does nothing."""
        self._held.pop(id(self), None)


_F32 = np.dtype(np.float32)


def _plain(data: Any) -> Any:
    """An array of the machine's byte order, and of float32 in place of other sizes than 4 and 8 bytes.

    Device arrays stay as they are.
    """
    data = data.data if isinstance(data, Tensor) else data
    if isinstance(data, DeviceArray):
        return data
    array = np.asarray(data)
    if array.dtype.kind in "biuf":
        half = array.dtype.kind == "f" and array.dtype.itemsize not in (4, 8)
        # The view makes equal types one object.
        native = np.dtype(np.float32 if half else array.dtype.char)
        if array.dtype is not native:
            array = array.astype(native, copy=False).view(native)
    return array


def beside(array: Any, like: Any) -> Any:
    """An array of the element type of a tensor or an array, in the memory where that is.

    Device arrays stay as they are.
    """
    data = like._data if isinstance(like, Tensor) else like
    if isinstance(array, DeviceArray):
        return array
    return asarray(array, like.dtype) if isinstance(data, DeviceArray) else np.asarray(array, like.dtype)


def on_host(value: Any) -> Array:
    """A tensor or an array in host memory: a copy of what is on a device, where it is waited for."""
    return value.numpy() if isinstance(value, (Tensor, DeviceArray)) else np.asarray(value)


class Tensor(Arithmetic):
    """An array in a network.

    Operators that are given a tensor give tensors back; a tensor without data (``shape`` and ``dtype``
    alone) stands for an array while a network is traced.

    Parameters
    ----------
    data : array_like or DeviceArray
        Not copied where it is a C-contiguous array already.
    requires_grad : bool
        Whether gradients are wanted; for floating-point data alone. What is computed from such a tensor
        wants them too, and remembers how it was computed until :meth:`backward` has gone back through it.

    Attributes
    ----------
    data : ndarray or DeviceArray
    shape : tuple of int
    dtype : numpy.dtype
    requires_grad : bool
    grad : ndarray, DeviceArray or None
        Of tensors that were not computed from others: the sum of the gradients of all calls of
        :meth:`backward` so far. Set it to None to start anew.
    """

    __slots__ = (
        "__weakref__",
        "_data",
        "_hooks",
        "dtype",
        "grad",
        "requires_grad",
        "shape",
        "step",  # of the tape that gave this tensor, see cnnfast.autograd
        "value",
    )

    def __init__(self, data: Any, requires_grad: bool = False) -> None:
        array = data if type(data) is np.ndarray and data.dtype is _F32 else _plain(data)
        self._data: Array | None = array
        self.shape: tuple[int, ...] = array.shape
        self.dtype = array.dtype
        self.requires_grad = requires_grad
        self.grad: Any = None  # ndarray or DeviceArray, or None
        self.value: Value | None = None
        self.step: Step | None = None
        self._hooks: dict[int, Hook] | None = None
        if requires_grad and self.dtype.kind != "f":
            raise DTypeError(f"Tensor: data is {self.dtype}; only floating-point tensors can have gradients")

    @classmethod
    def symbol(cls, value: Value) -> Tensor:
        """A stand-in for a value of a graph that is being traced."""
        self = cls.__new__(cls)
        self._data, self.grad, self.requires_grad, self.step, self._hooks = None, None, False, None, None
        self.shape, self.dtype, self.value = value.shape, value.dtype, value
        return self

    @property
    def data(self) -> Array:
        if self._data is None:
            raise ValueError("this tensor stands for an input of a traced network and has no data")
        return self._data

    @data.setter
    def data(self, array: Any) -> None:
        self._replace(array)

    def _replace(self, data: Any) -> None:
        """Other values, as :class:`Tensor` takes them, in place of those that are here."""
        array = data if type(data) is np.ndarray and data.dtype is _F32 else _plain(data)
        if array.shape != self.shape:
            raise ValueError(f"the data of this tensor has shape {self.shape}, got {array.shape}")
        if self.requires_grad and array.dtype.kind != "f":
            raise DTypeError(f"Tensor: data is {array.dtype}; only floating-point tensors can have gradients")
        self._data, self.dtype = array, array.dtype

    def __setstate__(self, state: tuple[dict[str, Any] | None, dict[str, Any]]) -> None:
        """What ``copy`` and ``pickle`` fill a new tensor with, whose equal types they make many objects."""
        for name, value in {**(state[0] or {}), **state[1]}.items():
            setattr(self, name, value)
        if isinstance(self.dtype, np.dtype):
            self.dtype = np.dtype(self.dtype.char)
        if isinstance(self._data, np.ndarray):
            self._data = _plain(self._data)

    @property
    def is_symbol(self) -> bool:
        return self._data is None

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        n = 1
        for d in self.shape:
            n *= d
        return n

    def numpy(self) -> Array:
        """The data itself, not a copy; of a tensor on the device, a copy in host memory."""
        data: Any = self.data
        return data.numpy() if type(data) is DeviceArray else data

    def detach(self) -> Tensor:
        """The same data in a tensor that wants no gradient and does not know where it came from."""
        return Tensor(self.data)

    def backward(self, grad: Any = None, retain_graph: bool = False) -> None:
        """Add the gradient of this tensor by every leaf it was computed from to ``grad`` of the leaf.

        Parameters
        ----------
        grad : array_like, shape of this tensor, optional
            What the gradients start from: the derivative of some number by this tensor. 1 where it has
            a single element.
        retain_graph : bool
            Keep what the operations had remembered, so that backward can be called again. Otherwise it
            is freed on the way.

        Raises
        ------
        GradientError
            If the tensor wants no gradient, has several elements and no ``grad`` is given, or an earlier
            call has freed what this one needs.
        ShapeError, DTypeError
            If ``grad`` does not fit.
        """
        from .autograd import backward

        backward(self, grad, retain_graph)

    def register_hook(self, hook: Callable[[Array], Array | None]) -> Hook:
        """Call a function with the gradient of this tensor, once in every :meth:`backward` that gets here.

        Parameters
        ----------
        hook : callable
            Takes the gradient (ndarray; not to be written to); what it returns, if anything, takes the
            place of the gradient from there on.

        Returns
        -------
        Hook
            Its ``remove()`` takes the function off again.

        Raises
        ------
        GradientError
            If the tensor wants no gradient.
        """
        from .autograd import register

        return register(self, hook)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if type(self._data) is DeviceArray:
            raise TypeError("a tensor on the device is not copied to the host by itself: call .numpy()")
        data = self.data if dtype is None else self.data.astype(dtype, copy=False)
        return data.copy() if copy else data

    def __len__(self) -> int:
        if not self.shape:
            raise TypeError("a tensor without dimensions has no length")
        return self.shape[0]

    def __repr__(self) -> str:
        if self.is_symbol:
            inside = "symbol"
        elif type(self.data) is DeviceArray:
            inside = "on the device"
        else:
            inside = np.array2string(self.data, threshold=20, separator=", ")
        return f"{type(self).__name__}({inside}, shape={self.shape}, dtype={self.dtype})"

    # What follows is done by cnnfast.ops; the import waits because those know tensors.

    def reshape(self, *shape: Any) -> Tensor:
        from . import ops

        return ops.reshape(self, shape[0] if len(shape) == 1 and not isinstance(shape[0], int) else shape)

    def flatten(self, start: int = 1) -> Tensor:
        """One axis in place of all from ``start`` on."""
        from . import ops

        return ops.flatten(self, start)

    def transpose(self, *axes: Any) -> Tensor:
        from . import ops

        order = axes[0] if len(axes) == 1 and not isinstance(axes[0], int) else axes or None
        return ops.transpose(self, order)

    def __getitem__(self, index: Any) -> Tensor:
        from . import ops

        return ops.take(self, index)


GIVEN = "given"  # the initialisation of parameters whose first values were given


class Parameter(Tensor):
    """A tensor that a module owns and training changes; filled when it is first looked at.

    Parameters
    ----------
    shape : tuple of int, ndarray or Tensor
        Its shape, or the values to begin with, which are floating-point numbers.
    init : str
        Name of an initialisation in :mod:`cnnfast.nn.init`, for a shape.
    fan : (int, int), optional
        Inputs and outputs that a value is connected to, which the scaled initialisations need.
    """

    __slots__ = ("fan", "init", "seed")
    _made = 0

    def __init__(self, shape: Any, init: str = "zeros", fan: tuple[int, int] = (1, 1)) -> None:
        self._data, self.grad, self.value, self.step, self._hooks = None, None, None, None, None
        self.requires_grad = True
        given = isinstance(shape, (np.ndarray, Tensor))
        self.shape, self.dtype = tuple(shape.shape if given else shape), np.dtype(np.float32)
        self.init, self.fan = GIVEN if given else init, fan
        Parameter._made += 1
        self.seed: tuple[int, str] = (0, f"parameter {Parameter._made}")
        if given:
            self._replace(shape)

    @property
    def data(self) -> Array:
        if self._data is None:
            from .nn.init import fill

            self._data = fill(self.init, self.shape, self.fan, self.seed)
        return self._data

    @data.setter
    def data(self, array: Any) -> None:
        self._replace(array)

    @property
    def is_symbol(self) -> bool:
        return False


# What an operator does not take as it is: tensors, and arrays on a device.
KINDS = frozenset((Tensor, Parameter, DeviceArray))


def run(op: Op, spec: Any, arguments: tuple[Any, ...]) -> Any:
    """Run an operator on arguments of which some are tensors, or device arrays.

    It is recorded where one is a symbol, and taped where one wants a gradient. Without a tensor among them
    the results are none either.
    """
    arrays, wanted, empty, tensors = [], False, False, False
    for a in arguments:
        if isinstance(a, Tensor):
            tensors = True
            wanted = wanted or a.requires_grad
            a = a._data
            empty = empty or a is None
        arrays.append(a)
    if empty:  # symbols, or parameters that nobody has looked at
        # Symbols first: initial values of parameters are not drawn for a trace.
        if any(isinstance(a, Tensor) and a.is_symbol for a in arguments):
            from .graph.trace import record

            return record(op, spec, arguments)
        arrays = [a.data if isinstance(a, Tensor) else a for a in arguments]
    if wanted and not _mode.blocks:
        return _tape()(op, spec, arguments, arrays)
    result = op.compute(spec, *arrays)
    if not tensors:
        return result
    return tuple(map(Tensor, result)) if isinstance(result, tuple) else Tensor(result)


@functools.cache
def _tape() -> Callable[..., Any]:
    """Looked up once, when the modules that it needs are there."""
    from .autograd import tape

    return tape
