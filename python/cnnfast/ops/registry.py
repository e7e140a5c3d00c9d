"""What an operator is, how its arguments are checked, and how a call finds its backend.

An operator is a shape rule (``infer``), a NumPy definition (``reference``), a native kernel
(``native``), a count of work (``cost``) and a gradient (``vjp``). ``infer`` holds all validation of shapes
and parameters; its results are cached by shape, so an eager call with known shapes pays for a dictionary
look-up.
"""

from __future__ import annotations

import functools
import operator
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, NoReturn

import numpy as np

from .. import config
from ..config import _State, current_backend
from ..cuda.array import FLOATS, DeviceArray, asarray, full
from ..errors import BackendError, DTypeError, ShapeError
from ..tensor import KINDS, Tensor, run

Array = np.ndarray
F32 = np.dtype(np.float32)
F64 = np.dtype(np.float64)
# The products of sizes must stay well inside int64, bytes included.
MAX_ELEMENTS = 1 << 58

OPERATORS: dict[str, Op] = {}


@dataclass(frozen=True)
class Cost:
    """Work of one call: floating-point operations, and bytes read and written once each."""

    flops: float
    bytes: float


@dataclass(frozen=True)
class Epilogue:
    """What an operator can do to its sums in the same pass: add a bias and a residual, apply an activation.

    Attributes
    ----------
    respec : callable
        (spec, shape of the bias or None, of the residual or None, activation or None, slope of leaky
        ReLU) -> spec.
    bias, residual : int or None
        Positions among the operator's arguments, counted from x.
    scale : callable or None
        (spec, weight, factor per output channel) -> weight whose products carry the factor; the weight is
        argument 1.
    activations : bool
    """

    respec: Callable[..., Any]
    bias: int | None = None
    residual: int | None = None
    scale: Callable[..., Array] | None = None
    activations: bool = True


@dataclass(frozen=True)
class Lower:
    """How an operator becomes steps of a compiled plan (see :mod:`cnnfast.graph.lowering`).

    Attributes
    ----------
    emit : callable
        (steps, spec, operands of the inputs, operands of the results): adds native steps.
    accepts : callable
        Node -> whether there are native steps for this call; all its arrays are float32.
    view : bool
        The result is the first input under another shape.
    in_place : tuple of int
        Inputs, of the size of the result, that the result may overwrite.
    slice_in, slice_out : callable
        (Node, position of the input) -> and Node -> whether the step reads, or writes, arrays whose pixels
        are parts of wider pixels (``Operand.ld``).
    """

    emit: Callable[..., None]
    accepts: Callable[[Any], bool] = lambda node: True
    view: bool = False
    in_place: tuple[int, ...] = ()
    slice_in: Callable[[Any, int], bool] = lambda node, position: False
    slice_out: Callable[[Any], bool] = lambda node: False


def _none(spec: Any, needs: tuple[bool, ...]) -> tuple[int, ...]:
    return ()


# Among the positions of what a gradient reads: the (first) result of the operator; ``~j`` is result j.
RESULT = ~0


@dataclass(frozen=True)
class Vjp:
    """How gradients go back through an operator: the product of a vector with its Jacobian.

    Attributes
    ----------
    function : callable or None
        (spec, needs, gradient of the result, arguments, results) -> gradients of the arguments, in their
        order, where ``needs`` asks for them; what is missing at the end, and None, is no gradient. All are
        arrays; arguments and results that it does not read are None. Of an operator with several results
        it is given a tuple of gradients, each of which may be None. It writes to nothing it is given.
        None: results do not depend smoothly on anything (indices, comparisons) and have no gradient.
    reads : callable
        (spec, needs) -> positions of the arguments that the function reads, and ``~j`` for result j. All
        else may be freed before the gradient is asked for.
    own : tuple of int
        Positions of arguments whose gradients are C-contiguous arrays that nobody else holds, so that others
        may be added to them. Of gradients at other positions that is found out.
    """

    function: Callable[..., Any] | None
    reads: Callable[[Any, tuple[bool, ...]], Collection[int]] = _none
    own: tuple[int, ...] = ()


NO_GRADIENT = Vjp(None)


def reads_all(spec: Any, needs: tuple[bool, ...]) -> tuple[int, ...]:
    """All arguments."""
    return tuple(range(len(needs)))


def reads_other(spec: Any, needs: tuple[bool, ...]) -> tuple[int, ...]:
    """The gradient of either of the first two arguments reads the other one."""
    return tuple([1 - i for i in (0, 1) if needs[i]])


