"""A two-way table between others' tensors and our parameters.

A table is a sequence of rows, and of what is left out on purpose:

    TABLE = (
        Row("embed/table", "tok_embeddings.weight"),
        Row(
            "stack/blocks/attention/{query,key,value}/weight",
            "layers.{layer}.attention.wqkv.weight",
            "(3 n h) d -> 3 d n h",
        ),
        Ignored(r"freqs_cis", "computed from the sizes"),
    )

`read` makes our parameters of their tensors, `write` their tensors of our parameters; one after the
other gives back the same bits.
"""

import dataclasses
import itertools
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.convert.rearrange import Rearrangement
from babeldraw.errors import UserError
from babeldraw.runs.weights import check_shape, few, flatten

BRACES = re.compile(r"\{([^{}]*)\}")


@dataclasses.dataclass(frozen=True)
class Row:
    """Parameters of ours that are tensors of theirs.

    Names may hold braces. `{a,b}` stands for several arrays, stacked along a new first axis, which
    the pattern has on that side. `{layer}`, in `theirs` alone, counts the first axis of our
    parameter, which the pattern does not have; a second such word counts the second axis.
    `{stage}`, on both sides, is one and the same number in both names, whichever our parameters
    have. More than that (every third index, from 1 where ours is from 0) is a row per name, made
    by a loop in Python.

    Attributes:
      ours: place in the tree of our parameters, as `runs.weights.flatten` writes it.
      theirs: name of their tensor.
      how: `THEIRS -> OURS`, see `Rearrangement.parse`; empty: as it is.
    """

    ours: str
    theirs: str
    how: str = ""

    def __post_init__(self):
        for word in _words(self.ours) + _words(self.theirs):
            if not word.isidentifier():
                raise ValueError(f"{{{word}}} in {self} is no word, such as {{layer}}")
            if word not in _words(self.theirs):
                raise ValueError(f"{self.ours} has {{{word}}}, which {self.theirs} has not")
        if self.how:
            Rearrangement.parse(self.how)

    @property
    def counted(self) -> list[str]:
        """The words of their name that count our first axes."""
        return [word for word in _words(self.theirs) if word not in _words(self.ours)]

    def rearrangement(self, dimensions: int) -> Rearrangement:
        """Of arrays of ours with so many dimensions."""
        return Rearrangement.parse(self.how) if self.how else Rearrangement.identity(dimensions)


@dataclasses.dataclass(frozen=True)
class Ignored:
    """Tensors of theirs that are left out, and not written either.

    Attributes:
      pattern: regular expression of their whole names.
      why: for the reader, such as "its classifier".
    """

    pattern: str
    why: str


Table = Sequence[Row | Ignored]


def read(
    table: Table, tensors: Mapping[str, np.ndarray], abstract: Any, name: str = "the state dict"
) -> Any:
    """Our parameters from their tensors.

    Args:
      table: its rows fill each parameter once.
      tensors: theirs by name, of any floating type where ours is of one.
      abstract: shapes and types of ours, a tree of dicts without boxes.
      name: what the user calls the tensors, such as "--vgg=vgg16.pth".

    Returns:
      A tree like `abstract`, of NumPy arrays.

    Raises:
      UserError: a tensor is missing, has another shape or another kind of type, or is neither read
        nor ignored; or the table does not fit our parameters.
    """
    wanted = flatten(abstract)
    links = _links(table, wanted)
    taken = [key for link in links for key in link.theirs]
    missing = [key for key in taken if key not in tensors]
    require(not missing, f"{name} holds no {few(missing)}: it is of another network")
    named = {key for keys in _left_out(table, taken, tensors).values() for key in keys}
    extra = sorted(set(tensors) - set(taken) - named)
    require(
        not extra,
        f"{name} holds {few(extra)}, which no row of the table takes: it is of another network",
    )
    found = {key: np.empty(leaf.shape, leaf.dtype) for key, leaf in wanted.items()}
    for link in links:
        dtype = found[link.ours[0]].dtype
        for key in link.theirs:
            check_shape(tensors[key], link.their_shape, f"{name}: {key}")
            _check_type(tensors[key].dtype, dtype, f"{name}: {key}")
        parts = link.to_ours([tensors[key] for key in link.theirs])
        for key, part in zip(link.ours, parts, strict=True):
            found[key][link.index] = part
    return jax.tree.unflatten(jax.tree.structure(abstract), list(found.values()))


def write(table: Table, params: Any, dtype: Any = np.float32) -> dict[str, np.ndarray]:
    """Their tensors from our parameters, each floating one in `dtype`.

    Raises:
      UserError: the table does not fit our parameters.
    """
    arrays = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}
    found = {}
    for link in _links(table, arrays):
        parts = link.to_theirs([arrays[key][link.index] for key in link.ours])
        for key, part in zip(link.theirs, parts, strict=True):
            floating = jnp.issubdtype(part.dtype, jnp.floating)
            found[key] = np.array(part, dtype if floating else part.dtype, order="C")
    return found


def left_out(table: Table, names: Iterable[str], abstract: Any) -> dict[str, list[str]]:
    """{why: names}: which of their tensors `read` leaves out, as the table says."""
    taken = [key for link in _links(table, flatten(abstract)) for key in link.theirs]
    return _left_out(table, taken, names)


