"""Reads a pickle of dicts of NumPy arrays without unpickling: a small machine of its own.

`pickletools.genops` of the standard library only lists what a pickle says. Here that is followed
for the few operations that arrays in dicts are made of; whatever else stands there is refused, and
nothing that the file names is imported or called. `torch_file` has the names that torch writes.
"""

import dataclasses
import io
import math
import pickletools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

# Types of numbers; an object of Python has the kind O, a record V.
KINDS = "fiub"
# Dicts in dicts.
DEEPEST = 16


@dataclasses.dataclass(frozen=True)
class Name:
    """A name that may stand in a file, in the place of what it names.

    Attributes:
      name: module and name, with a space between.
      call: what a call of it gives, of its arguments; None: it is not called.
    """

    name: str
    call: Callable[[tuple[Any, ...]], Any] | None = None


@dataclasses.dataclass
class _Type:
    """A dtype before and after its state: only order of bytes is taken from that."""

    code: str
    dtype: np.dtype | None = None

    def build(self, state: Any) -> None:
        order, parts = state[1], state[2:5]
        # By kind and size alone, so that no alias of an object gets in; and no record of parts.
        number = self.code[:1] in tuple(KINDS) and self.code[1:].isdigit()
        if not number or order not in tuple("<>|=") or parts != (None, None, None):
            raise ValueError(f"it holds arrays of type {self.code!r}, which are no numbers")
        self.dtype = np.dtype(order + self.code)


@dataclasses.dataclass
class _Array:
    """An ndarray before and after its state."""

    array: np.ndarray | None = None

    def build(self, state: Any) -> None:
        _, shape, kind, fortran, data = state
        if not isinstance(kind, _Type) or kind.dtype is None or not isinstance(data, bytes):
            raise ValueError("it holds an array without plain numbers")
        if not all(isinstance(size, int) and size >= 0 for size in shape):
            raise ValueError(f"it holds an array of shape {shape}")
        if math.prod(shape) * kind.dtype.itemsize != len(data):
            raise ValueError(f"it holds {len(data)} bytes for an array of shape {shape}")
        flat = np.frombuffer(data, kind.dtype)
        self.array = flat.reshape(shape, order="F" if fortran else "C")


class Stranger:
    """In the place of what a file names that is no array's: nothing is imported or called for it.

    What is made of one is one. Only where `follow` is told to look past them, and then no dict of
    arrays may hold one.
    """


NDARRAY = Name("numpy ndarray")


def _called_type(given: tuple[Any, ...]) -> _Type:
    if not isinstance(given[0], str):
        raise ValueError("it holds a call that makes no array")
    return _Type(given[0])


def _called_array(given: tuple[Any, ...]) -> _Array:
    if given[0] != NDARRAY:
        raise ValueError("it holds a call that makes no array")
    return _Array()


# The only names that may stand in a file of NumPy's arrays. NumPy 2 writes `numpy._core`.
NUMPY = (
    NDARRAY,
    Name("numpy dtype", _called_type),
    Name("numpy.core.multiarray _reconstruct", _called_array),
    Name("numpy._core.multiarray _reconstruct", _called_array),
)


def read_pickled(data: bytes) -> dict[str, np.ndarray]:
    """All arrays of a pickle of nested dicts; names at each depth are joined by "/".

    Raises:
      ValueError: in one line, what there is that is neither a dict nor an array of numbers, or that
        the file ends too early.
    """
    return flat(follow(data, NUMPY, VALUES, STEPS))