def reads_results(spec: Any, needs: tuple[bool, ...]) -> tuple[int, ...]:
    """The result alone."""
    return (RESULT,)


@dataclass(frozen=True, eq=False)
class Op:
    """One operator; see the module docstring."""

    name: str
    infer: Callable[..., Any]
    reference: Callable[..., Any]
    native: Callable[..., Any]
    cost: Callable[[Any], Cost]
    vjp: Vjp | None = None
    # (spec, type of x) -> shape and type of each result, where that is not one array of shape spec.out.
    results: Callable[..., tuple[tuple[tuple[int, ...], np.dtype], ...]] | None = None
    epilogue: Epilogue | None = None
    lower: Lower | None = None
    # (spec, specification of a padding before it) -> spec that pads by itself, or None if it cannot.
    pads: Callable[[Any, Any], Any] | None = None
    # spec -> the arguments of ``infer`` that follow the shapes of the arrays, by name: what a file keeps.
    settings: Callable[[Any], dict[str, Any]] = lambda spec: {}
    # Of an operator that stands for several: (run, spec, *arrays) -> result, where run(op, spec, *arrays)
    # does one of them.
    decompose: Callable[..., Any] | None = None
    # Shapes of the arrays -> the arguments of ``infer`` that they are.
    shapes: Callable[..., tuple[Any, ...]] = lambda *shapes: shapes
    # As ``native``, on device arrays; None: there is no CUDA kernel.
    cuda: Callable[..., Any] | None = None
    # Positions of arguments whose values ``cuda`` reads in host memory, once where they never change:
    # launches with others cannot be captured.
    read_on_host: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        OPERATORS[self.name] = self

    def differentiate(self, vjp: Vjp) -> None:
        """Take on a gradient that lives in another file, beside the operators that it is made of."""
        object.__setattr__(self, "vjp", vjp)

    def __call__(self, spec: Any, x: Array, *arrays: Any) -> Any:
        """Run on checked arrays: float32 on the backend in use, float64 on the reference."""
        if type(x) is Array and KINDS.isdisjoint(map(type, arrays)):
            if x.dtype == F32 and (_State.backend or current_backend()) == "cpu":
                try:
                    return self.native(spec, x, *arrays)
                except MemoryError:
                    raise self._out_of_memory(spec) from None
            return self.compute(spec, x, *arrays)
        return run(self, spec, (x, *arrays))

    def compute(self, spec: Any, x: Any, *arrays: Any) -> Any:
        """As a call, where no argument is a tensor."""
        if type(x) is DeviceArray:
            return self._on_device(spec, x, *arrays)
        try:
            if x.dtype == F32:
                backend = _State.backend or current_backend()
                if backend == "cpu":
                    return self.native(spec, x, *arrays)
                if backend == "cuda":
                    return self._through_device(spec, x, *arrays)
            return self.reference(spec, x, *arrays)
        except MemoryError:
            raise self._out_of_memory(spec) from None
        except TypeError:  # neither takes arrays of the device; asked for here, it costs other calls nothing
            if DeviceArray in map(type, arrays):
                return self._on_device(spec, x, *arrays)
            raise

    def _out_of_memory(self, spec: Any) -> MemoryError:
        out = getattr(spec, "out", None)
        return MemoryError(f"{self.name}: not enough memory" + (f" for a result {_show(out)}" if out else ""))

    def on_device(self, spec: Any, *arrays: Any) -> Any:
        """Device arrays to device arrays.

        Raises
        ------
        BackendError
            If there is no CUDA kernel; nothing falls back.
        """
        if self.cuda is None:
            raise BackendError(f"{self.name}: there is no CUDA kernel for this operator")
        return self.cuda(spec, *arrays)

    def _on_device(self, spec: Any, *arrays: Any) -> Any:
        """Device arrays, and numbers as host arrays without axes, to device arrays."""
        if any(isinstance(a, Array) and a.ndim for a in arrays):
            raise BackendError(f"{self.name}: expected all arrays on the device, got some in host memory")
        like = next(a.dtype for a in arrays if type(a) is DeviceArray)
        return self.on_device(spec, *[number_beside(a, like) for a in arrays])

    def _through_device(self, spec: Any, *arrays: Any) -> Any:
        """Host arrays to host arrays."""
        result = self.on_device(spec, *[asarray(a) if isinstance(a, Array) else a for a in arrays])
        return tuple([r.numpy() for r in result]) if isinstance(result, tuple) else result.numpy()


def number_beside(value: Any, dtype: Any) -> Any:
    """A host array without axes as a device array of that type; anything else as it is.

    The number goes along with a launch: a copy from host memory would have the host wait for the device.
    """
    if not isinstance(value, Array):
        return value
    return full((), float(value), dtype) if dtype in FLOATS else asarray(value, dtype)


