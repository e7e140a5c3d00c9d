"""Compiled networks: traced, optimised, planned and packed once, then run by one native call."""

from __future__ import annotations

import functools
import os
import threading
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from . import config
from .cuda.array import DeviceArray
from .errors import BackendError, DTypeError, ShapeError
from .graph.interpret import interpret
from .graph.ir import Graph
from .graph.passes import fuse_depthwise_blocks, fuse_gates, fuse_pooling, optimize
from .graph.trace import shape_of, shapes_of, trace
from .ops.depthwise_block import worth_fusing
from .ops.registry import F32, is_plain
from .tensor import Tensor

if TYPE_CHECKING:
    from .cuda.program import CudaProgram
    from .graph.description import Description
    from .graph.program import Program
    from .nn.module import Module

Array = np.ndarray
Shapes = tuple[tuple[int, ...], ...]

__all__ = ["Engine", "compile", "load_engine"]

DEVICES = ("cpu", "numpy", "cuda")
# Plans for so many input shapes are kept; the one that was not used for longest goes first.
MOST_PLANS = 8


class Engine:
    """A network made ready to run; made by :func:`compile`.

    Calling it with arrays gives what the module gives for them. Many threads may call it at once. Weights
    are those of the time when they were first needed: compile again after changing them.

    Attributes
    ----------
    name : str
    device : str
    threads : int or None
    dtype : numpy.dtype or cnnfast.cuda.bfloat16
        What the network computes in.
    """

    def __init__(
        self,
        source: Module | Graph | None,
        device: str,
        threads: int | None,
        winograd: int,
        dtype: Any = F32,
        lean: bool | None = None,
    ) -> None:
        self.name = source.name if isinstance(source, Graph) else type(source).__name__
        self.device, self.threads, self.dtype = device, threads, dtype
        self._source = source
        self._lock = threading.Lock()
        self._made: OrderedDict[Shapes, Program | CudaProgram | Graph] = OrderedDict()
        self._quick: Any = None  # the native call for the last shapes
        if device == "cpu":
            from .graph.lowering import Store
            from .graph.program import Options

            self._options: Any = Options(Store(), threads or 0, winograd, lean)
        elif device == "cuda":
            from .cuda.program import CudaOptions

            self._options = CudaOptions(dtype)

    def __call__(self, *inputs: Any) -> Any:
        """Run on arrays.

        Parameters
        ----------
        *inputs : array_like
            One float32 array N,H,W,C (or whatever the network takes) per input, or one list of them all.
            An engine of device "cuda" also takes device arrays, of any floating-point type.

        Returns
        -------
        ndarray, or arrays nested as the module nests them
            Device arrays where device arrays were given.

        Raises
        ------
        ShapeError, DTypeError, MemoryError
        """
        quick = self._quick
        try:
            if quick is not None:
                result = quick(*inputs)
                if result is not None:
                    return result
            return self._run(self._arrays(inputs))
        except MemoryError as error:
            raise MemoryError(f"{self._title}: not enough memory ({error})") from None

    def _run(self, arrays: list[Any]) -> Any:
        shapes = tuple([a.shape for a in arrays])
        program: Any = self._ready(shapes)
        if isinstance(program, Graph):
            return interpret(program, *arrays)
        for value, array in zip(program.inputs, arrays, strict=True):
            if array.dtype != value.dtype and type(array) is not DeviceArray:
                raise DTypeError(f"{self._title}: expected {value.name} of {value.dtype}, got {array.dtype}")
        if self.device == "cpu":
            self._quick = program.quick
        return program.run(arrays)

    @property
    def _title(self) -> str:
        return f"Engine({self.name})"

    def _arrays(self, inputs: tuple[Any, ...]) -> list[Any]:
        """Plain arrays of what was given."""
        if len(inputs) == 1 and isinstance(inputs[0], (list, tuple)) and _holds_arrays(inputs[0]):
            inputs = tuple(inputs[0])
        arrays: list[Any] = []
        for i, given in enumerate(inputs):
            if type(given) is DeviceArray:
                if self.device != "cuda":
                    raise BackendError(f"{self._title}: device {self.device!r} takes arrays in host memory")
                arrays.append(given)
                continue
            array = (
                given if is_plain(given) else np.asarray(given.data if isinstance(given, Tensor) else given)
            )
            if array.dtype.kind == "f" and array.dtype.itemsize == 4:
                array = np.require(array, F32, ["C", "A"]).view(F32, np.ndarray)
            elif array.dtype.kind not in "biu" or not isinstance(self._source, Graph):
                raise DTypeError(
                    f"{self._title}: expected float32, got {array.dtype} for input {i}: "
                    "convert with .astype(numpy.float32)"
                )
            arrays.append(array)
        return arrays

    def prepare(self, *shapes: Sequence[int]) -> None:
        """Compile for inputs of these shapes, one per input, ahead of the first call with them."""
        self._ready(tuple([shape_of(f"{self._title}.prepare", shape) for shape in shapes]))

    def _ready(self, shapes: Shapes) -> Program | CudaProgram | Graph:
        """The program (or graph, for the interpreter) for inputs of these shapes."""
        with self._lock:
            ready = self._made.get(shapes)
            if ready is None:
                graph = self._graph(shapes)
                if self.device == "numpy":
                    ready = graph
                elif self.device == "cuda":
                    from .cuda.program import CudaProgram

                    ready = CudaProgram(optimize(graph), self._options)
                else:
                    from .graph.program import Program

                    worth = functools.partial(worth_fusing, winograd=self._options.winograd)
                    blocks = fuse_depthwise_blocks(optimize(graph), worth)
                    ready = Program(fuse_pooling(fuse_gates(blocks)), self._options)
                self._made[shapes] = ready
                while len(self._made) > MOST_PLANS:
                    self._made.popitem(last=False)
            else:
                self._made.move_to_end(shapes)
            return ready

    def _graph(self, shapes: Shapes) -> Graph:
        """The graph for inputs of these shapes, as traced."""
        source = self._source
        if source is None:
            known = " or ".join(map(_show, self._made))
            raise ShapeError(f"{self._title}: the file was compiled for {known}, got {_show(shapes)}")
        if not isinstance(source, Graph):
            return trace(source, *shapes)
        wanted = tuple([v.shape for v in source.inputs])
        if shapes != wanted:
            came = f"expected inputs of shapes {_show(wanted)}, got {_show(shapes)}"
            raise ShapeError(f"{self._title}: {came}")
        return source

    def describe(self, input_shape: Any = None, *, runs: int = 5) -> Description:
        """What every step does, and how long it takes.

        Parameters
        ----------
        input_shape : tuple of int, or list of such tuples, optional
            As for :func:`compile`; what was compiled or used last when left out.
        runs : int
            Runs on random numbers that are timed; the times are medians of them.

        Returns
        -------
        Description
            ``print`` shows the table.

        Raises
        ------
        BackendError
            For the interpreter, which has no steps.
        ValueError
            If nothing is compiled yet and no shape is given.
        """
        if input_shape is None and not self._made:
            raise ValueError(f"{self._title}.describe: nothing is compiled yet; give an input_shape")
        given = input_shape is not None
        shapes = shapes_of(f"{self._title}.describe", input_shape) if given else next(reversed(self._made))
        program: Any = self._ready(shapes)
        if isinstance(program, Graph):
            raise BackendError(f"{self._title}.describe: the interpreter of device 'numpy' has no steps")
        random = np.random.default_rng(0)
        arrays = [random.standard_normal(v.shape).astype(v.dtype) for v in program.inputs]
        program.run(arrays)
        times = np.median([program.timed(arrays) for _ in range(max(1, runs))], axis=0)
        from .graph.description import DescribedStep, Description

        steps = [
            DescribedStep(
                row.operator, row.scope, row.algorithm, row.inputs, row.output, row.cost.flops / 2, t
            )
            for row, t in zip(program.rows, map(float, times), strict=True)
        ]
        return Description(self.name, shapes, steps, program.arena_bytes, program.weights_bytes)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write what is compiled to a file that :func:`load_engine` starts from at once.

        The file holds the weights as the kernels of this instruction level read them, so it is for machines
        of this kind and for this version of the package; keep the weights themselves elsewhere.

        Raises
        ------
        BackendError
            For the interpreter.
        ValueError
            If nothing is compiled yet.
        OSError
        """
        if self.device != "cpu":
            raise BackendError(f"{self._title}.save: device {self.device!r} has nothing that could be saved")
        from .graph.program import Program
        from .graph.saved import save

        with self._lock:
            programs = [p for p in self._made.values() if isinstance(p, Program)]
        if not programs:
            raise ValueError(f"{self._title}.save: nothing is compiled yet; call prepare first")
        save(path, self.name, programs, self._options)

    def __reduce__(self) -> Any:
        raise TypeError(f"{self._title}: an engine cannot be copied or pickled; see save and load_engine")

    def __repr__(self) -> str:
        kind = "" if self.device != "cuda" else f", dtype={self.dtype}"
        shapes = ", ".join(_show(s) for s in self._made) or "none yet"
        limit = "" if self.threads is None else f", threads={self.threads}"
        return f"Engine({self.name}, device={self.device!r}{kind}{limit}, compiled for {shapes})"


def load_engine(path: str | os.PathLike[str], *, threads: int | None = None) -> Engine:
    """An engine out of a file that :meth:`Engine.save` wrote, for the shapes that it was compiled for.

    Nothing is packed, and weights are mapped into memory: they are read when they are first used, and
    processes that load one file share them. The file must stay as it is as long as the engine lives.

    Parameters
    ----------
    path : str or path
    threads : int, optional
        As for :func:`compile`.

    Returns
    -------
    Engine

    Raises
    ------
    WeightsError
        If the file is damaged, of another version, or was compiled for another instruction level.
    BackendError, OSError
    """
    reason = config._unusable("cpu")
    if reason:
        raise BackendError(f"load_engine: device 'cpu' cannot be used: {reason}")
    from .graph.saved import load

    engine = Engine(None, "cpu", _checked_threads("load_engine", threads), True)
    engine.name, programs, engine._options = load(path, threads or 0)
    engine._made.update(programs)
    return engine


def _checked_threads(where: str, threads: int | None) -> int | None:
    return None if threads is None else config.checked_threads(f"{where}: threads", threads)


def _holds_arrays(values: Sequence[Any]) -> bool:
    return any(isinstance(v, (np.ndarray, Tensor, DeviceArray)) for v in values)


def _show(shapes: Shapes) -> str:
    return " ".join("(" + ",".join(map(str, shape)) + ")" for shape in shapes)


def compile(
    model_or_graph: Module | Graph,
    input_shape: Any = None,
    *,
    device: str = "cpu",
    dtype: Any = "float32",
    threads: int | None = None,
    winograd: bool | int = True,
    lean: bool | None = None,
) -> Engine:
    """Make a network ready to run as fast as this machine can.

    The network is traced in evaluation mode; normalisations, activations, sums and padding become part of the
    convolutions before or after them; memory is planned, weights are packed, and what is left is a list of
    native steps.

    Parameters
    ----------
    model_or_graph : Module or Graph
        A graph runs on the shapes it was traced for, a module on any that it takes.
    input_shape : tuple of int, or list of such tuples, optional
        What to compile for now, e.g. (1, 224, 224, 3); one per input. Other shapes are compiled when they
        first come.
    device : {"cpu", "numpy", "cuda"}
        "numpy" is the interpreter on the NumPy references: slow, and what the others are compared with.
        "cuda" keeps weights and memory on the device and starts each run as one captured graph.
    dtype : {"float32", "bfloat16", "float16"}
        What device "cuda" computes in, with sums in float32; inputs and results are float32.
    threads : int, optional
        At most so many threads for a run of this engine; as :func:`cnnfast.set_num_threads` says otherwise.
    winograd : bool or 6
        Whether convolutions may use Winograd's algorithm, up to four times as fast and less exact: an
        output is off by up to 64 units (2**-24 of the sum of absolute products), where direct arithmetic
        stays within 8. Wide 1x1 convolutions then take Strassen's product, which saves an eighth; its units
        are those of a pair of pixels. 6 allows tiles of 6x6 outputs beside those of 4x4 and 5x5: up to
        a tenth faster on large pictures, with up to five times the error.
    lean : bool, optional
        On device "cpu", whether to prefer forms of weights that take little memory where that costs little
        time: Winograd's algorithm and Strassen's product read up to 5.4 times the plain weights, unless they
        are transformed again in every run. Left open, a network is made lean if its weights would take more
        than 192 MiB, two fifths of that can be saved, and the convolutions are expected to take at most 6 %
        longer: so is ResNet-50.

    Returns
    -------
    Engine

    Raises
    ------
    BackendError
        If the device cannot be used, or has no kernel for an operator; nothing falls back.
    DTypeError
        If the device does not compute in that type.
    ShapeError
        If the network does not take the input shape.
    TypeError
        For what is neither a module nor a graph.
    ValueError
    """
    from .nn.module import Module

    if device not in DEVICES:
        raise BackendError(f"compile: expected device {' or '.join(map(repr, DEVICES))}, got {device!r}")
    reason = config._unusable(device)
    if reason:
        raise BackendError(f"compile: device {device!r} cannot be used: {reason}")
    if not isinstance(model_or_graph, (Module, Graph)):
        raise TypeError(f"compile: expected a Module or a Graph, got {type(model_or_graph).__name__}")
    if winograd not in (True, False, 6):
        raise ValueError(f"compile: winograd must be True, False or 6, got {winograd!r}")
    if lean not in (True, False, None):
        raise ValueError(f"compile: lean must be True, False or None, got {lean!r}")
    if device == "cuda":
        from .cuda.program import checked_dtype

        dtype = checked_dtype("compile", dtype)
    elif str(dtype) not in ("float32", str(np.float32)):
        raise DTypeError(f"compile: device {device!r} computes in float32, got {dtype}")
    else:
        dtype = F32
    tile = 6 if winograd == 6 else 5 if winograd else 0
    lean = None if lean is None else bool(lean)  # files hold true, false or null, not what equals them
    engine = Engine(model_or_graph, device, _checked_threads("compile", threads), tile, dtype, lean)
    if input_shape is not None:
        engine._ready(shapes_of("compile", input_shape))
    elif isinstance(model_or_graph, Graph):
        engine.prepare(*[v.shape for v in model_or_graph.inputs])
    return engine
