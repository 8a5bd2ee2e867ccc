"""RAR's weights: every tensor has its place, and a permuted forward is that of the layer order.

The layer order is stated here in NumPy, from the published module's; see `models.rar`.
"""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.networks import NETWORKS
from babeldraw.convert.rar import RAR
from babeldraw.convert.table import read
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.rar import RARConfig, RARGenerator, SpareRows
from babeldraw.runs.weights import write_weights
from babeldraw.tokenizers.base import Codes

K, T, CLASSES, D, HEADS, F, BLOCKS = 11, 6, 5, 16, 4, 24, 2
SPARE = SpareRows(codes=1, positions=7, times=3)
STACK = TransformerConfig(BLOCKS, HEADS, D, F, activation="gelu_exact", bias=True)
GENERATOR = RARGenerator(RARConfig(STACK, SPARE), ClassCondition(CLASSES), Codes((2, 3), (K,)))
RNG = np.random.default_rng(0)
CODES, LABELS = RNG.integers(0, K, (3, T)), np.array([0, 4, CLASSES])
ORDERS = np.stack([RNG.permutation(T), np.arange(T), RNG.permutation(T)])


def shapes(blocks, dim, hidden, heads, codes, classes, positions, times):
    """{name: shape} of the published module."""
    found = {
        "cls_token": (1, 1, dim),
        "pos_embed": (1, positions, dim),
        "target_aware_pos_embed": (1, positions, dim),
        "timesteps_embeddings": (1, times, dim),
        "embeddings.weight": (codes + 1 + classes + 1, dim),
        "adaln_before_head.adaLN_modulation.1.weight": (2 * dim, dim),
        "adaln_before_head.adaLN_modulation.1.bias": (2 * dim,),
        "lm_head.weight": (codes, dim),
        "lm_head.bias": (codes,),
    }
    linears = {
        "attn.qkv": (3 * dim, dim),
        "attn.proj": (dim, dim),
        "mlp.fc1": (hidden, dim),
        "mlp.fc2": (dim, hidden),
        "adaLN_modulation.1": (6 * dim, dim),
    }
    norms = {"norm1": dim, "norm2": dim, "attn.q_norm": dim // heads, "attn.k_norm": dim // heads}
    for block in range(blocks):
        for name, shape in linears.items():
            found[f"blocks.{block}.{name}.weight"] = shape
            found[f"blocks.{block}.{name}.bias"] = shape[:1]
        for name, size in norms.items():
            found[f"blocks.{block}.{name}.weight"] = found[f"blocks.{block}.{name}.bias"] = (size,)
    return found


def abstract(generator):
    return nn.unbox(jax.eval_shape(generator.init, jax.random.key(0)))


SLOTS = 2 + T
TENSORS = {
    name: RNG.normal(0, 0.3, shape).astype(np.float32)
    for name, shape in shapes(
        BLOCKS, D, F, HEADS, K, CLASSES, SLOTS + SPARE.positions, SLOTS + SPARE.times
    ).items()
}

# ------------------------------------------------------------------ the layer order, in NumPy


def standardized(x):
    return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)


def norm(w, name, x):
    return standardized(x) * w[f"{name}.weight"] + w[f"{name}.bias"]


def linear(w, name, x):
    return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]


def silu(x):
    return x / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2


def attention(w, name, x):
    slots = x.shape[0]
    q, k, v = linear(w, f"{name}.qkv", x).reshape(slots, 3, HEADS, -1).transpose(1, 2, 0, 3)
    q, k = norm(w, f"{name}.q_norm", q), norm(w, f"{name}.k_norm", k)
    logits = q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1])
    logits = np.where(np.tri(slots, dtype=bool), logits, -np.inf)
    weights = np.exp(logits - logits.max(-1, keepdims=True))
    out = (weights / weights.sum(-1, keepdims=True)) @ v
    return linear(w, f"{name}.proj", out.transpose(1, 0, 2).reshape(slots, -1))