def cost(name: str, *args: Any, **kwargs: Any) -> Cost:
    """FLOPs and bytes of operator ``name`` for the arguments that its ``infer`` takes."""
    op = OPERATORS[name]
    return op.cost(op.infer(*args, **kwargs))


def _is_plain(value: Any) -> bool:
    """Whether a value can go to a kernel as it is: a C-contiguous, aligned float32 ndarray, no subclass."""
    plain = type(value) is np.ndarray and value.dtype is F32
    return plain and value.flags.c_contiguous and value.flags.aligned


is_plain: Callable[[Any], bool] = _is_plain if config._cpu is None else config._cpu.is_plain


def array(op: str, name: str, value: Any, like: Array | None = None) -> Array:
    """A C-contiguous float32 or float64 array of native byte order; copies only where it must.

    Device arrays of floating-point types stay as they are.

    Raises
    ------
    BackendError
        If the backend in use cannot run.
    DTypeError
        For any other element type, or one that differs from that of ``like``.
    """
    if is_plain(value):
        a = value
        if _State.backend is None:
            current_backend()  # the device is checked before everything else
    elif isinstance(value, Tensor):
        a = _tensor(op, name, value)
    else:
        a = _convert(op, name, value)
    if like is not None and a.dtype is not like.dtype:
        raise DTypeError(f"{op}: {name} is {a.dtype}, x is {like.dtype}; expected one element type")
    return a


def _tensor(op: str, name: str, value: Tensor) -> Any:
    """A tensor as it is: it has shape and dtype, and Op.__call__ takes it from there."""
    if _State.backend is None:
        current_backend()
    if value.dtype is not F32 and value.dtype is not F64 and type(value._data) is not DeviceArray:
        raise DTypeError(f"{op}: {name} is {value.dtype}; expected float32 or float64")
    return value


def as_array(op: str, name: str, value: Any) -> Array:
    """An array of whatever type; rows of different lengths are a ShapeError."""
    try:
        return np.asarray(value)
    except ValueError as error:
        raise ShapeError(f"{op}: {name} is not a rectangular array: {error}") from None


def _convert(op: str, name: str, value: Any) -> Any:
    if isinstance(value, DeviceArray):
        if value.dtype not in FLOATS:
            raise DTypeError(f"{op}: {name} is {value.dtype}; expected float32, bfloat16 or float16")
        return value
    current_backend()  # the device is checked before the element type
    a = as_array(op, name, value)
    if a.dtype.kind != "f" or a.dtype.itemsize not in (4, 8):
        raise DTypeError(
            f"{op}: {name} is {a.dtype}; expected float32 (native) or float64 (reference): "
            "convert with .astype(numpy.float32)"
        )
    kind = F32 if a.dtype.itemsize == 4 else F64
    # The view drops subclasses, and makes equal types one object.
    return np.require(a, kind, ["C", "A"]).view(kind, np.ndarray)


def vector(op: str, name: str, value: Any, like: Array) -> Array:
    """:func:`array` for one number per channel: float32 ones go with 16-bit arrays of a device too."""
    if like.dtype is F32 or like.dtype not in FLOATS:
        return array(op, name, value, like)
    a = array(op, name, value)
    return a if a.dtype is F32 and a.ndim == 1 else array(op, name, a, like)


def optional(op: str, name: str, value: Any, like: Array) -> Array | None:
    """:func:`vector`, or None for None."""
    return None if value is None else vector(op, name, value, like)


def shape_of(a: Array | None) -> tuple[int, ...] | None:
    """Shape of an optional array."""
    return None if a is None else a.shape


_SIMPLE = frozenset((int, float, bool, str, type(None)))
_INT = frozenset((int,))


def _exact(value: Any) -> bool:
    """Whether a cache key tells the value from others: within a tuple, 1.0 and True would pass for 1."""
    if type(value) is tuple:
        return all(type(v) is int or (type(v) is tuple and _exact(v)) for v in value)
    return type(value).__hash__ is not None


def hashable(value: Any) -> Any:
    """Lists and arrays as tuples, so that they can be part of a key."""
    if isinstance(value, (list, tuple)):
        return tuple(hashable(v) for v in value)
    if isinstance(value, np.ndarray):
        return hashable(value.tolist())
    return value


