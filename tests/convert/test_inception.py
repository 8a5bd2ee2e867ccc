"""Inception's weights from both files: the same numbers, by names that were read elsewhere."""

import dataclasses
import struct

import numpy as np
import pytest

from babeldraw.convert.files import check_digest, read_arrays, sha256
from babeldraw.convert.graph_file import read_graph
from babeldraw.convert.inception import GRAPH, PYTORCH_FID, units
from babeldraw.convert.kinds import KINDS
from babeldraw.convert.table import shapes
from babeldraw.errors import UserError
from babeldraw.judges.inception import inception_shapes

KIND = KINDS["inception"]


def test_names_are_those_of_both_files():
    """Some of each kind of block, as torch-fidelity's conversion pairs them."""
    pairs = {torch: graph for torch, graph in units().values()}
    assert len(pairs) == len(set(pairs.values())) == 94
    expected = {
        "Conv2d_1a_3x3": "conv",
        "Conv2d_4a_3x3": "conv_4",
        "Mixed_5b.branch5x5_2": "mixed/tower/conv_1",
        "Mixed_5d.branch_pool": "mixed_2/tower_2/conv",
        "Mixed_6a.branch3x3": "mixed_3/conv",
        "Mixed_6a.branch3x3dbl_3": "mixed_3/tower/conv_2",
        "Mixed_6d.branch1x1": "mixed_6/conv",
        "Mixed_6e.branch7x7dbl_5": "mixed_7/tower_1/conv_4",
        "Mixed_7a.branch3x3_1": "mixed_8/tower/conv",
        "Mixed_7a.branch7x7x3_4": "mixed_8/tower_1/conv_3",
        "Mixed_7b.branch3x3_2a": "mixed_9/tower/mixed/conv",
        "Mixed_7c.branch3x3dbl_2": "mixed_10/tower_1/conv_1",
        "Mixed_7c.branch3x3dbl_3b": "mixed_10/tower_1/mixed/conv_1",
        "Mixed_7c.branch_pool": "mixed_10/tower_2/conv",
    }
    assert {torch: pairs[torch] for torch in expected} == expected


def test_shapes_are_those_of_torch_s():
    found = shapes(PYTORCH_FID, inception_shapes())
    assert found["Conv2d_1a_3x3.conv.weight"] == (32, 3, 3, 3)
    assert found["Mixed_5b.branch_pool.conv.weight"] == (32, 192, 1, 1)
    assert found["Mixed_6c.branch7x7_2.conv.weight"] == (160, 160, 1, 7)
    assert found["Mixed_6e.branch7x7dbl_2.conv.weight"] == (192, 192, 7, 1)
    assert found["Mixed_7c.branch3x3_2a.conv.weight"] == (384, 384, 1, 3)
    assert found["Mixed_7c.branch1x1.bn.running_var"] == (320,)
    assert found["fc.weight"] == (1008, 2048)


# ------------------------------------------------------------------ a graph, written by hand


def varint(value):
    value &= 2**64 - 1
    out = b""
    while True:
        value, low = value >> 7, value & 0x7F
        out += bytes([low | (0x80 if value else 0)])
        if not value:
            return out


def field(number, value):
    if isinstance(value, int):
        return varint(number << 3) + varint(value)
    value = value.encode() if isinstance(value, str) else value
    return varint(number << 3 | 2) + varint(len(value)) + value


def tensor(shape, kind, numbers):
    dims = b"".join(field(2, field(1, size)) for size in shape)
    return field(1, kind) + field(2, dims) + numbers


def node(name, value, op="Const"):
    kind = field(5, field(1, "dtype") + field(2, field(6, 1)))
    attribute = field(5, field(1, "value") + field(2, field(8, value)))
    return field(1, field(1, name) + field(2, op) + kind + attribute)


def const(name, array, kind=1):
    return node(name, tensor(array.shape, kind, field(4, array.tobytes())))


NUMBERS = np.arange(6, dtype=np.float32).reshape(2, 3)
NODES = {
    "content": const("content", NUMBERS),
    "halves": const("halves", NUMBERS.astype(np.float16), 19),
    "listed": node("listed", tensor((3,), 3, b"".join(field(7, n) for n in (1, -2, 3)))),
    "packed": node("packed", tensor((2,), 9, field(10, varint(5) + varint(-6)))),
    "floats": node("floats", tensor((2,), 1, field(5, struct.pack("<2f", 0.5, -1.5)))),
    "bits": node("bits", tensor((2,), 19, field(13, varint(0x3E00) + varint(0xC000)))),
    "zeros": node("zeros", tensor((3,), 1, b"")),
    "single": node("single", tensor((), 1, varint(5 << 3 | 5) + struct.pack("<f", 2.5))),
    "repeated": node("repeated", tensor((4,), 1, field(5, struct.pack("<f", 7.0)))),
}
REST = node("text", tensor((1,), 7, field(8, "words"))) + node("sum", b"", op="Add")


def test_constants_are_read_however_they_are_kept(tmp_path):
    file = tmp_path / "graph.pb"
    # The version of a graph stands at its end.
    file.write_bytes(b"".join(NODES.values()) + REST + field(4, field(1, 8)))
    found = read_arrays(str(file), "--graph")
    assert found.keys() == NODES.keys()
    np.testing.assert_array_equal(found["content"], NUMBERS)
    np.testing.assert_array_equal(found["halves"], NUMBERS.astype(np.float16))
    assert found["listed"].tolist() == [1, -2, 3] and found["listed"].dtype == np.int32
    assert found["packed"].tolist() == [5, -6] and found["packed"].dtype == np.int64
    assert found["floats"].tolist() == [0.5, -1.5] and found["single"] == np.float32(2.5)
    assert found["bits"].tolist() == [1.5, -2.0] and found["zeros"].tolist() == [0.0] * 3
    assert found["repeated"].tolist() == [7.0] * 4


