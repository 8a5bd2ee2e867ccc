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
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.config import require
from babeldraw.convert.names import expand, numbers, parts, words
from babeldraw.convert.rearrange import Rearrangement
from babeldraw.errors import UserError
from babeldraw.runs.weights import check_shape, few, flatten


@dataclasses.dataclass(frozen=True)
class Row:
    """Parameters of ours that are tensors of theirs.

    Names may hold braces. `{a,b}` stands for several arrays, stacked along a new first axis, which
    the pattern has on that side. `{a+b}`, in `ours` alone and once, stands for parts of one tensor
    that lie one behind the other along its first axis; the pattern is that of each part, and their
    sizes may differ. `{layer}`, in `theirs` alone, counts the first axis of our parameter, which
    the pattern does not have; a second such word counts the second axis. `{stage}`, on both sides,
    is one and the same number in both names, whichever our parameters have. More than that (every
    third index, from 1 where ours is from 0) is a row per name, made by a loop in Python.

    Attributes:
      ours: place in the tree of our parameters, as `runs.weights.flatten` writes it.
      theirs: name of their tensor.
      how: `THEIRS -> OURS`, see `Rearrangement.parse`; empty: as it is.
      exchanged: two places of the first axis of their tensor, each of which is the other's in ours;
        (): none.
    """

    ours: str
    theirs: str
    how: str = ""
    exchanged: tuple[int, ...] = ()

    def __post_init__(self):
        for word in words(self.ours) + words(self.theirs):
            if not word.isidentifier():
                raise ValueError(f"{{{word}}} in {self} is no word, such as {{layer}}")
            if word not in words(self.theirs):
                raise ValueError(f"{self.ours} has {{{word}}}, which {self.theirs} has not")
        if len(parts(self.theirs)) > 1 or any(len(parts(part)) > 1 for part in parts(self.ours)):
            raise ValueError(f"{self} may list parts with + once, in the name of ours")
        if len(self.exchanged) not in (0, 2):
            raise ValueError(f"{self} exchanges {self.exchanged}; two places are needed, or none")
        if self.how:
            Rearrangement.parse(self.how)

    @property
    def counted(self) -> list[str]:
        """The words of their name that count our first axes."""
        return [word for word in words(self.theirs) if word not in words(self.ours)]

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


@dataclasses.dataclass(frozen=True)
class Tied:
    """A tensor of theirs that is another of theirs once more, where tied weights are told twice.

    `read` refuses a file in which the two differ, and takes one without it; `write` writes both.
    """

    theirs: str
    of: str


@dataclasses.dataclass(frozen=True)
class Buffer:
    """A tensor of theirs that is no parameter, and that a run keeps beside its parameters.

    `read_buffers` takes it where a file has it; `write` writes it always, zeros where a run has
    none, for its authors' code refuses a file without it.

    Attributes:
      ours: name of the array in `TrainState.extra`.
      theirs: name of their tensor.
      shape: of both.
      scale: ours over theirs; by a power of two the bits come back.
    """

    ours: str
    theirs: str
    shape: tuple[int, ...]
    scale: float = 1.0


