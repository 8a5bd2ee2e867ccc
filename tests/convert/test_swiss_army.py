"""CogView2's weights: every tensor has its place, the numbers are theirs, ranks make a whole."""

import dataclasses
import functools
import json
import re
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert import swiss_army
from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import left_out, read, shapes, write
from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.codes_condition import CodesCondition
from babeldraw.models.coglm import CogLMConfig
from babeldraw.models.conditions import TextCondition
from babeldraw.models.enlarger import EnlargerConfig
from babeldraw.models.kinds import make_generator
from babeldraw.models.refiner import RefinerConfig
from babeldraw.models.several import SeveralConditions
from babeldraw.tokenizers.base import Codes
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests.convert.test_torch_file import state as as_torch
from tests.convert.test_torch_file import write as write_torch
from tests.models import swiss_army as theirs
from tests.models.test_enlarger import Small
from tests.statements import random_tensors

CODES, PIECES, D, HEADS, BLOCKS = 20_000, 20, 16, 2, 2
COARSE, FINE, FACTOR, P, S, T, START = (2, 3), (4, 6), 2, 4, 6, 24, 5
STACK = TransformerConfig(
    BLOCKS, HEADS, D, 4 * D, activation="gelu", bias=True, compute=ComputeConfig(scan=False)
)
TABLES = {"start": START, "positions": 13, "specials": 3}
LARGE = {**TABLES, "around": (3, 5), "own_positions": True}
TEXT = TextCondition(PIECES, P, dropout=0.0)
SMALL = CodesCondition("small").bound(lambda: Small(Codes(COARSE, (CODES,))))
BOTH = SeveralConditions({"text": TEXT, "codes": SMALL}, 0.0)
NETWORK = {
    "coglm": make_generator(CogLMConfig(STACK, **TABLES), TEXT, Codes(COARSE, (CODES,))),
    "direct": make_generator(
        EnlargerConfig(decoder=STACK, across=(3, 3), **LARGE), BOTH, Codes(FINE, (CODES,))
    ),
    "iterative": make_generator(
        RefinerConfig(decoder=STACK, factor=FACTOR, **LARGE), TEXT, Codes(FINE, (CODES,))
    ),
}
KIND = {"coglm": "coglm", "direct": "cogview2_direct", "iterative": "cogview2_iterative"}
RNG = np.random.default_rng(0)
# Ours: padding is 0, unknown 3. Theirs: the other way round; no text of theirs holds padding.
WORDS = np.int32([[5, 3, 8, 2], [7, 1, 0, 0]])
SAID = [[5, 0, 8, 2], [7, 1]]
PICTURES = RNG.integers(0, CODES, (2, S)).astype(np.int32)
LARGE_CODES = RNG.integers(0, CODES, (2, T)).astype(np.int32)
KNOWN = RNG.random((2, T)) < 0.5
MASK = CODES + PIECES


def abstract(network):
    return jax.eval_shape(lambda key: nn.unbox(network.init(key)), jax.random.key(0))


def published(name):
    """Names and shapes of the six billion, or of what stands on them."""
    held = json.loads((Path(__file__).parent / "swiss_army.json").read_text())
    found = held["coglm"] | (held[name] if name != "coglm" else {})
    numbers = range(48)
    return {
        key.replace("{layer}", str(number)): tuple(shape)
        for key, shape in found.items()
        for number in (numbers if "{layer}" in key else [""])
    }


def small(name):
    """The same names, of the sizes of `NETWORK`."""
    sizes = {3072: D, 9216: 3 * D, 12288: 4 * D, 150_003: MASK + 3, 1024: 13, 3600: T}
    return {
        key: tuple(sizes[size] for size in shape)
        for key, shape in published(name).items()
        if int((re.findall(r"\.(\d+)\.", key) or ["0"])[0]) < BLOCKS
    }


@functools.cache
def state(name):
    return random_tensors(small(name))


@functools.cache
def params(name):
    network = NETWORK[name]
    return read(table(name), state(name), abstract(network))


def table(name):
    return NETWORKS[KIND[name]].layouts["torch"].table(NETWORK[name].config)


