"""Gradients: eager calls on tensors write a tape of operations, and ``backward`` goes back along it.

A :class:`Step` of the tape is an operator and its specification, as a :class:`~cnnfast.graph.Node` of a
trace has them, with the arrays that the operator's gradient (:class:`~cnnfast.ops.registry.Vjp`) says it
reads. Steps know the steps that their arguments came from and nothing knows them but the tensors they gave,
so a tape lives as long as a tensor at its end.

A small network spends as long here as in its kernels: every call writes a step, and makes no object that
``backward`` does not need.
"""

from __future__ import annotations

import datetime
import itertools
import operator
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from . import cuda
from .cuda import DeviceArray
from .errors import DTypeError, GradientError, ShapeError
from .graph.ir import Value
from .ops.activations import infer_activation, reads_result
from .ops.registry import NO_GRADIENT, OPERATORS, Op
from .tensor import Hook, Tensor, run

Array = np.ndarray

__all__ = ["Step", "backward", "register", "tape"]


_numbers = itertools.count()
# Two threads that go back to the same parameter must not lose a gradient.
_accumulating = threading.Lock()


class Step:
    """One operation on the tape.

    Attributes
    ----------
    op : Op
    spec : object
        The checked arguments of the call.
    number : int
        Rises in the order of execution.
    needs : tuple of bool
        Whether a gradient is wanted, for each argument.
    sources : tuple
        Where the arguments that need one come from: a Step, or the Tensor itself where it is a leaf.
    keys : tuple
        What their gradients belong to: the output of a step, or the leaf.
    outputs : tuple of Value
        One for each result, with its shape and type, without data.
    inputs, results : tuple
        The arrays that the gradient reads, None in place of others.
    hooks : dict
        Hooks of the results, by output.
    freed : bool
    """

    __slots__ = (
        "freed", "hooks", "inputs", "keys", "needs", "number", "op", "outputs", "results", "sources", "spec"
    )  # fmt: skip

    def __init__(self, op: Op, spec: Any, arguments: tuple[Any, ...]) -> None:
        self.op, self.spec, self.number = op, spec, next(_numbers)
        needs: list[bool] = []
        sources: list[Step | Tensor | None] = []
        keys: list[Value | Tensor | None] = []
        for a in arguments:
            if isinstance(a, Tensor) and a.requires_grad:
                needs.append(True)
                leaf = a.step is None
                sources.append(a if leaf else a.step)
                keys.append(a if leaf else a.value)
            else:
                needs.append(False)
                sources.append(None)
                keys.append(None)
        self.needs, self.sources, self.keys = tuple(needs), tuple(sources), tuple(keys)
        self.outputs: tuple[Value, ...] = ()
        self.inputs: tuple[Any, ...] = ()
        self.results: tuple[Array | None, ...] = ()
        self.hooks: dict[Value, dict[int, Hook]] = {}
        self.freed = False

    def remember(self, arrays: Sequence[Any], results: Sequence[Array]) -> None:
        """Keep what the gradient reads of arguments and results."""
        held: list[Any] = [None] * len(arrays)
        given: list[Array | None] = [None] * len(results)
        vjp = self.op.vjp
        if vjp is not None:
            for i in vjp.reads(self.spec, self.needs):
                if i >= 0:
                    held[i] = arrays[i]
                else:
                    given[~i] = results[~i]
        self.inputs, self.results = tuple(held), tuple(given)

    def free(self) -> None:
        """Let go of everything that is remembered."""
        self.inputs, self.results, self.sources, self.keys, self.freed = (), (), (), (), True


# --- forward ---------------------------------------------------------------------------------------


def _without_activation(op: Op, spec: Any, arguments: tuple[Any, ...]) -> Any:
    """The specification of the same call without its activation."""
    assert op.epilogue is not None

    def shape(position: int | None) -> tuple[int, ...] | None:
        argument = None if position is None else arguments[position : position + 1]
        return None if not argument or argument[0] is None else argument[0].shape

    return op.epilogue.respec(spec, shape(op.epilogue.bias), shape(op.epilogue.residual), None, spec.slope)