Table = Sequence[Row | Ignored | Tied | Buffer]


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
        nor ignored; two that are tied differ; or the table does not fit our parameters.
    """
    wanted = flatten(abstract)
    links = _links(table, wanted)
    taken = _shapes(links)
    missing = [key for key in taken if key not in tensors]
    require(not missing, f"{name} holds no {few(missing)}: it is of another network")
    named = {key for keys in _left_out(table, taken, tensors).values() for key in keys}
    named |= {row.theirs for row in table if isinstance(row, Tied | Buffer)}
    extra = sorted(set(tensors) - set(taken) - named)
    require(
        not extra,
        f"{name} holds {few(extra)}, which no row of the table takes: it is of another network",
    )
    for key, shape in taken.items():
        check_shape(tensors[key], shape, f"{name}: {key}")
    _check_tied(table, tensors, name)
    found = {key: np.empty(leaf.shape, leaf.dtype) for key, leaf in wanted.items()}
    for link in links:
        for key in link.theirs:
            _check_type(tensors[key].dtype, found[link.ours[0]].dtype, f"{name}: {key}")
        arrays = link.to_ours([tensors[key][link.rows] for key in link.theirs])
        for key, array in zip(link.ours, arrays, strict=True):
            found[key][link.index] = array
    return jax.tree.unflatten(jax.tree.structure(abstract), list(found.values()))


def read_buffers(
    table: Table, tensors: Mapping[str, np.ndarray], name: str = "the state dict"
) -> dict[str, np.ndarray]:
    """What a run keeps beside its parameters of their tensors: float32, by our name.

    Raises:
      UserError: one has another shape.
    """
    found = {}
    for row in table:
        if isinstance(row, Buffer) and row.theirs in tensors:
            check_shape(tensors[row.theirs], row.shape, f"{name}: {row.theirs}")
            found[row.ours] = np.float32(row.scale) * tensors[row.theirs].astype(np.float32)
    return found


def write(
    table: Table,
    params: Any,
    dtype: Any = np.float32,
    buffers: Mapping[str, np.ndarray] | None = None,
) -> dict[str, np.ndarray]:
    """Their tensors from our parameters, each floating one in `dtype`.

    `buffers`: as `read_buffers` gives them; others are passed over.

    Raises:
      UserError: the table does not fit our parameters.
    """
    arrays = {key: np.asarray(leaf) for key, leaf in flatten(params).items()}
    links, found = _links(table, arrays), {}
    shapes = _shapes(links)
    for link in links:
        tensors = link.to_theirs([arrays[key][link.index] for key in link.ours])
        kept = dtype if jnp.issubdtype(tensors.dtype, jnp.floating) else tensors.dtype
        for key, tensor in zip(link.theirs, tensors, strict=True):
            found.setdefault(key, np.empty(shapes[key], kept))[link.rows] = tensor
    for row in table:
        if isinstance(row, Tied):
            found[row.theirs] = found[row.of]
        elif isinstance(row, Buffer):
            array = (buffers or {}).get(row.ours, np.zeros(row.shape, np.float32))
            found[row.theirs] = (np.asarray(array) / np.float32(row.scale)).astype(dtype)
    return found


def shapes(table: Table, abstract: Any) -> dict[str, tuple[int, ...]]:
    """{name: shape} of their tensors that are ours, of shapes and types alone.

    Raises:
      UserError: the table does not fit our parameters.
    """
    return _shapes(_links(table, flatten(abstract)))


def left_out(table: Table, names: Iterable[str], abstract: Any) -> dict[str, list[str]]:
    """{why: names}: which of their tensors `read` leaves out, as the table says."""
    return _left_out(table, _shapes(_links(table, flatten(abstract))), names)


def _check_tied(table: Table, tensors: Mapping[str, np.ndarray], name: str) -> None:
    for row in table:
        if isinstance(row, Tied) and row.theirs in tensors:
            require(
                np.array_equal(tensors[row.theirs], tensors[row.of]),
                f"{name} holds a {row.theirs} that is not its {row.of}; this network has one for "
                "both, so weights trained apart cannot be read",
            )


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
      rows: in each array of theirs, where it holds others of ours too; () for all of it.
      how: the pattern.
      whole: the shape that it has on our side, all of `ours` together.
      our_shape, their_shape: of each array, at `index` and in `rows`.
      exchanged: as of `Row`.
    """

    ours: list[str]
    theirs: list[str]
    index: tuple[int, ...]
    rows: tuple[slice, ...]
    how: Rearrangement
    whole: tuple[int, ...]
    our_shape: tuple[int, ...]
    their_shape: tuple[int, ...]
    exchanged: tuple[int, ...]

    def to_ours(self, tensors: list[np.ndarray]) -> np.ndarray:
        """[number of ours, ...] from their tensors."""
        together = self._exchanged(np.stack(tensors)).reshape(self.how.their_shape(self.whole))
        return self.how.to_ours(together, self.whole).reshape(len(self.ours), *self.our_shape)

    def to_theirs(self, arrays: list[np.ndarray]) -> np.ndarray:
        """[number of theirs, ...] from our arrays."""
        together = self.how.to_theirs(np.stack(arrays).reshape(self.whole))
        return self._exchanged(together.reshape(len(self.theirs), *self.their_shape))

    def _exchanged(self, tensors: np.ndarray) -> np.ndarray:
        """[number of theirs, ...] with two places of each changed; there and back alike."""
        if not self.exchanged:
            return tensors
        order = np.arange(tensors.shape[1])
        order[[*self.exchanged]] = self.exchanged[::-1]
        return tensors[:, order]


