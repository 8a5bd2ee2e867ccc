"""The masked generator with long skips: TiTok's U-ViT, and what any condition and codes ask."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.table import read, shapes, write
from babeldraw.convert.uvit import uvit
from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.layers.dropout import example_keys
from babeldraw.models.conditions import ClassCondition, TextCondition
from babeldraw.models.kinds import make_generator
from babeldraw.models.uvit import UViTConfig
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.base import Codes
from tests.networks import abstract_params, random_params
from tests.statements import attend, gelu, layer_norm, linear, random_tensors

B, T, V, CLASSES, HEADS, D = 3, 6, 11, 5, 2, 16
RNG = np.random.default_rng(0)


def network(blocks=5, dim=D, heads=HEADS, condition=None, codes=None, **more):
    stack = TransformerConfig(
        blocks, heads, dim, 4 * dim, activation="gelu_exact", bias=True, **more
    )
    codes = codes or Codes((T,), (V,))
    return make_generator(UViTConfig(stack), condition or ClassCondition(CLASSES, 0.1), codes)


def test_the_published_one_has_the_published_size():
    """TiTok-S-128's generator; 287M in the paper."""
    generator = network(21, 1024, 16, ClassCondition(1000, 0.1), Codes((128,), (4096,)))
    leaves = jax.tree.leaves(abstract_params(generator))
    assert sum(math.prod(leaf.shape) for leaf in leaves) == 294_990_848
    named = shapes(uvit(generator.config), abstract_params(generator))
    assert len(named) == 257
    assert named["out_blocks.9.skip_linear.weight"] == (1024, 2048)
    assert named["mid_block.attn.qkv.weight"] == (3072, 1024)


def stated(weights, ids, half):
    """Logits of the published network, float64 [B, T, V].

    Args:
      weights: its state dict.
      ids: int [B, 1 + T] into its whole table: a class, then codes or the mask.
      half: how many blocks stand before the middle one.
    """
    x, kept = weights["embeddings.weight"][ids] + weights["pos_embed"].astype(np.float64), []

    def block(name, x):
        read = layer_norm(weights, f"{name}.norm1", x, 1e-5)
        query, key, value = np.split(linear(weights, f"{name}.attn.qkv", read), 3, axis=-1)
        x = x + linear(weights, f"{name}.attn.proj", attend(query, key, value, HEADS))
        read = layer_norm(weights, f"{name}.norm2", x, 1e-5)
        wide = gelu(linear(weights, f"{name}.mlp.fc1", read))
        return x + linear(weights, f"{name}.mlp.fc2", wide)

    for number in range(half):
        x = block(f"in_blocks.{number}", x)
        kept.append(x)
    x = block("mid_block", x)
    for number in range(half):
        both = np.concatenate([x, kept.pop()], axis=-1)
        name = f"out_blocks.{number}"
        x = block(name, linear(weights, f"{name}.skip_linear", both))
    return linear(weights, "lm_head", layer_norm(weights, "norm", x, 1e-5)[:, 1:])


def test_it_is_the_published_network_and_is_given_back_bit_for_bit():
    generator = network()
    table, abstract = uvit(generator.config), abstract_params(generator)
    weights = random_tensors(shapes(table, abstract))
    params = read(table, weights, abstract)
    again = write(table, params)
    assert again.keys() == weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(again[name], tensor, strict=True)

    codes, known = RNG.integers(0, V, (B, T)), RNG.random((B, T)) < 0.5
    # The last says no class.
    classes = np.array([0, 3, CLASSES])
    ids = np.concatenate([V + 1 + classes[:, None], np.where(known, codes, V)], axis=1)

    @jax.jit
    def logits(params):
        context = generator.read(params, jnp.int32(classes))
        hidden = generator.hidden(params, context, jnp.int32(codes), jnp.asarray(known))
        return generator.factor_logits(params, hidden)

    found = logits(params)
    np.testing.assert_allclose(found, stated(weights, ids, 2), atol=1e-4, rtol=1e-4)


CONDITIONS = {"class": ClassCondition(CLASSES, 0.1), "text": TextCondition(20, 4)}
ASKED = {
    "class": jnp.int32([0, 3, CLASSES]),
    "text": jnp.int32([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]]),
}


@pytest.mark.parametrize("asked", CONDITIONS)
@pytest.mark.parametrize("codes", [Codes((2, 3), (V,)), Codes((T,), (5, 4))], ids=["grid", "two"])
def test_each_place_is_told_by_the_condition_and_what_is_known_alone(asked, codes):
    generator = network(3, condition=CONDITIONS[asked], codes=codes)
    params = random_params(generator)
    drawn = jnp.int32(RNG.integers(0, 4, (B, *codes.each)))
    known = jnp.arange(T)[None] < jnp.array([0, 3, T])[:, None]
    context = generator.read(params, ASKED[asked])
    hidden = jax.jit(lambda context, codes: generator.hidden(params, context, codes, known))
    found = hidden(context, drawn)

    def moved(changed):
        """[B, T]: whether it reaches a place."""
        return np.abs(np.asarray(changed - found)).max(-1) > 1e-4

    other = drawn.at[:, 4].set((drawn[:, 4] + 1) % 4)
    # Place 4 is known in the last row alone, where it reaches every place.
    np.testing.assert_array_equal(moved(hidden(context, other)), [[0] * T, [0] * T, [1] * T])
    nothing = generator.read(params, generator.condition.nothing(ASKED[asked]))
    np.testing.assert_array_equal(moved(hidden(nothing, drawn)), [[1] * T, [1] * T, [0] * T])


@pytest.mark.slow
def test_dropout_hangs_on_the_example_and_decoding_reads_the_compute_type():
    generator = network(3, dropout=0.5, compute=ComputeConfig(dtype="bfloat16"))
    params = random_params(generator)
    codes, known = jnp.zeros((B, T), jnp.int32), jnp.zeros((B, T), bool)
    keys = example_keys(jax.random.key(0), B)
    args = (ASKED["class"], codes, known)
    nll = jax.jit(lambda *args: generator.masked_nll(params, *args)[0])
    found = nll(*args, keys)
    np.testing.assert_allclose(found[1:2], nll(*(a[1:2] for a in args), keys[1:2]), atol=2e-2)
    assert np.abs(found - nll(*args)).max() > 0.1
    decoded = generator.for_decoding(params)
    assert decoded["stack"]["block0"]["ffn"]["up"]["weight"].dtype == jnp.bfloat16
    assert decoded["stack"]["block0"]["ffn_norm"]["scale"].dtype == jnp.float32
    context = generator.read(decoded, ASKED["class"])
    hidden = jax.jit(generator.hidden)
    expected = hidden(params, context, codes, known)
    np.testing.assert_array_equal(hidden(decoded, context, codes, known), expected)


def test_long_skips_need_a_middle_and_no_stages():
    with pytest.raises(UserError, match="config.model.stack.blocks is 4; long skips need an odd"):
        network(4)
    config = MeshConfig(data=2, stage=2, model=2, rules="pipeline", microbatches=2)
    with (
        use(make_layout(config, make_mesh(config))),
        pytest.raises(UserError, match="config.mesh.stage is 2 and the blocks have long skips"),
    ):
        abstract_params(network())