def cached(infer: Callable[..., Any]) -> Any:
    """Cache a shape rule by its arguments; lists count as tuples.

    ``wrapper.quick`` is the cache alone, at half the cost: it raises TypeError for lists, and takes
    ``(1.0, True)`` for ``(1, 1)`` once it has seen that; for arguments without tuples of the user's.
    """
    remembered = functools.lru_cache(maxsize=4096, typed=True)(infer)
    # The leading arguments are shapes of arrays, which need no second look.
    kinds = [str(kind).startswith("tuple[int, ...]") for kind in infer.__annotations__.values()]
    shapes = kinds.index(False) if False in kinds else len(kinds)

    @functools.wraps(infer)
    def wrapper(*args: Any, **kwargs: Any) -> Any:
        if not kwargs and _SIMPLE.issuperset(map(type, args[shapes:])):
            return remembered(*args)
        for value in (*args, *kwargs.values()):
            if type(value) is tuple:
                if not (_INT.issuperset(map(type, value)) or _exact(value)):
                    break
            elif type(value) not in _SIMPLE:
                break
        else:
            return remembered(*args, **kwargs)
        args = tuple(hashable(a) for a in args)
        kwargs = {k: hashable(v) for k, v in kwargs.items()}
        if all(map(_exact, args)) and all(map(_exact, kwargs.values())):
            return remembered(*args, **kwargs)
        return infer(*args, **kwargs)

    wrapper.quick = remembered  # type: ignore[attr-defined]
    return wrapper


def fail(op: str, message: str, **shapes: Any) -> NoReturn:
    """Raise ShapeError in the one format: op, expectation and what came, then the shapes."""
    came = ", ".join(f"{k} {_show(v)}" for k, v in shapes.items() if v is not None)
    raise ShapeError(f"{op}: {message}" + (f" ({came})" if came else ""))


def _show(value: Any) -> str:
    return "(" + ",".join(map(str, value)) + ")" if isinstance(value, tuple) else str(value)


def shown(value: Any) -> str:
    """A value in a message, in one line that is not too long."""
    text = " ".join(repr(value).split())
    return text if len(text) <= 80 else f"{text[:77]}..."


def several(op: str, name: str, value: Any) -> tuple[Any, ...]:
    """The items of a list or another sequence."""
    try:
        return tuple(value)
    except TypeError:
        fail(op, f"{name} must be a list, got {shown(value)}")


def integer(op: str, name: str, value: Any, least: int, most: int = 1 << 62) -> int:
    """A whole number in ``least..most``; numpy integers count, booleans and floats do not."""
    if isinstance(value, (bool, np.bool_)):
        fail(op, f"{name} must be a whole number, got {shown(value)}")
    try:
        n = operator.index(value)
    except TypeError:
        fail(op, f"{name} must be a whole number, got {shown(value)}")
    if not least <= n <= most:
        fail(op, f"{name} must be at least {least}, got {n}" if n < least else f"{name} is too large: {n}")
    return n


def pair(op: str, name: str, value: Any, least: int) -> tuple[int, int]:
    """One whole number for both axes, or one per axis (height, width)."""
    if isinstance(value, tuple):
        if len(value) != 2:
            fail(op, f"{name} must be a whole number or a pair (height, width), got {shown(value)}")
        return integer(op, name, value[0], least), integer(op, name, value[1], least)
    n = integer(op, name, value, least)
    return n, n


def number(op: str, name: str, value: Any) -> float:
    """A real number (not NaN)."""
    try:
        f = float(value)
    except (TypeError, ValueError):
        fail(op, f"{name} must be a number, got {shown(value)}")
    if f != f:
        fail(op, f"{name} must be a number, got NaN")
    return f


def choice(op: str, name: str, value: Any, choices: tuple[str, ...]) -> str:
    """One of a few names."""
    if not isinstance(value, str) or value not in choices:
        fail(op, f"{name} must be one of {', '.join(map(repr, choices))}, got {shown(value)}")
    return value


def rank(op: str, name: str, shape: tuple[int, ...], layout: str) -> None:
    """Check the number of dimensions against a layout such as ``"N,H,W,C"``."""
    wanted = layout.count(",") + 1
    if len(shape) != wanted:
        fail(op, f"{name} must have {wanted} dimensions {layout}, got {len(shape)}", **{name: shape})


def elements(op: str, *sizes: int) -> int:
    """Product of sizes, checked: an output that no machine could address is a ShapeError."""
    n = 1
    for size in sizes:
        n *= size or 1  # NumPy refuses such a shape even where another size is zero
    if n > MAX_ELEMENTS:
        fail(op, f"the output would have {n} elements, more than can be addressed")
    return n


def native() -> Any:
    """The native module; only called when the backend is ``"cpu"``."""
    return config._cpu
