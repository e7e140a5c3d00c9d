"""Gradients: eager calls on tensors write a tape of graph nodes, and ``backward`` goes back along it.

A :class:`Step` of the tape is a :class:`~cnnfast.graph.Node` as :func:`~cnnfast.graph.trace` records it,
with the arrays that the operator's gradient (:class:`~cnnfast.ops.registry.Vjp`) says it reads. Steps know
the steps that their arguments came from and nothing knows them but the tensors they gave, so a tape lives
as long as a tensor at its end.
"""

from __future__ import annotations

import itertools
import threading
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from .errors import DTypeError, GradientError, ShapeError
from .graph.ir import Node, Value
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
    node : Node
        Its values have shapes and types, no data.
    number : int
        Rises in the order of execution.
    needs : tuple of bool
        Whether a gradient is wanted, for each argument.
    sources : tuple
        Where the arguments that need one come from: a Step, or the Tensor itself where it is a leaf.
    inputs, results : tuple
        The arrays that the gradient reads, None in place of others.
    hooks : dict
        Hooks of the results, by value.
    freed : bool
    """

    __slots__ = ("freed", "hooks", "inputs", "needs", "node", "number", "results", "sources")

    def __init__(
        self, node: Node, needs: tuple[bool, ...], sources: tuple[Step | Tensor | None, ...]
    ) -> None:
        self.node, self.needs, self.sources = node, needs, sources
        self.number = next(_numbers)
        self.inputs: tuple[Any, ...] = ()
        self.results: tuple[Array | None, ...] = ()
        self.hooks: dict[Value, dict[int, Hook]] = {}
        self.freed = False

    def free(self) -> None:
        """Let go of everything that is remembered."""
        self.inputs, self.results, self.sources, self.freed = (), (), (), True


# --- forward ---------------------------------------------------------------------------------------


def _value(argument: Any) -> Value | None:
    """What stands for an argument on the tape: one value for all uses of a tensor."""
    if isinstance(argument, Tensor):
        if argument.value is None:
            argument.value = Value(argument.shape, argument.dtype, "param")
        return argument.value
    return Value(argument.shape, argument.dtype, "param") if isinstance(argument, np.ndarray) else None


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
    needs: list[bool] = []
    sources: list[Step | Tensor | None] = []
    for a in arguments:
        need = isinstance(a, Tensor) and a.requires_grad
        needs.append(need)
        sources.append((a.step or a) if need else None)
    result = op(spec, *arrays)
    results = result if isinstance(result, tuple) else (result,)
    tensors = tuple(map(Tensor, results))
    if op.vjp is not NO_GRADIENT:
        values = tuple([Value(t.shape, t.dtype) for t in tensors])
        step = Step(Node(op, spec, tuple(map(_value, arguments)), values), tuple(needs), tuple(sources))
        reads = () if op.vjp is None else op.vjp.reads(spec, step.needs)
        step.inputs = tuple([a if i in reads else None for i, a in enumerate(arrays)])
        step.results = tuple([a if ~j in reads else None for j, a in enumerate(results)])
        for tensor, value in zip(tensors, values, strict=True):
            if tensor.dtype.kind == "f":
                tensor.requires_grad, tensor.step, tensor.value = True, step, value
    return tensors if isinstance(result, tuple) else tensors[0]


def register(tensor: Tensor, function: Callable[[Array], Array | None]) -> Hook:
    """See :meth:`cnnfast.Tensor.register_hook`."""
    if not tensor.requires_grad:
        raise GradientError("register_hook: expected a tensor that wants a gradient (requires_grad=True)")
    if tensor._hooks is None:
        tensor._hooks = {}
        if tensor.step is not None:
            value = _value(tensor)
            assert value is not None
            tensor.step.hooks[value] = tensor._hooks
    return Hook(tensor._hooks, function)


# --- backward --------------------------------------------------------------------------------------


class _Sum:
    """A gradient while parts of it are still to come."""

    __slots__ = ("array", "own")

    def __init__(self) -> None:
        self.array: Array | None = None
        self.own = False  # whether nobody else holds the array

    def add(self, part: Array, own: bool) -> None:
        if self.array is None:
            self.array, self.own = part, own
        elif self.own or own:
            to = self.array if self.own else part
            self.array, self.own = np.add(self.array, part, out=to), True
        else:
            self.array, self.own = np.asarray(self.array + part), True


def _steps_behind(step: Step) -> list[Step]:
    """A step and all that it depends on, in the order of execution."""
    seen, open_ = {step}, [step]
    while open_:
        for source in open_.pop().sources:
            if isinstance(source, Step) and source not in seen:
                seen.add(source)
                open_.append(source)
    if any(s.freed for s in seen):
        name = next(s.node.op.name for s in seen if s.freed)
        raise GradientError(
            f"backward: what {name} had remembered was freed by an earlier backward; "
            "pass retain_graph=True to that one to go back a second time"
        )
    return sorted(seen, key=lambda s: s.number)


def _start(tensor: Tensor, grad: Any) -> Array:
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
        return np.ones(tensor.shape, tensor.dtype)
    array = np.asarray(grad)
    if array.dtype != tensor.dtype:
        raise DTypeError(f"backward: grad is {array.dtype}, the tensor is {tensor.dtype}; expected one type")
    if array.shape != tensor.shape:
        raise ShapeError(f"backward: grad has shape {array.shape}, the tensor has {tensor.shape}")
    return np.require(array, tensor.dtype, ["C", "A"]).view(tensor.dtype, np.ndarray)


def _hooked(hooks: dict[int, Hook] | None, grad: Array) -> Array:
    """The gradient after all hooks have seen it."""
    for hook in list(hooks.values()) if hooks else ():
        new = hook.function(grad)
        if new is not None:
            array = np.asarray(new)
            if array.shape != grad.shape:
                raise ShapeError(f"register_hook: a hook gave shape {array.shape}, expected {grad.shape}")
            grad = np.require(array, grad.dtype, ["C"])
    return grad


def _gradients(step: Step, grads: list[Array | None]) -> Sequence[Array | None]:
    """What the operator's rule says."""
    op, vjp = step.node.op, step.node.op.vjp
    if vjp is None or vjp.function is None:
        raise GradientError(f"backward: {op.name} has no gradient")
    given: Any = tuple(grads) if len(grads) > 1 else grads[0]
    found = vjp.function(step.node.spec, step.needs, given, step.inputs, step.results)
    count = len(step.needs)  # arguments may be left out at the end
    return (*found, *[None] * count)[:count]