# ------------------------------------------------------------------ names, shapes, bytes


@pytest.mark.parametrize(
    ("name", "config", "count"),
    [
        # Matrices and the table as the specification counts them: 5.90B and 1.81B more.
        ("coglm", "configs/coglm.py", 12 * 48 * 3072**2 + 150_003 * 3072),
        ("direct", "configs/cogview2/direct.py", 16 * 48 * 3072**2 + 150_003 * 3072),
        ("iterative", "configs/cogview2/iterative.py", 12 * 48 * 3072**2 + 150_003 * 3072),
    ],
)
def test_tensors_are_the_published_ones(name, config, count):
    generator = parse(load_config(config, "pyproject.toml")).generator
    if name != "coglm":
        own = dataclasses.replace(generator.config, own_positions=True)
        generator = dataclasses.replace(generator, config=own)
    found = abstract(generator)
    assert shapes(table(name), found) == published(name)
    leaves = jax.tree_util.tree_leaves_with_path(found)
    matrices = sum(
        leaf.size
        for path, leaf in leaves
        if "bias" not in str(path) and "norm" not in str(path) and "places" not in str(path)
    )
    assert matrices == count + (name != "coglm") * 3600 * 3072


@pytest.mark.parametrize("name", NETWORK)
def test_there_and_back_are_the_same_bytes(name):
    back = write(table(name), params(name))
    assert back.keys() == state(name).keys()
    assert all(back[key].tobytes() == array.tobytes() for key, array in state(name).items())


def test_padding_and_unknown_change_places_alone():
    ours, theirs = params("coglm")["embed"]["table"], state("coglm")
    rows = theirs["transformer.word_embeddings.weight"]
    same = [row for row in range(len(rows)) if row not in (CODES, CODES + 3)]
    np.testing.assert_array_equal(ours[same], rows[same])
    np.testing.assert_array_equal(ours[[CODES, CODES + 3]], rows[[CODES + 3, CODES]])


def test_the_direct_stage_s_projections_are_left_out_of_the_iterative_one():
    names = state("direct")
    (found,) = left_out(table("iterative"), names, abstract(NETWORK["iterative"])).values()
    assert found == sorted(name for name in names if "attention_plus" in name)


# ------------------------------------------------------------------ numbers


def before(ids, first):
    return [first, *ids[:-1]]


def test_a_picture_s_logits_are_those_of_the_published_layer_order():
    network = NETWORK["coglm"]
    found = jax.jit(network.logits)(params("coglm"), WORDS, PICTURES)
    for row, said in enumerate(SAID):
        text = len(said)
        ids = [CODES + piece for piece in said] + before([*PICTURES[row]], MASK)
        positions = [*range(text), *range(START, START + S)]
        mask = np.tril(np.ones((text + S, text + S), bool))
        mask[:, :text] = True
        mask[:text, text:] = False
        hidden = theirs.coglm(state("coglm"), ids, positions, mask, HEADS)[text:]
        expected = theirs.logits(state("coglm"), hidden, slice(CODES))
        np.testing.assert_allclose(found[row], expected, atol=1e-4, rtol=1e-4)


def test_the_perplexity_of_a_text_is_that_of_the_published_layer_order():
    """Their inverse prompt: a picture, a start, a text; of the whole vocabulary.

    Of the two texts the first has a piece of the second language, and so its start.
    """
    config = dataclasses.replace(NETWORK["coglm"].config, languages=(8,))
    network = dataclasses.replace(NETWORK["coglm"], config=config)
    run = jax.jit(lambda p: network._call("told_nll", p, jnp.asarray(PICTURES), jnp.asarray(WORDS)))
    found = run(params("coglm"))[0]
    for row, said in enumerate(SAID):
        told = [CODES + piece for piece in said]
        ids = [*PICTURES[row], *before([*told, 0], (MASK + 2, MASK + 1)[row])]
        slots = len(ids)
        positions = [*range(START + 1, START + 1 + S), *range(slots - S)]
        mask = np.zeros((slots, slots), bool)
        mask[:, :S] = True
        mask[S:, S:] = np.tril(np.ones((slots - S, slots - S), bool))
        hidden = theirs.coglm(state("coglm"), ids, positions, mask, HEADS)[S:-1]
        scores = theirs.logits(state("coglm"), hidden)
        chosen = scores[np.arange(len(told)), told]
        expected = np.log(np.exp(scores - scores.max()).sum(-1)) + scores.max() - chosen
        np.testing.assert_allclose(found[row, : len(told)], expected, atol=1e-4, rtol=1e-4)


