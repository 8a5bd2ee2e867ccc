"""LlamaGen's, IBQ's and Open-MAGVIT2's weights: every tensor has its place, the numbers are theirs.

The layer order is stated here in NumPy, from the published modules'; see `models.llama`.
"""

import dataclasses
import functools
import re

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert import llama
from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.table import read, shapes
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.llama import LlamaConfig, LlamaGenerator
from babeldraw.runs.weights import write_weights
from babeldraw.tokenizers.base import Codes
from tests import llama_layers
from tests.convert.test_torch_file import Versions
from tests.convert.test_torch_file import state as as_torch
from tests.convert.test_torch_file import write as write_torch
from tests.llama_layers import BLOCKS, GRID, HEADS, block, causal, rms, silu
from tests.statements import linear, random_tensors, softmax

K, T, CLASSES, D, F = 12, 6, 5, 16, 24
PRE, POST, S, C = 3, 4, 4, 7
SMALL = Codes(GRID, (K,))
RNG = np.random.default_rng(0)
CODES = RNG.integers(0, K, (3, T))
LABELS = np.array([0, 4, CLASSES])
COUNT = np.array([4, 2, 3])
STATES = RNG.normal(size=(3, S, C)).astype(np.float32)
STATES[2] = 0

# ------------------------------------------------------------------ names and shapes


def block_shapes(name, dim, hidden):
    return {
        f"{name}.attention.wqkv.weight": (3 * dim, dim),
        f"{name}.attention.wo.weight": (dim, dim),
        f"{name}.feed_forward.w1.weight": (hidden, dim),
        f"{name}.feed_forward.w3.weight": (hidden, dim),
        f"{name}.feed_forward.w2.weight": (dim, hidden),
        f"{name}.attention_norm.weight": (dim,),
        f"{name}.ffn_norm.weight": (dim,),
    }


def blocks(name, count, dim, hidden):
    found = [block_shapes(f"{name}.{number}", dim, hidden) for number in range(count)]
    return {key: shape for one in found for key, shape in one.items()}


def llamagen(dim=D, hidden=F, count=BLOCKS, codes=K, classes=CLASSES):
    return {
        "cls_embedding.embedding_table.weight": (classes + 1, dim),
        "tok_embeddings.weight": (codes, dim),
        **blocks("layers", count, dim, hidden),
        "norm.weight": (dim,),
        "output.weight": (codes, dim),
    }


def llamagen_text(dim=D, hidden=F, count=BLOCKS, codes=K, slots=S, width=C):
    found = llamagen(dim, hidden, count, codes)
    del found["cls_embedding.embedding_table.weight"]
    return found | {
        "cls_embedding.uncond_embedding": (slots, width),
        "cls_embedding.cap_proj.fc1.weight": (dim, width),
        "cls_embedding.cap_proj.fc2.weight": (dim, dim),
    }


def ibq(dim=D, hidden=F, count=BLOCKS, codes=K, classes=CLASSES):
    found = {
        "class_emb.embedding_table.weight": (classes + 1, dim),
        "tok_emb.weight": (codes, dim),
        **blocks("blocks", count, dim, hidden),
        "head_nm.rmsnorm.weight": (dim,),
        "head_nm.ada_lin.1.weight": (2 * dim, dim),
        "head_nm.ada_lin.1.bias": (2 * dim,),
        "head.weight": (codes, dim),
    }
    for number in range(count):
        found[f"blocks.{number}.ada_lin.1.weight"] = (6 * dim, dim)
        found[f"blocks.{number}.ada_lin.1.bias"] = (6 * dim,)
    return found


def open_magvit2(dim=D, hidden=F, count=BLOCKS, intra=1, factors=(PRE, POST), classes=CLASSES):
    return {
        "class_emb.embedding_table.weight": (classes + 1, dim),
        "pre_emb.weight": (factors[0], dim),
        "post_emb.weight": (factors[1], dim),
        **blocks("spatial_blocks", count, dim, hidden),
        **blocks("factorized_blocks", intra, dim, hidden),
        "norm.weight": (dim,),
        "head.0.weight": (factors[0], dim),
        "head.1.weight": (factors[1], dim),
    }


STACK = TransformerConfig(BLOCKS, HEADS, D, F, activation="silu")
CLASS, TEXT = ClassCondition(CLASSES), FeaturesCondition(S, C, encoder="t5")
FACTORS = {"factors": (PRE, POST), "intra": dataclasses.replace(STACK, blocks=1)}
# Shapes of theirs, what differs in ours, condition; kind and flag of import.
CASES = {
    "llamagen": (llamagen, {}, CLASS, ("llamagen", "torch")),
    "llamagen_text": (llamagen_text, {}, TEXT, ("llamagen", "text")),
    "ibq": (ibq, {"adaptive": True}, CLASS, ("ibq_generator", "bare")),
    "open_magvit2": (open_magvit2, FACTORS, CLASS, ("open_magvit2_generator", "bare")),
}