def _left_out(table: Table, taken: Iterable[str], names: Iterable[str]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {}
    free = sorted(set(names) - set(taken))
    for row in table:
        if isinstance(row, Ignored):
            keys = [key for key in free if re.fullmatch(row.pattern, key)]
            found.setdefault(row.why, []).extend(keys)
    return {why: keys for why, keys in found.items() if keys}


# ------------------------------------------------------------------ what a table says of a network


@dataclasses.dataclass(frozen=True)
class _Link:
    """What a row says of one layer.

    Attributes:
      ours, theirs: the arrays of each side, several where braces list them.
      index: of the layer in each array of ours.
      how: the pattern.
      whole: the shape that it has on our side, all of `ours` together.
      our_shape, their_shape: of each array.
    """

    ours: list[str]
    theirs: list[str]
    index: tuple[int, ...]
    how: Rearrangement
    whole: tuple[int, ...]
    our_shape: tuple[int, ...]
    their_shape: tuple[int, ...]

    def to_ours(self, tensors: list[np.ndarray]) -> np.ndarray:
        """[number of ours, ...] from their tensors."""
        together = np.stack(tensors).reshape(self.how.their_shape(self.whole))
        return self.how.to_ours(together, self.whole).reshape(len(self.ours), *self.our_shape)

    def to_theirs(self, arrays: list[np.ndarray]) -> np.ndarray:
        """[number of theirs, ...] from our arrays."""
        together = self.how.to_theirs(np.stack(arrays).reshape(self.whole))
        return together.reshape(len(self.theirs), *self.their_shape)


def _links(table: Table, leaves: Mapping[str, Any]) -> list[_Link]:
    """All that a table says of the parameters `leaves`.

    Raises:
      UserError: it does not fit them, leaves one out, or names something twice.
    """
    per_row = [_links_of(row, leaves) for row in table if isinstance(row, Row)]
    filled = Counter(key for links in per_row for key in {k for link in links for k in link.ours})
    taken = Counter(key for links in per_row for link in links for key in link.theirs)
    for counts, told in ((filled, "fill our"), (taken, "take their")):
        twice = sorted(key for key, count in counts.items() if count > 1)
        require(not twice, f"two rows of the table {told} {few(twice)}; one is too many")
    unfilled = sorted(set(leaves) - set(filled))
    require(not unfilled, f"no row of the table fills our {few(unfilled)}")
    return [link for links in per_row for link in links]


def _links_of(row: Row, leaves: Mapping[str, Any]) -> list[_Link]:
    found = []
    for numbers in _numbers(row.ours, leaves):
        ours, our_lists = _expand(row.ours, numbers)
        shape = _common_shape(row, ours, leaves)
        layers, our_shape = shape[: len(row.counted)], shape[len(row.counted) :]
        whole = (*our_lists, *our_shape)
        how = row.rearrangement(len(whole))
        try:
            their_whole = how.their_shape(whole)
        except ValueError as error:
            raise UserError(f"our {ours[0]}, {shape}, does not fit {row.how!r}: {error}") from error
        for index in np.ndindex(layers):
            counted = dict(zip(row.counted, index, strict=True))
            theirs, their_lists = _expand(row.theirs, numbers | counted)
            require(
                their_whole[: len(their_lists)] == their_lists,
                f"{row.theirs} lists {their_lists} tensors, and {row.how!r} gives {their_whole}",
            )
            their_shape = their_whole[len(their_lists) :]
            found.append(_Link(ours, theirs, index, how, whole, our_shape, their_shape))
    return found


def _common_shape(row: Row, names: list[str], leaves: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that the listed parameters of ours share, at least one axis per counted word."""
    unknown = [name for name in names if name not in leaves]
    require(not unknown, f"our network has no {few(unknown)}, which a row of the table names")
    shapes = [tuple(leaves[name].shape) for name in names]
    require(len(set(shapes)) == 1, f"{row.ours} lists parameters of several shapes, {shapes}")
    require(
        len(shapes[0]) >= len(row.counted),
        f"{names[0]} of shape {shapes[0]} has no axis for {row.counted}, which {row.theirs} counts",
    )
    return shapes[0]


def _numbers(template: str, names: Iterable[str]) -> list[dict[str, int]]:
    """What the words in braces of `template` are, for each of `names` that it fits.

    Without such words it fits as it stands: [{}].
    """
    words = _words(template)
    if not words:
        return [{}]
    pattern, seen = "", set()
    for i, part in enumerate(BRACES.split(template)):
        if i % 2 == 0:
            pattern += re.escape(part)
        elif "," in part:
            pattern += f"(?:{'|'.join(map(re.escape, part.split(',')))})"
        else:
            pattern += f"(?P={part})" if part in seen else rf"(?P<{part}>\d+)"
            seen.add(part)
    matches = [match for name in names if (match := re.fullmatch(pattern, name))]
    require(bool(matches), f"our network has no {template}, which a row of the table names")
    found = {tuple(int(number) for number in match.groups()) for match in matches}
    return [dict(zip(words, values, strict=True)) for values in sorted(found)]


def _expand(template: str, numbers: Mapping[str, int]) -> tuple[list[str], tuple[int, ...]]:
    """The names that a template lists, and how many words each of its lists has.

    `_expand("{a,b}.{layer}.w", {"layer": 3})` is `["a.3.w", "b.3.w"], (2,)`.
    """
    lists = [
        [part] if i % 2 == 0 else part.split(",") if "," in part else [str(numbers[part])]
        for i, part in enumerate(BRACES.split(template))
    ]
    names = ["".join(parts) for parts in itertools.product(*lists)]
    return names, tuple(len(words) for words in lists if len(words) > 1)


def _words(template: str) -> list[str]:
    """The words in braces that stand for a number, once each."""
    return list(dict.fromkeys(word for word in BRACES.findall(template) if "," not in word))


def _check_type(dtype: np.dtype, wanted: np.dtype, name: str) -> None:
    same = dtype == wanted or all(jnp.issubdtype(each, jnp.floating) for each in (dtype, wanted))
    require(same, f"{name} is of type {dtype} and {wanted} is needed")