def large_logits(name, said, values=None):
    network = NETWORK[name]

    @jax.jit
    def run(params, said):
        hidden = network.hidden(params, network.read(params, said), LARGE_CODES, KNOWN)
        return network.factor_logits(params, hidden)

    return run(params(name) if values is None else values, said)


def padded_left(said):
    """A text of P slots as the direct stage has it, its positions, and which are padding."""
    pads = P - len(said)
    ids = [0] * pads + [CODES + piece for piece in said]
    return ids, [0] * pads + [*range(len(said))], pads


def test_direct_super_resolution_is_that_of_the_published_layer_order():
    found = large_logits("direct", {"text": jnp.asarray(WORDS), "codes": jnp.asarray(PICTURES)})
    across, around = theirs.window(FINE, COARSE, (3, 3)), theirs.window(FINE, FINE, (3, 5))
    for row, said in enumerate(SAID):
        text, places, pads = padded_left(said)
        ids, positions = [*text, *PICTURES[row]], [*places, *range(START + 1, START + 1 + S)]
        mask = np.ones((P + S, P + S), bool)
        mask[:P, P:] = mask[pads:, :pads] = False
        large = np.where(KNOWN[row], LARGE_CODES[row], MASK)
        inputs = (state("direct"), ids, positions, mask, large, across, around, HEADS)
        expected = theirs.logits(state("direct"), theirs.direct(*inputs), slice(CODES))
        np.testing.assert_allclose(found[row], expected, atol=1e-4, rtol=1e-4)


def test_iterative_super_resolution_is_that_of_the_published_layer_order():
    found, around = large_logits("iterative", jnp.asarray(WORDS)), theirs.window(FINE, FINE, (3, 5))
    for row, said in enumerate(SAID):
        ids = [CODES + piece for piece in said]
        large = np.where(KNOWN[row], LARGE_CODES[row], MASK)
        hidden = theirs.iterative(state("iterative"), ids, large, around, HEADS)
        expected = theirs.logits(state("iterative"), hidden, slice(CODES))
        np.testing.assert_allclose(found[row], expected, atol=1e-4, rtol=1e-4)


def test_what_they_begin_from_a_coglm_with_is_our_positions_one_too_early():
    """Their table as it is made: the rows from the start of a picture on, laid side by side."""
    made = dict(state("direct"))
    rows = made["transformer.position_embeddings.weight"][START : START + S]
    laid = np.tile(rows.reshape(*COARSE, D), (FACTOR, FACTOR, 1)).reshape(T, D)
    made["mixins.extra_position_embedding.position_embeddings.weight"] = laid
    theirs_of = read(table("direct"), made, abstract(NETWORK["direct"]))
    said = {"text": jnp.asarray(WORDS), "codes": jnp.asarray(PICTURES)}
    expected = large_logits("direct", said, theirs_of)
    own = dataclasses.replace(NETWORK["direct"].config, own_positions=False, early_positions=True)
    early = dataclasses.replace(NETWORK["direct"], config=own)
    fresh = {**theirs_of, "fine": {"table": np.zeros_like(laid)}}

    @jax.jit
    def run(params):
        hidden = early.hidden(params, early.read(params, said), LARGE_CODES, KNOWN)
        return early.factor_logits(params, hidden)

    np.testing.assert_allclose(run(fresh), expected, atol=1e-5, rtol=1e-5)


# ------------------------------------------------------------------ ranks