def network(more, condition, stack=STACK, codes=SMALL):
    return LlamaGenerator(LlamaConfig(stack, **more), condition, codes)


def abstract(generator):
    return nn.unbox(jax.eval_shape(generator.init, jax.random.key(0)))


@functools.cache
def tensors(case):
    return random_tensors(CASES[case][0]())


# ------------------------------------------------------------------ the layer order, in NumPy


def logits_llamagen(w, row):
    x = np.stack([w["cls_embedding.embedding_table.weight"][LABELS[row]], *held(w, row)])
    for number in range(BLOCKS):
        x = block(w, f"layers.{number}", x, 1, causal(T))
    return [linear(w, "output", rms(w, "norm", x))]


def held(w, row):
    return w["tok_embeddings.weight"][CODES[row, :-1]]


def logits_llamagen_text(w, row):
    # The words stand at the end; where nothing is said, the table's own last rows.
    words = np.zeros((S, C))
    words[S - COUNT[row] :] = STATES[row, : COUNT[row]]
    if not STATES[row].any():
        words = w["cls_embedding.uncond_embedding"]
    hidden = linear(w, "cls_embedding.cap_proj.fc1", words)
    hidden = hidden / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (hidden + 0.044715 * hidden**3)))
    x = np.concatenate([linear(w, "cls_embedding.cap_proj.fc2", hidden), held(w, row)])
    seen = causal(S + T - 1)
    seen[:, : S - COUNT[row]] = False
    seen |= np.eye(len(x), dtype=bool)
    for number in range(BLOCKS):
        x = block(w, f"layers.{number}", x, S, seen)
    return [linear(w, "output", rms(w, "norm", x[-T:]))]


def logits_ibq(w, row):
    class_D = w["class_emb.embedding_table.weight"][LABELS[row]]
    x = np.stack([class_D, *w["tok_emb.weight"][CODES[row, :-1]]])
    for number in range(BLOCKS):
        moves = np.split(linear(w, f"blocks.{number}.ada_lin.1", silu(class_D)), 6)
        x = block(w, f"blocks.{number}", x, 1, causal(T), moves)
    scale, shift = np.split(linear(w, "head_nm.ada_lin.1", silu(class_D)), 2)
    return [linear(w, "head", rms(w, "head_nm.rmsnorm", x) * (1 + scale) + shift)]


def logits_open_magvit2(w, row):
    return llama_layers.logits_open_magvit2(w, LABELS[row], CODES[row])


LOGITS = {
    "llamagen": logits_llamagen,
    "llamagen_text": logits_llamagen_text,
    "ibq": logits_ibq,
    "open_magvit2": logits_open_magvit2,
}


@pytest.mark.parametrize("case", CASES)
def test_a_forward_is_that_of_the_layer_order(case):
    _, more, condition, _ = CASES[case]
    generator = network(more, condition)
    params = read(getattr(llama, case)(generator.config), tensors(case), abstract(generator))
    said = jnp.asarray(LABELS, jnp.int32)
    if condition is TEXT:
        said = {"states": jnp.asarray(STATES), "count": jnp.asarray(COUNT, jnp.int32)}
    codes = jnp.asarray(CODES, jnp.int32)
    first = jax.jit(generator.logits)(params, said, codes)
    nll, right = jax.jit(generator.nll)(params, said, codes)
    weights = {name: tensor.astype(np.float64) for name, tensor in tensors(case).items()}
    for row in range(3):
        logits = LOGITS[case](weights, row)
        np.testing.assert_allclose(first[row], logits[0], atol=1e-4, rtol=1e-4)
        factors = [CODES[row]] if len(logits) == 1 else np.divmod(CODES[row], PRE)[::-1]
        pairs = [*zip(logits, factors, strict=True)]
        each = [-np.log(softmax(one)[np.arange(T), ids]) for one, ids in pairs]
        np.testing.assert_allclose(nll[row], sum(each), atol=1e-4, rtol=1e-4)
        best = [one.argmax(-1) == ids for one, ids in pairs]
        np.testing.assert_array_equal(right[row], np.all(best, axis=0))


# ------------------------------------------------------------------ every tensor has its place


@pytest.mark.parametrize("case", CASES)
def test_export_after_import_gives_the_same_bytes(case, tmp_path):
    _, more, condition, (kind, flag) = CASES[case]
    file, generator = tmp_path / "theirs.safetensors", network(more, condition)
    write_weights(file, tensors(case), {})
    wanted = abstract(generator)
    params, left, _ = NETWORKS[kind].read(flag, str(file), generator.config, wanted)
    again = NETWORKS[kind].write(flag, generator.config, params)
    assert not left and again.keys() == tensors(case).keys()
    for name, tensor in tensors(case).items():
        assert again[name].tobytes() == tensor.tobytes(), name
    # As Lightning keeps it, beside the tokenizer.
    if flag == "bare":
        whole = {f"transformer.{name}": tensor for name, tensor in tensors(case).items()}
        whole["first_stage_model.encoder.conv_in.weight"] = np.zeros((2, 2), np.float32)
        write_weights(file, whole, {})
        same, left, _ = NETWORKS[kind].read("torch", str(file), generator.config, wanted)
        jax.tree.map(np.testing.assert_array_equal, same, params)
        assert [*left.values()] == [["first_stage_model.encoder.conv_in.weight"]]


