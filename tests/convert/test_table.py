"""The two-way table: what its patterns mean, both ways bit for bit, and what it refuses."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.rearrange import Rearrangement
from babeldraw.convert.table import Ignored, Row, left_out, read, write
from babeldraw.errors import UserError
from babeldraw.layers.convolution import convolve
from babeldraw.runs.weights import flatten

RNG = np.random.default_rng(0)
B, T, L, D, N, H, F, C = 2, 3, 4, 6, 3, 2, 5, 3
ATTENTION = "stack/blocks/attention"
TABLE = (
    Row("embed/table", "tok_embeddings.weight"),
    Row("scale", "logit_scale", "1 -> "),
    Row("patches/weight", "patch_embed.weight", "d c=3 r=2 k=4 -> (r k c) d"),
    Row(
        f"{ATTENTION}/{{query,key,value}}/weight",
        "layers.{layer}.attention.wqkv.weight",
        "(3 n h) d -> 3 d n h",
    ),
    Row(
        f"{ATTENTION}/{{query,key,value}}/bias",
        "layers.{layer}.attention.wqkv.bias",
        "(3 n h) -> 3 n h",
    ),
    Row(f"{ATTENTION}/out/weight", "layers.{layer}.attention.wo.weight", "d (n h) -> n h d"),
    Row("stack/blocks/norm/scale", "layers.{layer}.norm.weight"),
    # Two of theirs are one of ours.
    Row(
        "stack/blocks/ffn/up/weight",
        "layers.{layer}.ffn.{w1,w3}.weight",
        "2 f d -> d 2 f",
    ),
    Row("up{stage}/conv{part}/weight", "up.{stage}.{part}.conv.weight", "o i h w -> h w i o"),
    Ignored(r"layers\.\d+\.attention\.mask", "made anew"),
)


def normal(*shape):
    return RNG.standard_normal(shape, np.float32)


def network():
    """Ours."""
    attention = {
        name: {"weight": normal(L, D, N, H), "bias": normal(L, N, H)}
        for name in ("query", "key", "value")
    }
    blocks = {
        "attention": {**attention, "out": {"weight": normal(L, N, H, D)}},
        "ffn": {"up": {"weight": normal(L, D, 2, F)}},
        "norm": {"scale": normal(L, D)},
    }
    # A stage with more convolutions than the others, and a number of two digits.
    convs = {
        f"up{stage}": {f"conv{part}": {"weight": normal(3, 3, C, F)} for part in parts}
        for stage, parts in ((0, (1,)), (2, (1, 2)), (10, (1,)))
    }
    return {
        "embed": {"table": normal(7, D)},
        "scale": normal(),
        "patches": {"weight": normal(2 * 4 * 3, D)},
        "stack": {"blocks": blocks},
        **convs,
    }


PARAMS = network()
ABSTRACT = jax.eval_shape(lambda: PARAMS)
THEIRS = write(TABLE, PARAMS)


def same_bits(found, expected):
    assert found.keys() == expected.keys()
    for key, array in expected.items():
        assert (found[key].dtype, found[key].shape) == (array.dtype, array.shape), key
        assert found[key].tobytes() == np.asarray(array).tobytes(), key


# ------------------------------------------------------------------ what the patterns mean


def test_a_fused_matrix_makes_what_three_of_ours_make():
    x_BTD = normal(B, T, D)
    ours = PARAMS["stack"]["blocks"]["attention"]
    for layer in range(L):
        prefix = f"layers.{layer}.attention."
        fused = x_BTD @ THEIRS[prefix + "wqkv.weight"].T + THEIRS[prefix + "wqkv.bias"]
        thirds = np.split(fused, 3, axis=-1)
        for name, third in zip(("query", "key", "value"), thirds, strict=True):
            weight, bias = ours[name]["weight"][layer], ours[name]["bias"][layer]
            made_BTNH = np.einsum("BTD,DNH->BTNH", x_BTD, weight) + bias
            np.testing.assert_allclose(made_BTNH, third.reshape(B, T, N, H), atol=1e-5)
        out = thirds[2] @ THEIRS[prefix + "wo.weight"].T
        values_BTNH = thirds[2].reshape(B, T, N, H)
        expected = np.einsum("BTNH,NHD->BTD", values_BTNH, ours["out"]["weight"][layer])
        np.testing.assert_allclose(out, expected, atol=1e-5)


def test_two_matrices_of_theirs_lie_side_by_side_in_ours():
    x_BTD, ours = normal(B, T, D), PARAMS["stack"]["blocks"]["ffn"]["up"]["weight"]
    for layer in range(L):
        made = np.einsum("BTD,DGF->GBTF", x_BTD, ours[layer])
        for part, name in zip(made, ("w1", "w3"), strict=True):
            weight = THEIRS[f"layers.{layer}.ffn.{name}.weight"]
            np.testing.assert_allclose(part, x_BTD @ weight.T, atol=1e-5)


def test_a_convolution_is_the_same_one():
    x_BhwC = normal(1, 5, 4, C)
    found = convolve(x_BhwC, PARAMS["up2"]["conv2"]["weight"], padding="VALID")
    weight = THEIRS["up.2.2.conv.weight"]
    assert weight.shape == (F, C, 3, 3)
    for row, column in np.ndindex(3, 2):
        window = x_BhwC[0, row : row + 3, column : column + 3]
        expected = np.einsum("ohw,fohw->f", window.transpose(2, 0, 1), weight)
        np.testing.assert_allclose(found[0, row, column], expected, atol=1e-5)


def test_a_bracket_of_ours_takes_its_sizes_from_the_pattern():
    patch_rkc = normal(2, 4, 3)
    found = patch_rkc.reshape(-1) @ PARAMS["patches"]["weight"]
    expected = np.einsum("rkc,dcrk->d", patch_rkc, THEIRS["patch_embed.weight"])
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_names_are_those_of_their_layers_and_stages():
    assert THEIRS["logit_scale"].shape == (1,)
    assert {key for key in THEIRS if key.startswith("up.")} == {
        "up.0.1.conv.weight",
        "up.2.1.conv.weight",
        "up.2.2.conv.weight",
        "up.10.1.conv.weight",
    }
    for layer in range(L):
        np.testing.assert_array_equal(
            THEIRS[f"layers.{layer}.norm.weight"], PARAMS["stack"]["blocks"]["norm"]["scale"][layer]
        )


def test_lists_on_both_sides_and_two_counted_words():
    table = (Row("{query,key}/{weight,bias}", "{stage}.{layer}.{w,b}.{q,k}", "w q -> q w"),)
    params = {
        name: {kind: normal(2, 3) for kind in ("weight", "bias")} for name in ("query", "key")
    }
    theirs = write(table, params)
    assert len(theirs) == 2 * 3 * 4
    for stage, layer in np.ndindex(2, 3):
        assert theirs[f"{stage}.{layer}.b.q"] == params["query"]["bias"][stage, layer]
        assert theirs[f"{stage}.{layer}.w.k"] == params["key"]["weight"][stage, layer]
    same_bits(flatten(read(table, theirs, params)), flatten(params))


def test_parts_of_several_sizes_lie_one_behind_the_other():
    # Keys and values of fewer heads than queries, and tokens before classes in one table.
    params = {
        "blocks": {
            "query": normal(L, D, 4, H),
            "key": normal(L, D, 2, H),
            "value": normal(L, D, 2, H),
        },
        "tokens": {"table": normal(7, D)},
        "classes": {"table": normal(3, D)},
    }
    table = (
        Row("blocks/{query+key+value}", "{layer}.wqkv", "(n h) d -> d n h"),
        Row("{tokens+classes}/table", "words.weight"),
    )
    theirs, x_BTD = write(table, params), normal(B, T, D)
    for layer in range(L):
        query, key, value = np.split(x_BTD @ theirs[f"{layer}.wqkv"].T, [8, 12], axis=-1)
        for name, made in (("query", query), ("key", key), ("value", value)):
            expected = np.einsum("BTD,DNH->BTNH", x_BTD, params["blocks"][name][layer])
            np.testing.assert_allclose(made, expected.reshape(made.shape), atol=1e-5)
    np.testing.assert_array_equal(theirs["words.weight"][7:], params["classes"]["table"])
    same_bits(flatten(read(table, theirs, params)), flatten(params))
    short = theirs | {"words.weight": np.ones((9, D))}
    with pytest.raises(UserError, match=r"words.weight has the shape \(9, 6\) and \(10, 6\) is"):
        read(table, short, params)


# ------------------------------------------------------------------ round trips and types


def test_read_after_write_and_write_after_read_are_the_identity():
    params = read(TABLE, THEIRS, ABSTRACT)
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    same_bits(flatten(params), flatten(PARAMS))
    same_bits(write(TABLE, params), THEIRS)
    assert all(array.flags.c_contiguous for array in THEIRS.values())


@pytest.mark.parametrize("dtype", [np.float16, jnp.bfloat16])
def test_half_precision_of_theirs_becomes_the_type_of_ours(dtype):
    short = write(TABLE, PARAMS, dtype)
    assert {array.dtype for array in short.values()} == {np.dtype(dtype)}
    params = read(TABLE, short, ABSTRACT)
    assert {array.dtype for array in jax.tree.leaves(params)} == {np.dtype(np.float32)}
    same_bits(write(TABLE, params, dtype), short)


def test_ours_may_be_of_half_precision_and_whole_numbers_stay_whole():
    params = {"a": np.asarray([1.5, -2], jnp.bfloat16), "b": np.arange(3, dtype=np.int32)}
    table = (Row("a", "x"), Row("b", "y"))
    theirs = write(table, params)
    assert (theirs["x"].dtype, theirs["y"].dtype) == (np.float32, np.int32)
    same_bits(flatten(read(table, theirs, params)), params)


def test_what_is_ignored_is_not_read_and_not_written():
    mask = {f"layers.{layer}.attention.mask": np.ones(3, bool) for layer in range(L)}
    params = read(TABLE, THEIRS | mask, ABSTRACT)
    same_bits(write(TABLE, params), THEIRS)
    assert left_out(TABLE, THEIRS | mask, ABSTRACT) == {"made anew": sorted(mask)}
    assert left_out(TABLE, THEIRS, ABSTRACT) == {}


def test_an_ignored_pattern_leaves_out_nothing_that_a_row_takes():
    table = (*TABLE, Ignored(".*", "all else"))
    same_bits(flatten(read(table, THEIRS | {"ema": np.ones(1)}, ABSTRACT)), flatten(PARAMS))
    assert left_out(table, [*THEIRS, "ema"], ABSTRACT) == {"all else": ["ema"]}


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        (
            {f"layers.{i}.norm.weight": None for i in range(4)},
            "--model=a.pth holds no layers.0.norm.weight, layers.1.norm.weight, "
            "layers.2.norm.weight and 1 more: it is of another network",
        ),
        (
            {"layers.4.norm.weight": np.ones(D), "ema": np.ones(1)},
            "--model=a.pth holds ema, layers.4.norm.weight, which no row of the table takes: it is "
            "of another network",
        ),
        (
            {"layers.2.attention.wqkv.weight": np.ones((D, 3 * N * H))},
            "--model=a.pth: layers.2.attention.wqkv.weight has the shape (6, 18) and (18, 6) is "
            "needed",
        ),
        (
            {"layers.1.ffn.w3.weight": np.ones((D, F))},
            "--model=a.pth: layers.1.ffn.w3.weight has the shape (6, 5) and (5, 6) is needed",
        ),
        (
            {"logit_scale": np.ones(1, np.int64)},
            "--model=a.pth: logit_scale is of type int64 and float32 is needed",
        ),
    ],
)
def test_tensors_of_another_network_are_refused(changed, line):
    tensors = {key: array for key, array in (THEIRS | changed).items() if array is not None}
    with pytest.raises(UserError, match=f"^{re.escape(line)}$"):
        read(TABLE, tensors, ABSTRACT, "--model=a.pth")


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (Row("embed/table", "wte"), "two rows of the table fill our embed/table; one is too many"),
        (
            Row("more", "tok_embeddings.weight"),
            "two rows of the table take their tok_embeddings.weight; one is too many",
        ),
        (Row("embed/tabel", "x"), "our network has no embed/tabel, which a row of the table names"),
        (
            Row("down{stage}/weight", "down.{stage}"),
            "our network has no down{stage}/weight, which a row of the table names",
        ),
        (
            Row("{more,embed/table}", "x"),
            "{more,embed/table} stacks parameters of several shapes, [(5,), (7, 6)]",
        ),
        (
            Row("more", "{layer}.{part}"),
            "more of shape (5,) has no axis for ['layer', 'part'], which {layer}.{part} counts",
        ),
        (
            Row("more", "x", "a b -> b a"),
            "our more, (5,), does not fit 'a b -> b a': 1 dimensions where there must be 2",
        ),
        (Row("more", "x", "2 a -> (2 a)"), "5 is no size of (2 a)"),
        (Row("more", "x", "7 -> 7"), "5 is no size of (7)"),
        (
            Row("more", "{a,b}", "a=5 -> a"),
            "{a,b} lists (2,) tensors, and 'a=5 -> a' gives (5,)",
        ),
        (
            Row("{more+embed/table}", "x"),
            "{more+embed/table} lists parts of x that are [(5,), (7, 6)]; they cannot lie in one",
        ),
        (None, "no row of the table fills our more"),
    ],
)
def test_a_table_of_another_network_is_refused_both_ways(row, line):
    table = TABLE if row is None else (*TABLE, row)
    params = PARAMS | {"more": normal(5)}
    with pytest.raises(UserError, match=re.escape(line)):
        write(table, params)
    with pytest.raises(UserError, match=re.escape(line)):
        read(table, THEIRS, jax.eval_shape(lambda: params))


@pytest.mark.parametrize(
    ("row", "line"),
    [
        (("a", "b", "d n"), "'d n' is not of the form"),
        (("a", "b", "d -> d -> d"), "is not of the form"),
        (("a", "b", "d n -> d"), "must have each axis once on each side"),
        (("a", "b", "d d -> d d"), "must have each axis once on each side"),
        (("a", "b", "2 d -> d 3"), "must have each axis once on each side"),
        (("a", "b", "(n h -> h n"), "brackets do not nest, and each one closes"),
        (("a", "b", "d-e -> d-e"), "'d-e' is no axis; write d, d=64 or 3"),
        (("a", "b", "n h -> (n h)"), "write the size of n, n=2"),
        (("a/{layer}", "b", ""), "a/{layer} has {layer}, which b has not"),
        (("a", "{b+c}", ""), "may list parts with + once, in the name of ours"),
        (("{a+b}/{c+d}", "e", ""), "may list parts with + once, in the name of ours"),
        (("a", "b.{0}", ""), "is no word, such as {layer}"),
    ],
)
def test_a_row_that_says_nothing_is_refused_where_it_is_written(row, line):
    with pytest.raises(ValueError, match=re.escape(line)):
        Row(*row)


def test_ones_come_and_go():
    pattern, array = Rearrangement.parse("1 c 1 1 -> c 1"), normal(5)
    assert pattern.their_shape((5, 1)) == (1, 5, 1, 1)
    np.testing.assert_array_equal(pattern.to_theirs(array[:, None]), array.reshape(1, 5, 1, 1))


def test_two_rows_of_theirs_change_places_both_ways():
    table = (Row("embed/table", "words", exchanged=(1, 3)),)
    ours = {"embed": {"table": normal(5, 2)}}
    theirs = write(table, ours)
    np.testing.assert_array_equal(theirs["words"], ours["embed"]["table"][[0, 3, 2, 1, 4]])
    back = read(table, theirs, ours)
    assert back["embed"]["table"].tobytes() == ours["embed"]["table"].tobytes()
    few = {"embed": {"table": normal(3, 2)}}
    with pytest.raises(UserError, match=r"words has 3 rows; \(1, 3\) are exchanged: more are"):
        write(table, few)
    with pytest.raises(ValueError, match=r"exchanges \(1,\); two places are needed, or none"):
        Row("a", "b", exchanged=(1,))