@pytest.mark.parametrize("name", NETWORK)
@pytest.mark.parametrize("ranks", [1, 2])
def test_ranks_together_are_the_whole(name, ranks):
    # The table of words divides by ranks as theirs is filled up to.
    whole = {key: array for key, array in state(name).items() if "word_embeddings" not in key}
    whole["transformer.word_embeddings.weight"] = np.arange(8.0).reshape(4, 2)
    parts = swiss_army.PARTITIONS.split(whole, ranks)
    found = swiss_army.PARTITIONS.merged(parts)
    assert found.keys() == whole.keys()
    assert all(found[key].tobytes() == array.tobytes() for key, array in whole.items())


def test_a_rank_has_queries_keys_and_values_of_its_heads():
    key = "transformer.layers.0.attention.query_key_value.bias"
    first, second = swiss_army.PARTITIONS.split({key: np.arange(12)}, 2)
    np.testing.assert_array_equal(first[key], [0, 1, 4, 5, 8, 9])
    np.testing.assert_array_equal(second[key], [2, 3, 6, 7, 10, 11])


def files_of(folder, parts):
    for rank, part in parts.items():
        arrays = {str(i): array for i, array in enumerate(part.values())}
        path = folder / f"mp_rank_{rank:02d}_model_states.pt"
        write_torch(path, lambda torch, part=part: {"module": as_torch(torch, part)}, arrays)
    return str(folder / "mp_rank_00_model_states.pt")


def test_the_files_of_ranks_are_read_by_the_first_one_s_name(tmp_path):
    names = [key for key in state("coglm") if ".0." in key]
    whole = {key: state("coglm")[key] for key in names}
    one, two = swiss_army.PARTITIONS.split(whole, 2)
    layout = NETWORKS["coglm"].layouts["torch"]
    found = layout.read(files_of(tmp_path, {0: one, 1: two}), "--torch")
    assert all(found[key].tobytes() == array.tobytes() for key, array in whole.items())


def test_ranks_that_do_not_belong_together_are_one_line(tmp_path):
    key = "transformer.final_layernorm.bias"
    one, other = {key: np.zeros(2, np.float32)}, {key: np.ones(2, np.float32)}
    layout = NETWORKS["coglm"].layouts["torch"]
    file = files_of(tmp_path, {0: one, 2: one})
    with pytest.raises(UserError, match=r"files of 2 ranks beside it, and none of rank \[1\]; put"):
        layout.read(file, "--torch")
    with pytest.raises(UserError, match="is that of rank 2; name rank 0's"):
        layout.read(file.replace("_00_", "_02_"), "--torch")
    files_of(tmp_path, {1: other})
    with pytest.raises(UserError, match="ranks hold different transformer.final_layernorm.bias"):
        layout.read(file, "--torch")
    files_of(tmp_path, {1: {"x": one[key]}})
    with pytest.raises(UserError, match="ranks 0 and 1 differ by transformer.final_layernorm.bias"):
        layout.read(file, "--torch")


@pytest.mark.parametrize("lengths", [(6, 3), (4, 4)])
def test_shares_that_do_not_fit_together_are_one_line(lengths):
    key = "transformer.layers.0.attention.query_key_value.bias"
    parts = [{key: np.zeros(length, np.float32)} for length in lengths]
    with pytest.raises(UserError, match="query_key_value.bias of the shapes .* 3 groups along axi"):
        swiss_army.PARTITIONS.merged(parts)


# ------------------------------------------------------------------ mistakes


def test_positions_laid_over_the_grid_have_no_place_in_theirs():
    config = dataclasses.replace(NETWORK["direct"].config, own_positions=False)
    with pytest.raises(UserError, match="config.model.own_positions is False and the large codes"):
        swiss_army.direct(config)
    with pytest.raises(UserError, match="early_positions and own_positions are True"):
        dataclasses.replace(NETWORK["direct"].config, early_positions=True)


def test_a_network_of_fewer_codes_is_refused():
    few = make_generator(CogLMConfig(STACK, **TABLES), TEXT, Codes(COARSE, (17,)))
    with pytest.raises(UserError, match=r"has 40 rows; \(20000, 20003\) are exchanged: more"):
        shapes(swiss_army.coglm(few.config), abstract(few))