# Who saved it: the key of weights and of their average, names as the wrapper has them.
CONTAINERS = {
    "fsdp": ("", "", lambda name: name),
    "ddp": ("model", "ema", lambda name: name),
    "ddp itself": ("model", "ema", lambda name: f"module.{name}"),
    "ddp of what was compiled": ("model", "ema", lambda name: f"module._orig_mod.{name}"),
    "fsdp block by block": (
        "model",
        "ema",
        lambda name: re.sub(r"^(layers\.\d+)", r"\1._fsdp_wrapped_module", name),
    ),
    "lightning": ("state_dict", "", lambda name: f"_forward_module.transformer.{name}"),
}


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_checkpoint_is_read_in_whatever_it_was_wrapped(container, tmp_path):
    inside, average, wrapped = CONTAINERS[container]
    case, kind = ("ibq", "ibq_generator") if container == "lightning" else ("llamagen",) * 2
    held = {wrapped(name): tensor for name, tensor in tensors(case).items()}
    means = {name: tensor / 2 for name, tensor in held.items()}

    def whole(torch):
        both = as_torch(torch, held | {f"a.{name}": array for name, array in means.items()})
        weights = Versions({name: both[name] for name in held})
        if not inside:
            return weights
        found = {inside: weights, "optimizer": {"state": {0: {"step": 5}}}, "steps": 7}
        return found | ({average: {n: both[f"a.{n}"] for n in held}} if average else {})

    arrays = {str(i): array for i, array in enumerate([*held.values(), *means.values()])}
    file = write_torch(tmp_path / "a.pt", whole, arrays)
    generator = network(CASES[case][1], CLASS)
    wanted, table = abstract(generator), getattr(llama, case)(generator.config)

    def read_by(flag):
        return NETWORKS[kind].read(flag, file, generator.config, wanted).params

    expected = read(table, tensors(case), wanted)
    jax.tree.map(np.testing.assert_array_equal, read_by("torch"), expected)
    if average:
        half = jax.tree.map(lambda leaf: leaf / 2, expected)
        jax.tree.map(np.testing.assert_array_equal, read_by("ema"), half)


PUBLISHED = {
    # Blocks, heads, width, hidden, side of the grid; parameters of the published module.
    "llamagen": {
        "b": (12, 12, 768, 2048, 110_888_448),
        "l": (24, 16, 1024, 2816, 342_910_976),
        "xl": (36, 20, 1280, 3584, 774_699_520),
        "xxl": (48, 24, 1536, 4096, 1_410_972_672),
        "1b": (22, 32, 2048, 5632, 1_199_616_000),
        "3b": (24, 32, 3200, 8704, 3_096_659_200),
    },
    "llamagen_text": {"xl": (36, 20, 1280, 3584, 777_678_080 + 120 * 2048)},
    "ibq": {
        "b": (16, 16, 1024, 2816, 342_994_944),
        "l": (20, 20, 1280, 3584, 649_640_960),
        "xl": (24, 24, 1536, 4096, 1_076_103_168),
        "xxl": (30, 30, 1920, 5120, 2_063_331_840),
    },
    "open_magvit2": {
        "b": (24, 16, 1024, 2816, 343_570_432),
        "l": (36, 20, 1280, 3584, 804_362_240),
        "xl": (48, 24, 1536, 4096, 1_486_679_040),
    },
}
ROWS = [(case, row) for case, rows in PUBLISHED.items() for row in rows]


@pytest.mark.parametrize(("case", "row"), ROWS)
def test_the_published_sizes(case, row):
    count, heads, dim, hidden, parameters = PUBLISHED[case][row]
    stack = TransformerConfig(count, heads, dim, hidden, activation="silu")
    more, codes, theirs = CASES[case][1], 16_384, {"codes": 16_384, "classes": 1000}
    condition = ClassCondition(1000)
    if case == "llamagen_text":
        condition = FeaturesCondition(120, 2048, encoder="t5")
        theirs = {"codes": 16_384, "slots": 120, "width": 2048}
    if case == "open_magvit2":
        intra = count // 12
        blocks_of = dataclasses.replace(stack, blocks=intra)
        more, codes = {"factors": (64, 4096), "intra": blocks_of}, 2**18
        theirs = {"intra": intra, "factors": (64, 4096), "classes": 1000}
    generator = network(more, condition, stack, Codes((16, 16), (codes,)))
    ours, table = abstract(generator), getattr(llama, case)(generator.config)
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == parameters
    assert shapes(table, ours) == CASES[case][0](dim, hidden, count, **theirs)