def follow(
    data: bytes,
    names: Iterable[Name],
    values: Mapping[str, Callable],
    steps: Mapping[str, Callable],
    strangers: bool = False,
) -> Any:
    """What a pickle holds, made by these operations and names alone.

    Args:
      data: the pickle.
      names: all that may stand in it.
      values: operations that put a value on the stack, by `pickletools`' name.
      steps: the others, of the machine and the operation's argument.
      strangers: whether other names may stand in it, as `Stranger`s.

    Raises:
      ValueError: in one line, what there is besides, or that the file ends too early.
    """
    machine = Machine(names, values, steps, strangers)
    try:
        for operation, argument, _ in pickletools.genops(io.BytesIO(data)):
            machine.follow(operation.name, argument)
        return machine.stack[-1]
    except (IndexError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise ValueError(f"operations in an order that none has ({error})") from error


class Machine:
    """The stack of a pickle, its marks and its memory; see `follow`."""

    def __init__(
        self,
        names: Iterable[Name],
        values: Mapping[str, Callable],
        steps: Mapping[str, Callable],
        strangers: bool = False,
    ):
        self._names = {name.name: name for name in names}
        self._values, self._steps, self._strangers = values, steps, strangers
        self.stack: list[Any] = []
        self._below: list[list[Any]] = []
        self._memo: dict[int, Any] = {}

    def follow(self, name: str, argument: Any) -> None:
        """One operation, as `pickletools` names it.

        Raises:
          ValueError: it is none of those that arrays need.
        """
        if name in self._values:
            self.stack.append(self._values[name](argument))
        elif name in self._steps:
            self._steps[name](self, argument)
        elif name not in NOTHING:
            raise ValueError(f"it holds the operation {name}, of which arrays have no need")

    def mark(self, argument: Any) -> None:
        self._below.append(self.stack)
        self.stack = []

    def taken(self) -> list[Any]:
        """What stands above the last mark, which goes with it."""
        found, self.stack = self.stack, self._below.pop()
        return found

    def put(self, argument: Any) -> None:
        self._memo[len(self._memo) if argument is None else argument] = self.stack[-1]

    def get(self, argument: Any) -> None:
        self.stack.append(self._memo[argument])

    def tuple_of(self, count: int) -> None:
        found = tuple(self.stack[-count:])
        del self.stack[-count:]
        self.stack.append(found)

    def tuple_of_taken(self, argument: Any) -> None:
        found = tuple(self.taken())
        self.stack.append(found)

    def name(self, argument: Any) -> None:
        """A global. `argument` is its module and name, or None where they are on the stack."""
        if argument is None:
            name, module = self.stack.pop(), self.stack.pop()
            argument = f"{module} {name}"
        if argument not in self._names and self._strangers:
            self.stack.append(Stranger())
            return
        if argument not in self._names:
            dotted = argument.replace(" ", ".")
            raise ValueError(f"it holds the name {dotted}, which is none of an array's")
        self.stack.append(self._names[argument])

    def reduce(self, argument: Any) -> None:
        given, called = self.stack.pop(), self.stack.pop()
        if isinstance(called, Stranger):
            self.stack.append(called)
            return
        if not isinstance(called, Name) or called.call is None or not isinstance(given, tuple):
            raise ValueError("it holds a call that makes no array")
        self.stack.append(called.call(given))

    def build(self, argument: Any) -> None:
        state = self.stack.pop()
        if not isinstance(self.stack[-1], _Type | _Array):
            raise ValueError("it holds an object that is no array")
        self.stack[-1].build(state)

    def set_item(self, argument: Any) -> None:
        value, key = self.stack.pop(), self.stack.pop()
        self._set(key, value)

    def set_items(self, argument: Any) -> None:
        found = self.taken()
        for key, value in zip(found[::2], found[1::2], strict=True):
            self._set(key, value)

    def _set(self, key: Any, value: Any) -> None:
        if Stranger in (type(key), type(self.stack[-1])):
            return
        if not isinstance(key, str | int) or not isinstance(self.stack[-1], dict):
            raise ValueError(f"it holds a dict with a key of type {type(key).__name__}, no name")
        self.stack[-1][key] = value


NOTHING = ("PROTO", "FRAME", "STOP")
VALUES: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("BININT", "BININT1", "BININT2", "LONG1"), lambda value: value),
    **dict.fromkeys(("BINUNICODE", "SHORT_BINUNICODE"), lambda value: value),
    **dict.fromkeys(("BINBYTES", "SHORT_BINBYTES", "BINBYTES8"), lambda value: value),
    "EMPTY_DICT": lambda value: {},
    "EMPTY_TUPLE": lambda value: (),
    "NEWFALSE": lambda value: False,
    "NEWTRUE": lambda value: True,
    "NONE": lambda value: None,
}
STEPS: dict[str, Callable[[Machine, Any], None]] = {
    "MARK": Machine.mark,
    "TUPLE": Machine.tuple_of_taken,
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT", "MEMOIZE"), Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), Machine.get),
    **dict.fromkeys(("GLOBAL", "STACK_GLOBAL"), Machine.name),
    "REDUCE": Machine.reduce,
    "BUILD": Machine.build,
    "SETITEM": Machine.set_item,
    "SETITEMS": Machine.set_items,
}


def flat(whole: Any) -> dict[str, np.ndarray]:
    """The arrays of nested dicts, by names joined by "/"; a leaf has its array as `array`.

    Raises:
      ValueError: there is something else, or a dict lies in itself.
    """
    found, seen = {}, set()

    def walk(node: Any, path: tuple[str, ...]) -> None:
        where = "/".join(path) or "the whole"
        array = getattr(node, "array", None)
        if array is not None and path:
            found[where] = array
            return
        # A dict that lies in itself, or in many others, has no end.
        if not isinstance(node, dict) or id(node) in seen or len(path) > DEEPEST:
            raise ValueError(f"it holds {where}, which is neither an array nor a dict of its own")
        seen.add(id(node))
        for key, value in node.items():
            if not isinstance(key, str):
                kind = type(key).__name__
                raise ValueError(f"it holds a dict with a key of type {kind}, no name")
            walk(value, (*path, key))

    walk(whole, ())
    return found
