"""Bytes that a program holds at once, from its trace: known in seconds, before any compiler."""

import dataclasses
import operator
from collections.abc import Callable, Mapping
from typing import Any

import jax
from jax.extend.core import Literal

from babeldraw.train.overview import nbytes
from babeldraw.train.traced_flops import inside

# What no compiler stores: the same values in another shape, and copies of one value.
_VIEWS = ("reshape", "squeeze", "expand_dims", "broadcast_in_dim", "iota")
_LOOPS = ("scan", "while")


@dataclasses.dataclass(frozen=True)
class Held:
    """Attributes:
    weights: bytes of arrays with the shape of one of the state's: gradients and their sums, weights
      in the type that products read.
    others: bytes of all others: what the forward pass keeps for the backward pass, and what is
      there for a moment.
    """

    weights: float = 0.0
    others: float = 0.0

    @property
    def total(self) -> float:
        return self.weights + self.others

    def __add__(self, other: "Held") -> "Held":
        return Held(self.weights + other.weights, self.others + other.others)

    def __sub__(self, other: "Held") -> "Held":
        return Held(self.weights - other.weights, self.others - other.others)


def held_at_most(
    fn: Callable, *args: Any, weights: Mapping[tuple[int, ...], float], share: float = 1.0
) -> Held:
    """What `fn` holds beside its arguments at its worst moment, in the order it is traced in.

    An array is there from the equation that makes it to the last that reads it. A compiler stores
    less where it fuses element-wise work, and more where it pads arrays and leaves gaps between
    them.

    Args:
      fn: of abstract arrays.
      args: its arguments.
      weights: shapes of the state's arrays, and what share of such an array one device holds.
        Element-wise work on them, an optimizer's, is taken as done in place.
      share: of every other array.
    """
    return _Walk(weights, share).most(jax.make_jaxpr(fn)(*args).jaxpr)


class _Walk:
    """Goes through each jaxpr once: a function that is called twice is one jaxpr."""

    def __init__(self, weights: Mapping[tuple[int, ...], float], share: float):
        self._weights, self._share = weights, share
        self._known: dict[int, tuple[Any, Held]] = {}

    def most(self, jaxpr: Any) -> Held:
        """Of what its equations make, at the worst moment."""
        if id(jaxpr) not in self._known:
            # Kept beside its number, which would be another's once it is gone.
            self._known[id(jaxpr)] = jaxpr, self._walked(jaxpr)
        return self._known[id(jaxpr)][1]

    def _walked(self, jaxpr: Any) -> Held:
        stored = self._stored(jaxpr)
        freed = _freed(jaxpr, stored)
        live, most = Held(), Held()
        for equation, gone in zip(jaxpr.eqns, freed, strict=True):
            live = live + self._bytes(v for v in equation.outvars if stored[v] is v)
            most = _larger(most, live + self._within(equation))
            live = live - self._bytes(gone)
        return most

    def _stored(self, jaxpr: Any) -> dict[Any, Any]:
        """Of each variable the one whose array it is in; None: it takes no room here."""
        stored: dict[Any, Any] = dict.fromkeys((*jaxpr.invars, *jaxpr.constvars))
        for equation in jaxpr.eqns:
            if equation.primitive.name in _VIEWS:
                (made,) = equation.outvars
                read = [v for v in equation.invars if not isinstance(v, Literal)]
                # What spreads one value over an array is done where that is read.
                stored[made] = stored[read[0]] if read else None
            else:
                in_place = self._in_place(equation)
                stored |= {v: None if in_place else v for v in equation.outvars}
        return stored

    def _in_place(self, equation: Any) -> bool:
        """Whether it is element-wise work on arrays of the state's shapes alone."""
        name, shapes = equation.primitive.name, {v.aval.shape for v in equation.outvars}
        if name in _LOOPS or name == "convert_element_type" or len(shapes) != 1:
            return False
        (shape,) = shapes
        return shape in self._weights and {v.aval.shape for v in equation.invars} <= {shape, ()}

    def _within(self, equation: Any) -> Held:
        """What is there only while an equation that holds jaxprs runs."""
        name, most = equation.primitive.name, Held()
        if name == "pallas_call":
            # Blocks in the vector memory.
            return most
        for inner in inside(equation.params):
            held = self.most(inner)
            if name not in _LOOPS:
                # Its results are the equation's own.
                held = held - self._bytes(v for v in inner.outvars if not isinstance(v, Literal))
            most = _larger(most, held)
        return most

    def _bytes(self, variables: Any) -> Held:
        held = Held()
        for aval in map(operator.attrgetter("aval"), variables):
            if aval.shape in self._weights:
                held = held + Held(weights=nbytes(aval) * self._weights[aval.shape])
            else:
                held = held + Held(others=nbytes(aval) * self._share)
        return held


def _freed(jaxpr: Any, stored: Mapping[Any, Any]) -> list[list[Any]]:
    """For each equation, the arrays that none after it reads."""
    last: dict[Any, int] = {}
    for number, equation in enumerate(jaxpr.eqns):
        read = [stored[v] for v in equation.invars if not isinstance(v, Literal)]
        made = [v for v in equation.outvars if stored[v] is v]
        last |= dict.fromkeys([v for v in (*read, *made) if v is not None], number)
    for v in jaxpr.outvars:
        if not isinstance(v, Literal):
            last.pop(stored[v], None)
    freed: list[list[Any]] = [[] for _ in jaxpr.eqns]
    for v, number in last.items():
        freed[number].append(v)
    return freed


def _larger(a: Held, b: Held) -> Held:
    return a if a.total >= b.total else b
