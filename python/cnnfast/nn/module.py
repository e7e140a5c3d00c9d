"""Modules: named parameters and buffers in a tree, and the layouts their weights have in files."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, ClassVar

import numpy as np

from .. import cuda
from ..cuda import DeviceArray
from ..errors import BackendError, WeightsError
from ..graph.trace import scope, tracing
from ..ops.registry import integer
from ..tensor import GIVEN, Hook, Parameter, Tensor, no_grad

Array = np.ndarray

__all__ = ["Module"]


class Module:
    """Base of all layers and networks.

    Assigning a :class:`~cnnfast.tensor.Parameter` or a module to an attribute registers it under that
    name; :meth:`register_buffer` registers an array that belongs to the state but is not trained.
    Calling a module with arrays gives arrays, without a tape; with tensors gives tensors.

    Attributes
    ----------
    training : bool
        Whether layers that differ in training (dropout, batch normalisation) behave as in training.
    """

    # How torch stores a parameter of this class: name -> (to torch, from torch), where that differs.
    layouts: ClassVar[dict[str, str]] = {}

    training: bool
    _parameters: dict[str, Parameter]
    _buffers: dict[str, Any]  # host or device arrays
    _modules: dict[str, Module]

    def __new__(cls, *args: Any, **kwargs: Any) -> Module:
        # Here and not in __init__, so that subclasses need not call super().__init__().
        self = super().__new__(cls)
        for name in ("_parameters", "_buffers", "_modules"):
            object.__setattr__(self, name, {})
        object.__setattr__(self, "training", True)
        object.__setattr__(self, "frozen", False)
        object.__setattr__(self, "path", "")
        object.__setattr__(self, "_before", {})
        object.__setattr__(self, "_after", {})
        return self

    def __setattr__(self, name: str, value: Any) -> None:
        if name in self._parameters and not (value is None or isinstance(value, Parameter)):
            raise TypeError(
                f"{type(self).__name__}: expected a Parameter or None as {name!r}, got "
                f"{type(value).__name__}: other values go to {name}.data"
            )
        for held in (self._parameters, self._modules):
            held.pop(name, None)
        if isinstance(value, Parameter):
            self._parameters[name] = value
        elif isinstance(value, Module):
            self._modules[name] = value
        elif name in self._buffers:
            self._buffers[name] = value if isinstance(value, DeviceArray) else np.asarray(value)
        else:
            object.__setattr__(self, name, value)
            return
        self.__dict__.pop(name, None)

    def __getattr__(self, name: str) -> Any:
        own = self.__dict__
        if "_modules" in own:  # not in the middle of being copied
            for held in (own["_modules"], own["_parameters"], own["_buffers"]):
                if name in held:
                    return held[name]
        raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")

    def register_buffer(self, name: str, array: Any) -> None:
        """An array that is saved with the parameters but not trained."""
        self._buffers[name] = np.asarray(array)

    def add_module(self, name: str, module: Module) -> None:
        """A child under any name, also one that is no identifier (``"0"``)."""
        if not isinstance(module, Module):
            kind = type(module).__name__
            raise TypeError(f"{type(self).__name__}: expected a Module as {name!r}, got {kind}")
        self._modules[name] = module

    # --- calls ---------------------------------------------------------------------------------

    def forward(self, *inputs: Any) -> Any:
        """What the module computes, written with operators of :mod:`cnnfast.ops` on tensors."""
        raise NotImplementedError(f"{type(self).__name__} has no forward")

    def __call__(self, *inputs: Any) -> Any:
        if tracing():
            with scope(self.path):
                return self.forward(*inputs)
        for x in inputs:
            if isinstance(x, Tensor) or (isinstance(x, (list, tuple)) and _holds_tensors(x)):
                return self._forward(inputs)
        with no_grad():
            inputs = tuple([Tensor(x) if isinstance(x, (np.ndarray, DeviceArray)) else x for x in inputs])
            return _unwrap(self._forward(inputs))

    def _forward(self, inputs: tuple[Any, ...]) -> Any:
        """:meth:`forward` and the hooks around it."""
        for hook in list(self._before.values()) if self._before else ():
            new = hook.function(self, inputs)
            if new is not None:
                inputs = new if isinstance(new, tuple) else (new,)
        result = self.forward(*inputs)
        for hook in list(self._after.values()) if self._after else ():
            new = hook.function(self, inputs, result)
            if new is not None:
                result = new
        return result

    def register_forward_pre_hook(self, hook: Callable[[Module, tuple[Any, ...]], Any]) -> Hook:
        """Call ``hook(module, inputs)`` before every forward pass; what it returns takes the inputs' place.

        Hooks see the tensors of a call, and are left out while a network is traced or compiled.

        Returns
        -------
        Hook
            Its ``remove()`` takes the function off again.
        """
        return Hook(self._before, hook)

    def register_forward_hook(self, hook: Callable[[Module, tuple[Any, ...], Any], Any]) -> Hook:
        """Call ``hook(module, inputs, result)`` after every forward pass, e.g. to keep activations.

        What it returns, if anything, takes the place of the result. Otherwise as for
        :meth:`register_forward_pre_hook`.
        """
        return Hook(self._after, hook)

    @property
    def hooked(self) -> bool:
        """Whether hooks see the calls."""
        return bool(self._before or self._after)

    # --- the tree ------------------------------------------------------------------------------

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """This module ("") and all below it with their paths."""
        yield prefix, self
        for name, child in self._modules.items():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        for _, module in self.named_modules():
            yield module

    def children(self) -> Iterator[Module]:
        yield from self._modules.values()

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """Parameters with names as in ``state_dict``; one that is shared comes once."""
        seen: set[int] = set()
        for path, module in self.named_modules():
            for name, parameter in module._parameters.items():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{path}.{name}" if path else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        for _, parameter in self.named_parameters():
            yield parameter

    def named_buffers(self) -> Iterator[tuple[str, Array]]:
        for path, module in self.named_modules():
            for name, buffer in module._buffers.items():
                yield f"{path}.{name}" if path else name, buffer

    def buffers(self) -> Iterator[Array]:
        for _, buffer in self.named_buffers():
            yield buffer

    def apply(self, function: Callable[[Module], Any]) -> Module:
        """Call a function with every module of the tree, children first."""
        for child in self.children():
            child.apply(function)
        function(self)
        return self

    # --- modes ---------------------------------------------------------------------------------

    def train(self, mode: bool = True) -> Module:
        """Behave as in training; frozen modules stay in evaluation mode."""
        for module in self.modules():
            module.training = mode and not module.frozen
        return self

    def eval(self) -> Module:
        """Behave as in use."""
        return self.train(False)

    def freeze(self, frozen: bool = True) -> Module:
        """Keep parameters and statistics of this part as they are, whatever is trained around it."""
        for module in self.modules():
            module.frozen = frozen
            if frozen:
                module.training = False
            for parameter in module._parameters.values():
                parameter.requires_grad = not frozen
        return self

    def zero_grad(self) -> None:
        """Forget the gradients of all parameters."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self, device: str) -> Module:
        """Move parameters, their gradients and floating-point buffers.

        Parameters
        ----------
        device : {"cpu", "cuda"}

        Returns
        -------
        Module
            Itself.

        Raises
        ------
        BackendError
            If the device cannot be used.
        """
        if device not in ("cpu", "cuda"):
            raise BackendError(f"{type(self).__name__}.to: expected 'cpu' or 'cuda', got {device!r}")
        if device == "cuda":
            cuda.module()

        def moved(array: Any) -> Any:
            if device == "cuda":
                return cuda.asarray(array) if array.dtype == np.float32 else array
            return array.numpy() if isinstance(array, DeviceArray) else array

        for parameter in self.parameters():
            parameter.data = moved(parameter.data)
            parameter.grad = None if parameter.grad is None else moved(parameter.grad)
        for module in self.modules():
            for name, buffer in module._buffers.items():
                module._buffers[name] = moved(buffer)
        return self

    def initialize(self, seed: int = 0) -> Module:
        """Give every parameter that was made of a shape its initial value, drawn when it is first looked at.

        Each depends on the seed, a whole number from 0, and the parameter's name alone.
        """
        seed = integer("initialize", "seed", seed, 0)
        for path, module in self.named_modules():
            module.path = path
        for name, parameter in self.named_parameters():
            if parameter.init != GIVEN:
                parameter.seed = (seed, name)
                parameter._data = None
        return self

    # --- state ---------------------------------------------------------------------------------

    def state_dict(self, layout: str = "cnnfast") -> dict[str, Array]:
        """All parameters and buffers by name.

        Parameters
        ----------
        layout : {"cnnfast", "torch"}
            ``"cnnfast"``: as the operators take them, sharing memory in the host; ``"torch"``: as torch
            stores them, e.g. (C_out, C_in, KH, KW), to be saved for or read from other tools.
        """
        _known(layout)
        state: dict[str, Array] = {}
        for path, module in self.named_modules():
            prefix = f"{path}." if path else ""
            for name, parameter in module._parameters.items():
                data = parameter.numpy()
                if layout == "torch" and name in module.layouts:
                    data = np.ascontiguousarray(to_torch(module, name, data))
                state[prefix + name] = data
            for name, buffer in module._buffers.items():
                state[prefix + name] = buffer.numpy() if isinstance(buffer, DeviceArray) else buffer
        return state

    def load_state_dict(
        self, state: Mapping[str, Any], *, strict: bool = True, layout: str = "cnnfast"
    ) -> tuple[list[str], list[str]]:
        """Take over parameters and buffers by name.

        Parameters
        ----------
        state : mapping of str to array
            Copied only where the layout or the element type changes.
        strict : bool
            Whether missing and unexpected names are errors; shapes that do not fit always are.
        layout : {"cnnfast", "torch"}
            As for :meth:`state_dict`.

        Returns
        -------
        missing, unexpected : list of str

        Raises
        ------
        WeightsError
            Listing everything that does not fit at once; nothing is changed then.
        """
        _known(layout)
        missing, wrong = [], []
        fitting: list[tuple[Module, str, Any, Any]] = []
        names = set()
        for path, module in self.named_modules():
            prefix = f"{path}." if path else ""
            state_of: dict[str, Any] = {**module._parameters, **module._buffers}
            for name, held in state_of.items():
                full = prefix + name
                names.add(full)
                if full not in state:
                    missing.append(full)
                    continue
                given = state[full] if hasattr(state[full], "shape") else np.asarray(state[full])
                turned = layout == "torch" and name in module.layouts
                wanted = torch_shape(module, name, held.shape) if turned else held.shape
                if given.shape != wanted:
                    wrong.append(f"{full} has shape {given.shape}, expected {wanted}")
                elif given.dtype.kind not in "fiub" or (held.dtype.kind == "f") != (given.dtype.kind == "f"):
                    wrong.append(f"{full} is {given.dtype}, expected {held.dtype}")
                else:
                    fitting.append((module, name, held, given))
        unexpected = [name for name in state if name not in names]
        problems = list(wrong)
        # Counters of batches are of no use here, and older files have none.
        absent = [name for name in missing if not name.endswith("num_batches_tracked")]
        if strict:
            problems += [f"{name} is missing" for name in absent]
            problems += [f"{name} is not part of this network" for name in unexpected]
        if problems:
            title = f"{type(self).__name__}.load_state_dict: {len(problems)} entries do not fit"
            raise WeightsError("\n  ".join([title, *problems]))
        # All are read before the first is set: a file may turn out to be corrupt on the way.
        arrays = [_fitted(module, name, held, given, layout) for module, name, held, given in fitting]
        for (module, name, _, _), array in zip(fitting, arrays, strict=True):
            parameter = module._parameters.get(name)
            present = module._buffers[name] if parameter is None else parameter._data
            if isinstance(present, DeviceArray):
                array = cuda.asarray(array)
            if parameter is not None:
                parameter.data = array
            else:
                module._buffers[name] = array
        return absent, unexpected

    def __repr__(self) -> str:
        head = f"{type(self).__name__}({self.extra_repr()}"
        if not self._modules:
            return head + ")"
        lines = [head]
        for name, child in self._modules.items():
            lines.append("  " + f"({name}): {child!r}".replace("\n", "\n  "))
        return "\n".join([*lines, ")"])

    def extra_repr(self) -> str:
        """Parameters of the layer as its repr shows them."""
        return ""