def tape(op: Op, spec: Any, arguments: tuple[Any, ...], arrays: list[Any]) -> Any:
    """Run an operator on arguments (and their arrays) of which some want gradients, and remember what its
    gradient reads.

    An activation in the same pass becomes an operation of its own where its gradient does not follow
    from the result.
    """
    activation = getattr(spec, "activation", None)
    if activation is not None and not reads_result(activation, spec.slope):
        sums = run(op, _without_activation(op, spec, arguments), arguments)
        return run(OPERATORS[activation], infer_activation(sums.shape, activation, spec.slope), (sums,))
    result = op.compute(spec, *arrays)
    several = isinstance(result, tuple)
    results = result if several else (result,)
    tensors = [Tensor(r) for r in results]
    if op.vjp is not NO_GRADIENT:
        step = Step(op, spec, arguments)
        step.remember(arrays, results)
        outputs = []
        for tensor in tensors:
            output = Value(tensor.shape, tensor.dtype)
            outputs.append(output)
            if tensor.dtype.kind == "f":
                tensor.requires_grad, tensor.step, tensor.value = True, step, output
        step.outputs = tuple(outputs)
    return tuple(tensors) if several else tensors[0]


def register(tensor: Tensor, function: Callable[[Array], Array | None]) -> Hook:
    """See :meth:`cnnfast.Tensor.register_hook`."""
    if not tensor.requires_grad:
        raise GradientError("register_hook: expected a tensor that wants a gradient (requires_grad=True)")
    if tensor._hooks is None:
        tensor._hooks = {}
        if tensor.step is not None:
            assert tensor.value is not None
            tensor.step.hooks[tensor.value] = tensor._hooks
    return Hook(tensor._hooks, function)


# --- backward --------------------------------------------------------------------------------------


class _Sum:
    """A gradient while parts of it are still to come."""

    __slots__ = ("array", "own")

    def __init__(self, array: Array, own: bool) -> None:
        self.array = array
        self.own = own  # whether nobody else holds the array

    def add(self, part: Array, own: bool) -> None:
        if type(part) is DeviceArray:  # nobody writes to those
            self.array = self.array + part
        elif self.own or own:
            to = self.array if self.own else part
            self.array, self.own = np.add(self.array, part, out=to), True
        else:
            self.array, self.own = np.asarray(self.array + part), True


# Outputs of steps, and leaves.
_Key = Value | Tensor


def _steps_behind(step: Step) -> tuple[list[Step], dict[_Key, int]]:
    """A step and all that it depends on, in the order of execution; and how many gradients are to come for
    what they read."""
    seen, open_ = {step}, [step]
    coming: dict[_Key, int] = {}
    freed: Step | None = None
    while open_:
        here = open_.pop()
        freed = here if here.freed else freed
        for key, source in zip(here.keys, here.sources, strict=True):
            if key is None:
                continue
            coming[key] = coming.get(key, 0) + 1
            if key is not source and source not in seen:
                assert isinstance(source, Step)
                seen.add(source)
                open_.append(source)
    if freed is not None:
        raise GradientError(
            f"backward: what {freed.op.name} had remembered was freed by an earlier backward; "
            "pass retain_graph=True to that one to go back a second time"
        )
    return sorted(seen, key=_number), coming


_number = operator.attrgetter("number")


def _start(tensor: Tensor, grad: Any) -> Any:
    if not tensor.requires_grad:
        raise GradientError(
            "backward: expected a tensor computed from tensors with requires_grad=True, outside of no_grad"
        )
    if grad is None:
        if tensor.size != 1:
            raise GradientError(
                f"backward: a tensor of shape {tensor.shape} needs a gradient to start from; "
                "without one it must have a single element"
            )
        if type(tensor.data) is DeviceArray:
            return cuda.asarray(np.ones(tensor.shape, np.float32), tensor.dtype)
        return np.ones(tensor.shape, tensor.dtype)
    on_device = type(tensor.data) is DeviceArray
    array = cuda.asarray(grad) if on_device else np.asarray(grad)
    if array.dtype != tensor.dtype:
        raise DTypeError(f"backward: grad is {array.dtype}, the tensor is {tensor.dtype}; expected one type")
    if array.shape != tensor.shape:
        raise ShapeError(f"backward: grad has shape {array.shape}, the tensor has {tensor.shape}")
    return array if on_device else np.require(array, tensor.dtype, ["C", "A"]).view(tensor.dtype, np.ndarray)


def _hooked(hooks: dict[int, Hook] | None, grad: Any) -> Any:
    """The gradient after all hooks have seen it."""
    for hook in list(hooks.values()) if hooks else ():
        new = hook.function(grad)
        if new is not None:
            array = new if type(new) is DeviceArray else np.asarray(new)
            if array.shape != grad.shape:
                raise ShapeError(f"register_hook: a hook gave shape {array.shape}, expected {grad.shape}")
            on_device = type(array) is DeviceArray
            grad = array if on_device else np.require(array, grad.dtype, ["C"])
    return grad