def logits_in_order(w, label, codes, order):
    """Of one example, [T, K]: row i is of the code at place order[i]."""
    class_D = w["embeddings.weight"][K + 1 + label]
    x = np.stack([w["cls_token"][0, 0], class_D, *w["embeddings.weight"][codes[order]]])
    places, targets = w["pos_embed"][0], w["target_aware_pos_embed"][0]
    x = x + np.concatenate([places[:2], places[2 + order]])
    # The class looks to the first place, each code to the next, the last code to none.
    x[1:-1] += targets[2 + order]
    vector = silu(class_D + w["timesteps_embeddings"][0, : len(x)])
    for block in range(BLOCKS):
        name = f"blocks.{block}"
        moves = np.split(linear(w, f"{name}.adaLN_modulation.1", vector), 6, axis=-1)
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = moves
        seen = norm(w, f"{name}.norm1", x) * (1 + scale) + shift
        x = x + gate * attention(w, f"{name}.attn", seen)
        seen = norm(w, f"{name}.norm2", x) * (1 + scale_ffn) + shift_ffn
        x = x + gate_ffn * linear(w, f"{name}.mlp.fc2", gelu(linear(w, f"{name}.mlp.fc1", seen)))
    scale, shift = np.split(linear(w, "adaln_before_head.adaLN_modulation.1", vector), 2, axis=-1)
    return linear(w, "lm_head", standardized(x) * (1 + scale) + shift)[1:-1]


def test_a_permuted_forward_is_that_of_the_layer_order():
    params = read(RAR, TENSORS, abstract(GENERATOR))
    inputs = (jnp.asarray(a, jnp.int32) for a in (LABELS, CODES, ORDERS))
    found, right = jax.jit(GENERATOR.ordered_nll)(params, *inputs)
    weights = {name: tensor.astype(np.float64) for name, tensor in TENSORS.items()}
    for row, (label, codes, order) in enumerate(zip(LABELS, CODES, ORDERS, strict=True)):
        logits = logits_in_order(weights, label, codes, order)
        log = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        expected = -log[np.arange(T), codes[order]]
        np.testing.assert_allclose(found[row][order], expected, atol=1e-4, rtol=1e-4)
        np.testing.assert_array_equal(right[row][order], logits.argmax(-1) == codes[order])


# ------------------------------------------------------------------ every tensor has its place


def test_export_after_import_gives_the_same_bytes(tmp_path):
    file, network = tmp_path / "rar.safetensors", NETWORKS["rar"]
    write_weights(file, TENSORS, {})
    params, left, _ = network.read("torch", str(file), GENERATOR.config, abstract(GENERATOR))
    again = network.write("torch", GENERATOR.config, params)
    assert not left and again.keys() == TENSORS.keys()
    for name, tensor in TENSORS.items():
        assert again[name].dtype == tensor.dtype and again[name].tobytes() == tensor.tobytes(), name


@pytest.mark.parametrize(
    ("dim", "blocks", "hidden", "parameters"),
    [
        (768, 24, 3072, 260_923_648),
        (1024, 24, 4096, 461_668_352),
        (1280, 32, 5120, 955_425_024),
        (1408, 40, 6144, 1_498_520_704),
    ],
    ids=["b", "l", "xl", "xxl"],
)
def test_the_published_sizes(dim, blocks, hidden, parameters):
    stack = TransformerConfig(blocks, 16, dim, hidden, bias=True)
    config = RARConfig(stack, SpareRows(codes=1, positions=1022, times=98))
    ours = abstract(RARGenerator(config, ClassCondition(1000), Codes((16, 16), (1024,))))
    assert sum(leaf.size for leaf in jax.tree.leaves(ours)) == parameters
    theirs = shapes(blocks, dim, hidden, 16, 1024, 1000, 256 + 1024, 256 + 100)
    assert sum(math.prod(shape) for shape in theirs.values()) == parameters