def _known(layout: str) -> None:
    if layout not in ("cnnfast", "torch"):
        raise ValueError(f"layout must be 'cnnfast' or 'torch', got {layout!r}")


def _fitted(module: Module, name: str, held: Any, given: Any, layout: str) -> Any:
    """An entry as the module holds it; what lies in a file is read block by block."""
    turned = layout == "torch" and name in module.layouts
    if not hasattr(given, "blocks"):
        data = from_torch(module, name, np.asarray(given), held.shape) if turned else np.asarray(given)
        return np.ascontiguousarray(data, held.dtype).reshape(held.shape)
    if not turned or module.layouts[name] == "depthwise":
        whole = given.array()
        data = from_torch(module, name, whole, held.shape) if turned else whole
        return np.ascontiguousarray(data, held.dtype).reshape(held.shape)
    # The first axis there is the last one here.
    result = np.empty(held.shape, held.dtype)
    at = 0
    for block in given.blocks():
        part = (*held.shape[:-1], len(block))
        result[..., at : at + len(block)] = from_torch(module, name, block, part)
        at += len(block)
    return result


def _holds_tensors(values: Any) -> bool:
    """Whether there is a tensor in a list, however deep."""
    return any(isinstance(x, Tensor) or (isinstance(x, (list, tuple)) and _holds_tensors(x)) for x in values)