def _gradients(step: Step, grads: list[Array | None]) -> Sequence[Array | None]:
    """What the operator's rule says."""
    vjp = step.op.vjp
    if vjp is None or vjp.function is None:
        raise GradientError(f"backward: {step.op.name} has no gradient")
    given: Any = grads[0] if len(grads) == 1 else tuple(grads)
    return vjp.function(step.spec, step.needs, given, step.inputs, step.results)


# What arrays that are no views lie in: memory of NumPy, or of the native module, which a capsule holds.
_OWN_MEMORY = (type(None), type(datetime.datetime_CAPI))


def _is_own(part: Array, others: Iterable[Any]) -> bool:
    """Whether an array is nobody else's, so that it may be added to."""
    if type(part) is DeviceArray or not part.flags.carray:
        return False
    view = type(part.base) not in _OWN_MEMORY
    for other in others:
        if other is part:
            return False
        if isinstance(other, np.ndarray):
            apart = not view and type(other.base) in _OWN_MEMORY
            if not apart and np.may_share_memory(part, other):
                return False
    return True


def _go_back(step: Step, sums: dict[_Key, _Sum], coming: dict[_Key, int], keep: bool) -> None:
    """One step: gradients of its results into those of its arguments."""
    grads: list[Array | None] = []
    for output in step.outputs:
        total = sums.pop(output, None)
        array = None if total is None else total.array
        hooks = step.hooks.get(output) if step.hooks else None
        grads.append(_hooked(hooks, array) if hooks and array is not None else array)
    if any([g is not None for g in grads]):  # noqa: C419  # a list is faster
        _share_out(step, grads, _gradients(step, grads), sums, coming)
    if not keep:
        step.free()


def _share_out(
    step: Step,
    grads: list[Array | None],
    parts: Sequence[Array | None],
    sums: dict[_Key, _Sum],
    coming: dict[_Key, int],
) -> None:
    """Add what an operator's rule gave to the gradients of its arguments."""
    assert step.op.vjp is not None
    fresh = step.op.vjp.own
    # Arguments may be left out at the end.
    for i, (key, part) in enumerate(zip(step.keys, parts, strict=False)):
        if key is None or part is None:
            continue
        # Of float32 vectors beside 16-bit arrays, and of what was cast, it is of another type.
        if type(part) is DeviceArray:
            array = part if part.dtype is key.dtype else part.astype(key.dtype)
        else:
            plain = type(part) is Array and part.dtype is key.dtype
            array = part if plain else np.asarray(part, key.dtype)
        if array.shape != key.shape:
            name = step.op.name
            raise ShapeError(f"{name}: gradient {i} has shape {array.shape}, expected {key.shape}")
        total = sums.get(key)
        # Nobody asks whose it is where nothing is added to it and nobody keeps it.
        if total is None and coming[key] == 1 and isinstance(key, Value):
            sums[key] = _Sum(array, False)
            continue
        own = i in fresh or _is_own(array, (*grads, *step.inputs, *step.results, *parts[:i], *parts[i + 1 :]))
        if total is None:
            sums[key] = _Sum(array, own)
        else:
            total.add(array, own)


def _finish(leaf: Tensor, total: _Sum | None) -> None:
    """A gradient that is complete, into ``leaf.grad``."""
    if total is None:
        return
    grad = _hooked(leaf._hooks, total.array)
    own = total.own and not leaf._hooks  # what a hook has seen may be kept there
    with _accumulating:
        if type(grad) is DeviceArray:
            leaf.grad = grad if leaf.grad is None else leaf.grad + grad
        elif leaf.grad is None:
            leaf.grad = grad if own else grad.copy()
        else:
            np.add(leaf.grad, grad, out=leaf.grad)


def backward(tensor: Tensor, grad: Any = None, retain_graph: bool = False) -> None:
    """See :meth:`cnnfast.Tensor.backward`."""
    start = _Sum(_start(tensor, grad), own=grad is None)
    if tensor.step is None:
        _finish(tensor, start)
        return
    steps, coming = _steps_behind(tensor.step)
    assert tensor.value is not None
    sums: dict[_Key, _Sum] = {tensor.value: start}
    del start
    while steps:
        step = steps.pop()
        keys = step.keys
        _go_back(step, sums, coming, retain_graph)
        for key in keys:
            if key is not None:
                coming[key] -= 1
                # A leaf is complete when the last step that reads it is done.
                if not coming[key] and isinstance(key, Tensor):
                    _finish(key, sums.pop(key, None))