def _is_own(part: Array, others: list[Array]) -> bool:
    """Whether an array is nobody else's, so that it may be added to."""
    if not part.flags.carray:
        return False
    return not any(np.may_share_memory(part, o) for o in others)


def _go_back(step: Step, sums: dict[Value | Tensor, _Sum], keep: bool) -> None:
    """One step: gradients of its results into those of its arguments."""
    grads: list[Array | None] = []
    for output in step.node.outputs:
        total = sums.pop(output, None)
        array = None if total is None else total.array
        hooks = step.hooks.get(output) if step.hooks else None
        grads.append(_hooked(hooks, array) if hooks and array is not None else array)
    if any(g is not None for g in grads):
        _share_out(step, grads, _gradients(step, grads), sums)
    if not keep:
        step.free()


def _share_out(
    step: Step, grads: list[Array | None], parts: Sequence[Array | None], sums: dict[Value | Tensor, _Sum]
) -> None:
    """Add what an operator's rule gave to the gradients of its arguments."""
    held = [a for a in (*grads, *step.inputs, *step.results) if isinstance(a, np.ndarray)]
    for i, part in enumerate(parts):
        value = step.node.inputs[i]
        if part is None or value is None or not step.needs[i]:
            continue
        array = np.asarray(part, value.dtype)
        if array.shape != value.shape:
            name = step.node.op.name
            raise ShapeError(f"{name}: gradient {i} has shape {array.shape}, expected {value.shape}")
        source = step.sources[i]
        key = source if isinstance(source, Tensor) else value
        others = [p for j, p in enumerate(parts) if j != i and isinstance(p, np.ndarray)]
        sums.setdefault(key, _Sum()).add(array, _is_own(array, [*held, *others]))


def _finish(leaf: Tensor, total: _Sum | None) -> None:
    """A gradient that is complete, into ``leaf.grad``."""
    if total is None or total.array is None:
        return
    grad = _hooked(leaf._hooks, total.array)
    own = total.own and not leaf._hooks  # what a hook has seen may be kept there
    with _accumulating:
        if leaf.grad is None:
            leaf.grad = grad if own else grad.copy()
        else:
            np.add(leaf.grad, grad, out=leaf.grad)


def backward(tensor: Tensor, grad: Any = None, retain_graph: bool = False) -> None:
    """See :meth:`cnnfast.Tensor.backward`."""
    start = _start(tensor, grad)
    total = _Sum()
    total.add(start, own=grad is None)
    if tensor.step is None:
        _finish(tensor, total)
        return
    steps = _steps_behind(tensor.step)
    # A leaf is complete when the last step that reads it is done.
    waiting = Counter(source for step in steps for source in step.sources if isinstance(source, Tensor))
    value = _value(tensor)
    assert value is not None
    sums: dict[Value | Tensor, _Sum] = {value: total}
    del start, total
    while steps:
        step = steps.pop()
        leaves = [source for source in step.sources if isinstance(source, Tensor)]
        _go_back(step, sums, retain_graph)
        for leaf in leaves:
            waiting[leaf] -= 1
            if not waiting[leaf]:
                _finish(leaf, sums.pop(leaf, None))