def _unwrap(result: Any) -> Any:
    if isinstance(result, Tensor):
        return result.data
    if isinstance(result, (tuple, list)):
        return type(result)(_unwrap(r) for r in result)
    if isinstance(result, dict):
        return {key: _unwrap(r) for key, r in result.items()}
    return result


# --- layouts of files ------------------------------------------------------------------------------
# "conv": (KH,KW,I,O) here, (O,I,KH,KW) there. "depthwise": (KH,KW,C,M), (C*M,1,KH,KW). "transpose":
# (KH,KW,O/groups,I), (I,O/groups,KH,KW). "linear": (in,out), (out,in), the inputs being a feature map's
# pixels and channels in the other order where the layer has `feature_map` = (H, W, C).


def torch_shape(module: Module, name: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a parameter in torch's layout."""
    kind = module.layouts[name]
    if kind == "linear":
        return shape[::-1]
    if kind == "depthwise":
        return (shape[2] * shape[3], 1, shape[0], shape[1])
    return (shape[3], shape[2], shape[0], shape[1])


def to_torch(module: Module, name: str, data: Array) -> Array:
    """A parameter in torch's layout."""
    kind = module.layouts[name]
    if kind == "linear":
        if (feature_map := getattr(module, "feature_map", None)) is not None:
            h, w, c = feature_map
            data = data.reshape(h, w, c, -1).transpose(2, 0, 1, 3).reshape(data.shape)
        return data.T
    if kind == "depthwise":
        data = data.reshape(*data.shape[:2], 1, -1)
    return data.transpose(3, 2, 0, 1)


def from_torch(module: Module, name: str, data: Array, shape: tuple[int, ...]) -> Array:
    """A parameter from torch's layout, as the operators take it."""
    kind = module.layouts[name]
    if kind == "linear":
        data = data.T
        if (feature_map := getattr(module, "feature_map", None)) is not None:
            h, w, c = feature_map
            data = data.reshape(c, h, w, -1).transpose(1, 2, 0, 3).reshape(shape)
        return data
    return data.transpose(2, 3, 1, 0).reshape(shape)
