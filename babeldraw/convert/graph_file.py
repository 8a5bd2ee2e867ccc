"""Reads the constants of a TensorFlow graph (`.pb`, a `GraphDef`) without TensorFlow.

Protocol buffers lie on the wire as fields: a number with a kind, then a varint, eight or four
bytes, or a length and so many bytes. Numbers of fields are those of TensorFlow's `graph.proto`,
`node_def.proto`, `attr_value.proto`, `tensor.proto` and `tensor_shape.proto`.
"""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

# Of a `DataType`, of which arrays are made; texts and others are left out.
TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "u1", 5: "<i2", 6: "i1", 9: "<i8", 10: "?", 19: "<f2"}
# Where a tensor keeps its numbers when it has no `tensor_content`: the field, by `DataType`.
LISTED = {1: 5, 2: 6, 3: 7, 4: 7, 5: 7, 6: 7, 9: 10, 10: 11, 19: 13}
# Numbers of one tensor, at most: a single one that stands for all could fill any memory.
MOST = 2**28


def read_graph(path: Path) -> dict[str, np.ndarray]:
    """The arrays of all `Const` nodes, by name.

    Raises:
      ValueError: in one line, what is wrong with the file.
    """
    found = {}
    for number, node in _fields(memoryview(path.read_bytes())):
        if number != 1 or not isinstance(node, memoryview):
            continue
        fields = list(_fields(node))
        if _text(fields, 2) == "Const":
            name = _text(fields, 1)
            array = _constant(fields, name)
            if array is not None:
                found[name] = array
    if not found:
        raise ValueError("it holds no constants")
    return found


def _constant(node: list[tuple[int, Any]], name: str) -> np.ndarray | None:
    """Of the attribute `value`; None for one that is no array of numbers."""
    for number, attribute in node:
        if number != 5:
            continue
        entry = list(_fields(_bytes(attribute)))
        if _text(entry, 1) != "value":
            continue
        for tensor in (value for n, value in _fields(_last(entry, 2)) if n == 8):
            return _tensor(list(_fields(_bytes(tensor))), name)
    return None


def _tensor(fields: list[tuple[int, Any]], name: str) -> np.ndarray | None:
    kind = next((value for number, value in fields if number == 1), 0)
    if kind not in TYPES:
        return None
    shape = tuple(
        next((size for n, size in _fields(_bytes(dim)) if n == 1), 0)
        for number, dim in _fields(_last(fields, 2))
        if number == 2
    )
    count, dtype = math.prod(shape), np.dtype(TYPES[kind])
    if count > MOST:
        raise ValueError(f"{name} has the shape {shape}, over {MOST} numbers")
    content = _last(fields, 4)
    if len(content):
        if len(content) != count * dtype.itemsize:
            raise ValueError(f"{name} holds {len(content)} bytes for {count} numbers {dtype}")
        return np.frombuffer(content, dtype).reshape(shape)
    numbers = _listed(fields, kind, dtype)
    if not len(numbers):
        return np.zeros(shape, dtype)
    if len(numbers) not in (1, count):
        raise ValueError(f"{name} lists {len(numbers)} numbers for {count}")
    return np.broadcast_to(numbers, (count,)).reshape(shape)


def _listed(fields: list[tuple[int, Any]], kind: int, dtype: np.dtype) -> np.ndarray:
    """Numbers one by one or packed: floats as bytes, others as varints, halves by their bits."""
    parts = [value for number, value in fields if number == LISTED.get(kind)]
    if dtype in (np.float32, np.float64):
        return np.frombuffer(b"".join(map(bytes, parts)), dtype)
    varints: list[int] = []
    for part in parts:
        varints += [part] if isinstance(part, int) else _varints(part)
    numbers = np.array(varints, np.uint64)
    if dtype == np.float16:
        return numbers.astype(np.uint16).view(dtype)
    return numbers.astype(np.int64).astype(dtype)


# ------------------------------------------------------------------ the wire


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """(number, value) of each field: int of a varint, else its bytes."""
    place = 0
    while place < len(data):
        key, place = _varint(data, place)
        number, kind = key >> 3, key & 7
        if kind == 0:
            value, place = _varint(data, place)
        elif kind in (1, 2, 5):
            length, place = _varint(data, place) if kind == 2 else ({1: 8, 5: 4}[kind], place)
            if place + length > len(data):
                raise ValueError("it is cut short")
            value, place = data[place : place + length], place + length
        else:
            raise ValueError("it is no graph: a field of a kind that there is not")
        yield number, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    """Seven bits a byte, the lowest first; the eighth says that more follow."""
    value = 0
    for shift in range(0, 70, 7):
        if place >= len(data):
            raise ValueError("it is cut short")
        byte, place = data[place], place + 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & (2**64 - 1), place
    raise ValueError("it is no graph: a number of more than 64 bits")


def _varints(data: memoryview) -> list[int]:
    found, place = [], 0
    while place < len(data):
        value, place = _varint(data, place)
        found.append(value)
    return found


def _bytes(value: Any) -> memoryview:
    if not isinstance(value, memoryview):
        raise ValueError("it is no graph: a number where a message must be")
    return value


def _last(fields: list[tuple[int, Any]], number: int) -> memoryview:
    """The bytes of a field, none where it is not there."""
    found = [value for n, value in fields if n == number]
    return _bytes(found[-1]) if found else memoryview(b"")


def _text(fields: list[tuple[int, Any]], number: int) -> str:
    return bytes(_last(fields, number)).decode(errors="replace")