def _links(table: Table, leaves: Mapping[str, Any]) -> list[_Link]:
    """All that a table says of the parameters `leaves`.

    Raises:
      UserError: it does not fit them, leaves one out, or names something twice.
    """
    per_row = [_links_of(row, leaves) for row in table if isinstance(row, Row)]
    filled = Counter(key for links in per_row for key in {k for link in links for k in link.ours})
    taken = Counter(key for links in per_row for key in _shapes(links))
    for counts, told in ((filled, "fill our"), (taken, "take their")):
        twice = sorted(key for key, count in counts.items() if count > 1)
        require(not twice, f"two rows of the table {told} {few(twice)}; one is too many")
    unfilled = sorted(set(leaves) - set(filled))
    require(not unfilled, f"no row of the table fills our {few(unfilled)}")
    return [link for links in per_row for link in links]


def _shapes(links: Iterable[_Link]) -> dict[str, tuple[int, ...]]:
    """The whole shape of each tensor of theirs."""
    shapes = {}
    for link in links:
        for key in link.theirs:
            # The last of several parts ends where the tensor does.
            first = [rows.stop for rows in link.rows] or link.their_shape[:1]
            shapes[key] = (*first, *link.their_shape[1:])
    return shapes


def _links_of(row: Row, leaves: Mapping[str, Any]) -> list[_Link]:
    """A link per layer and part, for each number that both names share."""
    templates, found = parts(row.ours), []
    fits = numbers(templates[0], leaves)
    require(bool(fits), f"our network has no {row.ours}, which a row of the table names")
    for values in fits:
        per_part = [_links_of_part(row, template, values, leaves) for template in templates]
        if len(templates) == 1:
            found += per_part[0]
            continue
        shapes = [links[0].their_shape for links in per_part]
        alike = {(len(links), links[0].their_shape[1:]) for links in per_part}
        require(
            len(alike) == 1 and () not in shapes,
            f"{row.ours} lists parts of {row.theirs} that are {shapes}; they cannot lie in one",
        )
        begin = 0
        for links in per_part:
            rows = slice(begin, begin + links[0].their_shape[0])
            found += [dataclasses.replace(link, rows=(rows,)) for link in links]
            begin = rows.stop
    return found


def _links_of_part(
    row: Row, template: str, values: Mapping[str, int], leaves: Mapping[str, Any]
) -> list[_Link]:
    """A link per layer."""
    ours, our_lists = expand(template, values)
    shape = _common_shape(row, ours, leaves)
    layers, our_shape = shape[: len(row.counted)], shape[len(row.counted) :]
    whole = (*our_lists, *our_shape)
    how = row.rearrangement(len(whole))
    try:
        their_whole = how.their_shape(whole)
    except ValueError as error:
        raise UserError(f"our {ours[0]}, {shape}, does not fit {row.how!r}: {error}") from error
    found = []
    for index in np.ndindex(layers):
        counted = dict(zip(row.counted, index, strict=True))
        theirs, their_lists = expand(row.theirs, {**values, **counted})
        require(
            their_whole[: len(their_lists)] == their_lists,
            f"{row.theirs} lists {their_lists} tensors, and {row.how!r} gives {their_whole}",
        )
        their_shape = their_whole[len(their_lists) :]
        places = range(their_shape[0] if their_shape else 0)
        require(
            all(place in places for place in row.exchanged),
            f"{row.theirs} has {len(places)} rows; {row.exchanged} are exchanged: more are needed",
        )
        found.append(
            _Link(ours, theirs, index, (), how, whole, our_shape, their_shape, row.exchanged)
        )
    return found


def _common_shape(row: Row, names: list[str], leaves: Mapping[str, Any]) -> tuple[int, ...]:
    """The shape that stacked parameters of ours share, at least one axis per counted word."""
    unknown = [name for name in names if name not in leaves]
    require(not unknown, f"our network has no {few(unknown)}, which a row of the table names")
    shapes = [tuple(leaves[name].shape) for name in names]
    require(len(set(shapes)) == 1, f"{row.ours} stacks parameters of several shapes, {shapes}")
    require(
        len(shapes[0]) >= len(row.counted),
        f"{names[0]} of shape {shapes[0]} has no axis for {row.counted}, which {row.theirs} counts",
    )
    return shapes[0]


def _check_type(dtype: np.dtype, wanted: np.dtype, name: str) -> None:
    same = dtype == wanted or all(jnp.issubdtype(each, jnp.floating) for each in (dtype, wanted))
    require(same, f"{name} is of type {dtype} and {wanted} is needed")