BAD = {
    "it is cut short": NODES["content"][:-3],
    "holds no constants": REST,
    "content holds 24 bytes for 8 numbers": node(
        "content", tensor((2, 4), 1, field(4, NUMBERS.tobytes()))
    ),
    "a number of more than 64 bits": b"\x0a" + b"\xff" * 11,
    "a field of a kind that there is not": b"\x0b\x01",
    "lists 2 numbers for 3": node("few", tensor((3,), 1, field(5, struct.pack("<2f", 1, 2)))),
    "over 268435456 numbers": node(
        "vast", tensor((2**30, 2**30), 1, field(5, struct.pack("<f", 1)))
    ),
    "a number where a message must be": field(1, field(1, "a") + field(2, "Const") + field(5, 1)),
}


@pytest.mark.parametrize("line", BAD)
def test_one_line_for_a_file_that_is_none(tmp_path, line):
    file = tmp_path / "graph.pb"
    file.write_bytes(BAD[line])
    with pytest.raises(UserError, match=f"^--graph={file} is no graph of TensorFlow: .*{line}"):
        read_arrays(str(file), "--graph")


def test_any_cut_and_any_changed_byte_is_a_graph_or_one_line(tmp_path):
    whole, file = b"".join(NODES.values()), tmp_path / "graph.pb"
    rng = np.random.default_rng(0)
    for _ in range(300):
        changed = bytearray(whole[: rng.integers(1, len(whole))])
        changed[rng.integers(len(changed))] = rng.integers(256)
        file.write_bytes(changed)
        try:
            read_graph(file)
        except ValueError as error:
            assert "\n" not in str(error)


# ------------------------------------------------------------------ from both, the same


def test_both_files_give_the_same_and_the_bias_is_left_out(tmp_path):
    abstract = {
        "inception": {
            "conv2d_1a_3x3": inception_shapes()["inception"]["conv2d_1a_3x3"],
            "logits": inception_shapes()["inception"]["logits"],
        }
    }
    wanted = ("inception/conv2d_1a_3x3/", "inception/logits/")

    def part(file):
        rows = [r for r in file.table if getattr(r, "ours", wanted[0]).startswith(wanted)]
        return dataclasses.replace(file, table=tuple(rows))

    kind = dataclasses.replace(
        KIND,
        files={"pytorch_fid": part(KIND.files["pytorch_fid"])},
        whole={"graph": part(KIND.whole["graph"])},
        abstract=lambda: abstract,
    )
    rng = np.random.default_rng(0)
    theirs = {
        name: rng.normal(size=shape).astype(np.float32)
        for name, shape in shapes(kind.files["pytorch_fid"].table, abstract).items()
    }
    graph = {
        "conv/conv2d_params": theirs["Conv2d_1a_3x3.conv.weight"].transpose(2, 3, 1, 0),
        "softmax/weights": theirs["fc.weight"].T,
        "softmax/biases": np.zeros(1008, np.float32),
        "pool_3/_reshape/shape": np.zeros(2, np.float32),
    }
    norms = {"gamma": "weight", "beta": "bias"}
    norms |= {"moving_mean": "running_mean", "moving_variance": "running_var"}
    for ours, own in norms.items():
        graph[f"conv/batchnorm/{ours}"] = theirs[f"Conv2d_1a_3x3.bn.{own}"]
    file = tmp_path / "graph.pb"
    arrays = {name: np.ascontiguousarray(array) for name, array in graph.items()}
    file.write_bytes(b"".join(const(name, array) for name, array in arrays.items()))
    names = {"graph": f"--graph={file}", "pytorch_fid": "--pytorch_fid=a.pth"}
    of_graph = kind.read({"graph": read_arrays(str(file), "--graph")}, names)
    spare = {"fc.bias": np.zeros(1008, np.float32)}
    of_torch = kind.read({"pytorch_fid": theirs | spare}, names)
    assert of_graph.keys() == of_torch.keys()
    assert all(of_graph[name].tobytes() == array.tobytes() for name, array in of_torch.items())
    assert kind.write(of_torch, "pytorch_fid").keys() == theirs.keys()
    with pytest.raises(UserError, match="holds no conv/batchnorm/gamma"):
        kind.read({"graph": {"conv/conv2d_params": arrays["conv/conv2d_params"]}}, names)


def test_every_weight_of_the_graph_is_read():
    """A constant of a convolution that no row takes is no mere size."""
    assert len(shapes(GRAPH, inception_shapes())) == 471
    with pytest.raises(UserError, match="holds mixed_11/conv/conv2d_params, which no row"):
        extra = {"mixed_11/conv/conv2d_params": np.zeros(1, np.float32)}
        found = shapes(GRAPH, inception_shapes())
        KIND.read(
            {"graph": {n: np.broadcast_to(np.float32(0), s) for n, s in found.items()} | extra},
            {"graph": "--graph=a.pb"},
        )


def test_a_file_that_is_not_what_its_name_says_is_refused(tmp_path):
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    file.write_bytes(b"damaged")
    digest = sha256(str(file))
    line = f"^--pytorch_fid={file} has the SHA-256 {digest}, which does not begin with 6726825d as"
    with pytest.raises(UserError, match=line):
        check_digest(str(file), "--pytorch_fid", digest)
    check_digest(f"inception-{digest[:8]}.pth", "--pytorch_fid", digest)
    check_digest("inception-2015-12-05.pth", "--pytorch_fid", digest)
