"""A pickle reader that can only build containers and scalars.

Python's own unpickler calls what a file names. This one has no way to import or call anything: a global is
looked up in a table that the caller gives, and a call reaches only the constructors of that table. Sets
become lists and ordered dictionaries plain ones, attributes of objects are dropped, and all work is counted.
"""

from __future__ import annotations

import pickle
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn

from cnnfast.errors import WeightsError
from cnnfast.weights.limits import MAX_PICKLE_STEPS, shown


@dataclass(frozen=True)
class Constructor:
    """Something that a file may call: a function of the machine and of the tuple of arguments."""

    build: Callable[[Machine, tuple], Any]


class Machine:
    """The state of reading one pickle out of ``data``.

    Parameters
    ----------
    data : bytes
        Holds the pickle; what follows it is left alone.
    position : int
        Where the pickle begins. After `run` it is the byte after its end.
    place : str
        What the pickle is, for messages.
    allowed : mapping
        The globals that may occur, by ``"module.name"``.
    load_persistent : callable, optional
        Turns a persistent id into a value. Without it such ids are refused.
    """

    def __init__(
        self,
        data: bytes,
        position: int,
        place: str,
        allowed: Mapping[str, object],
        load_persistent: Callable[[Machine, object], object] | None = None,
    ) -> None:
        self.data = data
        self.position = position
        self.place = place
        self.allowed = allowed
        self.load_persistent = load_persistent
        self.steps_left = MAX_PICKLE_STEPS
        self.memo: dict[int, Any] = {}
        # A mark puts the current stack aside, so that nothing below the mark can be reached.
        self.stack: list[Any] = []
        self.stacks_below: list[list[Any]] = []

    def run(self) -> object:
        """Execute the pickle and return its value."""
        while True:
            self.spend(1)
            code = self.take(1)
            if code == pickle.STOP:
                value = self.pop()
                if self.stack or self.stacks_below:
                    self.fail("expected an empty stack at the end, came leftovers")
                return value
            action = _ACTIONS.get(code)
            if action is None:
                self.fail(f"expected an opcode for containers and scalars, came {code!r}")
            action(self)

    def fail(self, what: str) -> NoReturn:
        """Raise a WeightsError that names the place in the pickle."""
        raise WeightsError(f"{self.place}, near byte {self.position}: {what}")

    def spend(self, steps: int) -> None:
        """Count work; a constructor counts the items that it copies."""
        self.steps_left -= steps
        if self.steps_left < 0:
            self.fail(f"expected at most {MAX_PICKLE_STEPS} steps, came more")

    def take(self, count: int) -> bytes:
        """The next ``count`` bytes."""
        end = self.position + count
        if end > len(self.data):
            self.fail(f"expected {count} more bytes, came {len(self.data) - self.position} (cut off?)")
        taken = self.data[self.position : end]
        self.position = end
        return taken

    def unpack(self, form: str) -> Any:
        """The next number, in the form that `struct` calls ``form``."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """The text up to the next newline."""
        end = self.data.find(b"\n", self.position, self.position + 256)
        if end < 0:
            self.fail("expected a line of at most 255 bytes, came no end of line")
        text = self.text(end - self.position)
        self.position = end + 1
        return text

    def text(self, count: int) -> str:
        """The next ``count`` bytes as UTF-8."""
        taken = self.take(count)
        try:
            return taken.decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"expected UTF-8 text, came {shown(taken)}")

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> Any:
        if not self.stack:
            self.fail("expected a value on the stack, came an empty one")
        return self.stack.pop()

    def pop_to_mark(self) -> list[Any]:
        if not self.stacks_below:
            self.fail("expected a mark on the stack, came none")
        values = self.stack
        self.stack = self.stacks_below.pop()
        return values

    def top(self, kind: type, what: str) -> Any:
        """The value on top of the stack, which has to be a ``kind``."""
        if not self.stack or type(self.stack[-1]) is not kind:
            self.fail(f"expected {what} to change, came {shown(self.stack[-1]) if self.stack else 'nothing'}")
        return self.stack[-1]

    def remember(self, index: int) -> None:
        # Small indices also keep anyone from choosing colliding hashes.
        if index > MAX_PICKLE_STEPS or not self.stack:
            self.fail(f"expected a value and a memo index up to {MAX_PICKLE_STEPS}, came index {index}")
        self.memo[index] = self.stack[-1]

    def recall(self, index: int) -> None:
        if index not in self.memo:
            self.fail(f"expected a memo index that was set, came {index}")
        self.push(self.memo[index])

    def tuple_of(self, count: int) -> None:
        values = [self.pop() for _ in range(count)]
        self.push(tuple(reversed(values)))

    def add_items(self, target: dict, values: list[Any]) -> None:
        """Put ``[key, value, key, value, ...]`` into a dictionary."""
        if len(values) % 2:
            self.fail("expected a value for every key, came a key alone")
        for key, value in zip(values[::2], values[1::2], strict=True):
            # Hashing anything else can be made to take forever.
            if not (key is None or type(key) in (str, bool) or (type(key) is int and key.bit_length() <= 64)):
                self.fail(f"expected text or a small integer as key, came {shown(key)}")
            if key in target:
                self.fail(f"expected each key once, came {shown(key)} again")
            target[key] = value

    def find_global(self, module: object, name: object) -> None:
        value = self.allowed.get(f"{module}.{name}") if type(module) is str and type(name) is str else None
        if value is None:
            self.fail(
                "expected only tensors, containers and scalars, "
                f"came the global {shown(module)} {shown(name)}; nothing was executed"
            )
        self.push(value)

    def call(self) -> None:
        arguments, function = self.pop(), self.pop()
        if type(function) is not Constructor or type(arguments) is not tuple:
            self.fail(f"expected a call of a known constructor, came a call of {shown(function)}")
        self.push(function.build(self, arguments))

    def set_state(self) -> None:
        # The attributes of an OrderedDict (a state dict's _metadata) say nothing about the numbers.
        self.pop()
        self.top(dict, "a dictionary")

    def persistent(self) -> None:
        if self.load_persistent is None:
            self.fail("expected no persistent id, came one")
        self.push(self.load_persistent(self, self.pop()))


def ordered_dict(machine: Machine, arguments: tuple) -> dict:
    """``OrderedDict()``, or ``OrderedDict(pairs)`` as Python 2 wrote it, or ``Counter(dict)``."""
    if not arguments:
        return {}
    (items,) = arguments if len(arguments) == 1 else (None,)
    if type(items) is dict:
        items = list(items.items())
    if type(items) is not list or not all(type(pair) in (list, tuple) and len(pair) == 2 for pair in items):
        machine.fail(f"expected pairs of key and value for a dictionary, came {shown(items)}")
    machine.spend(len(items))
    result: dict[Any, Any] = {}
    machine.add_items(result, [part for pair in items for part in pair])
    return result


def plain_list(machine: Machine, arguments: tuple) -> list:
    """``set(items)``, kept as a list so that nothing has to be hashed."""
    if not arguments:
        return []
    if len(arguments) != 1 or type(arguments[0]) not in (list, tuple):
        machine.fail("expected one list of items for a set, came something else")
    machine.spend(len(arguments[0]))
    return list(arguments[0])


def latin1_bytes(machine: Machine, arguments: tuple) -> bytes:
    """``encode(text, "latin1")``, the form that bytes have in protocol 2."""
    if len(arguments) != 2 or type(arguments[0]) is not str or arguments[1] != "latin1":
        machine.fail("expected text to encode as latin1, came something else")
    machine.spend(len(arguments[0]))
    try:
        return arguments[0].encode("latin1")
    except UnicodeEncodeError:
        machine.fail("expected text in latin1, came other characters")


def _mark(machine: Machine) -> None:
    machine.stacks_below.append(machine.stack)
    machine.stack = []


def _protocol(machine: Machine) -> None:
    version = machine.unpack("<B")
    if not 2 <= version <= 5:
        machine.fail(f"expected pickle protocol 2 to 5, came {version}")


def _append(machine: Machine, values: list[Any]) -> None:
    machine.top(list, "a list").extend(values)


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.add_items(machine.top(dict, "a dictionary"), [key, value])


def _set_items(machine: Machine) -> None:
    values = machine.pop_to_mark()
    machine.add_items(machine.top(dict, "a dictionary"), values)


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.find_global(module, name)


# Everything that picklers write for protocols 2 to 5, less what makes objects of arbitrary classes.
_ACTIONS: dict[bytes, Callable[[Machine], object]] = {
    pickle.PROTO: _protocol,
    pickle.FRAME: lambda m: m.take(8),
    pickle.MARK: _mark,
    pickle.NONE: lambda m: m.push(None),
    pickle.NEWTRUE: lambda m: m.push(True),
    pickle.NEWFALSE: lambda m: m.push(False),
    pickle.BININT: lambda m: m.push(m.unpack("<i")),
    pickle.BININT1: lambda m: m.push(m.unpack("<B")),
    pickle.BININT2: lambda m: m.push(m.unpack("<H")),
    pickle.LONG1: lambda m: m.push(int.from_bytes(m.take(m.unpack("<B")), "little", signed=True)),
    pickle.BINFLOAT: lambda m: m.push(m.unpack(">d")),
    pickle.BINUNICODE: lambda m: m.push(m.text(m.unpack("<I"))),
    pickle.SHORT_BINUNICODE: lambda m: m.push(m.text(m.unpack("<B"))),
    pickle.BINUNICODE8: lambda m: m.push(m.text(m.unpack("<Q"))),
    # Python 2 wrote its text as these two.
    pickle.SHORT_BINSTRING: lambda m: m.push(m.text(m.unpack("<B"))),
    pickle.BINSTRING: lambda m: m.push(m.text(m.unpack("<I"))),
    pickle.SHORT_BINBYTES: lambda m: m.push(m.take(m.unpack("<B"))),
    pickle.BINBYTES: lambda m: m.push(m.take(m.unpack("<I"))),
    pickle.BINBYTES8: lambda m: m.push(m.take(m.unpack("<Q"))),
    pickle.EMPTY_TUPLE: lambda m: m.push(()),
    pickle.TUPLE1: lambda m: m.tuple_of(1),
    pickle.TUPLE2: lambda m: m.tuple_of(2),
    pickle.TUPLE3: lambda m: m.tuple_of(3),
    pickle.TUPLE: lambda m: m.push(tuple(m.pop_to_mark())),
    pickle.EMPTY_LIST: lambda m: m.push([]),
    pickle.APPEND: lambda m: _append(m, [m.pop()]),
    pickle.APPENDS: lambda m: _append(m, m.pop_to_mark()),
    pickle.EMPTY_SET: lambda m: m.push([]),
    pickle.ADDITEMS: lambda m: _append(m, m.pop_to_mark()),
    pickle.FROZENSET: lambda m: m.push(tuple(m.pop_to_mark())),
    pickle.EMPTY_DICT: lambda m: m.push({}),
    pickle.SETITEM: _set_item,
    pickle.SETITEMS: _set_items,
    pickle.BINPUT: lambda m: m.remember(m.unpack("<B")),
    pickle.LONG_BINPUT: lambda m: m.remember(m.unpack("<I")),
    pickle.MEMOIZE: lambda m: m.remember(len(m.memo)),
    pickle.BINGET: lambda m: m.recall(m.unpack("<B")),
    pickle.LONG_BINGET: lambda m: m.recall(m.unpack("<I")),
    pickle.GLOBAL: lambda m: m.find_global(m.line(), m.line()),
    pickle.STACK_GLOBAL: _stack_global,
    pickle.REDUCE: Machine.call,
    pickle.BUILD: Machine.set_state,
    pickle.BINPERSID: Machine.persistent,
}
