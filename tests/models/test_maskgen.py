"""The masked generator of two streams: MaskGen's, and what any condition and codes ask of it."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.maskgen import maskgen
from babeldraw.convert.table import read, shapes, write
from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.conditions import ClassCondition, TextCondition
from babeldraw.models.features import FeaturesCondition
from babeldraw.models.kinds import make_generator
from babeldraw.models.maskgen import MaskGenConfig
from babeldraw.tokenizers.base import Codes
from tests.networks import abstract_params, random_params
from tests.statements import attend, linear, normalized, random_tensors

B, S, C, T, V, HEADS, D, BLOCKS, SCORE = 3, 4, 6, 5, 11, 2, 16, 3, 8
RNG = np.random.default_rng(0)
FEATURES = FeaturesCondition(S, C)


def network(condition=FEATURES, blocks=BLOCKS, dim=D, heads=HEADS, codes=None, **more):
    stack = TransformerConfig(blocks, heads, dim, 4 * dim, activation="gelu", bias=True)
    sizes = {"text_dim": C, "score_dim": SCORE, "spare": 2} | more
    return make_generator(MaskGenConfig(stack, **sizes), condition, codes or Codes((T,), (V,)))


@pytest.mark.parametrize(
    ("blocks", "dim", "count"), [(16, 1024, 604_311_552), (20, 1280, 1_176_611_840)]
)
def test_the_published_ones_have_the_published_sizes(blocks, dim, count):
    sizes = {"text_dim": 768, "score_dim": 256, "spare": 1001}
    codes = Codes((128,), (8192,))
    generator = network(FeaturesCondition(), blocks, dim, 16, codes, **sizes)
    abstract = abstract_params(generator)
    assert sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(abstract)) == count
    # One more published, the codes' vectors once more.
    named = shapes(maskgen(generator.config), abstract)
    assert len(named) == 28 * (blocks - 1) + 22 + 8
    assert named[f"blocks.{blocks - 1}.norm1_context.linear.weight"] == (2 * dim, dim)


def stated(weights, ids, states, pooled, score):
    """Logits of the published network, float64 [B, T, V], by diffusers' order of layers."""

    def silu(x):
        return x / (1 + np.exp(-x))

    def gelu(x):
        return 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3)))

    def moves(name, count):
        return np.split(linear(weights, f"{name}.linear", vector)[:, None], count, axis=-1)

    def moved(x, shift, scale):
        return normalized(x, 1e-6) * (1 + scale) + shift

    def fed(name, x):
        return linear(weights, f"{name}.net.2", gelu(linear(weights, f"{name}.net.0.proj", x)))

    angles = 100 * score * np.exp(-math.log(1000) * np.arange(SCORE // 2) / (SCORE // 2))
    sines = np.broadcast_to(np.concatenate([np.sin(angles), np.cos(angles)]), (B, SCORE))
    vector = silu(linear(weights, "cond_pooled_proj", np.concatenate([pooled, sines], axis=-1)))
    text = linear(weights, "text_embed_proj", states)
    x = weights["embeddings.weight"][ids] + weights["pos_embed"].astype(np.float64)
    for number in range(BLOCKS):
        name, last = f"blocks.{number}", number == BLOCKS - 1
        shift, scale, gate, *of_ffn = moves(f"{name}.norm1", 6)
        image_read = moved(x, shift, scale)
        if last:
            text_scale, text_shift = moves(f"{name}.norm1_context", 2)
        else:
            text_shift, text_scale, text_gate, *of_text = moves(f"{name}.norm1_context", 6)
        text_read = moved(text, text_shift, text_scale)
        heads = [
            np.concatenate(
                [
                    linear(weights, f"{name}.attn.to_{which}", image_read),
                    linear(weights, f"{name}.attn.add_{which}_proj", text_read),
                ],
                axis=1,
            )
            for which in "qkv"
        ]
        out = attend(*heads, HEADS)
        x = x + gate * linear(weights, f"{name}.attn.to_out.0", out[:, :T])
        x = x + of_ffn[2] * fed(f"{name}.ff", moved(x, *of_ffn[:2]))
        if not last:
            text = text + text_gate * linear(weights, f"{name}.attn.to_add_out", out[:, T:])
            text = text + of_text[2] * fed(f"{name}.ff_context", moved(text, *of_text[:2]))
    scale, shift = moves("norm", 2)
    return moved(x, shift, scale) @ weights["embeddings.weight"][:V].astype(np.float64).T


def test_it_is_the_published_network_and_is_given_back_bit_for_bit():
    generator = network()
    table, abstract = maskgen(generator.config), abstract_params(generator)
    weights = random_tensors(shapes(table, abstract))
    weights |= {"lm_head.weight": weights["embeddings.weight"]}
    params = read(table, weights, abstract)
    again = write(table, params)
    assert again.keys() == weights.keys()
    for name, tensor in weights.items():
        np.testing.assert_array_equal(again[name], tensor, strict=True)

    codes, known = RNG.integers(0, V, (B, T)), RNG.random((B, T)) < 0.5
    states = RNG.normal(size=(B, S, C)).astype(np.float32)
    pooled = RNG.normal(size=(B, C)).astype(np.float32)

    @jax.jit
    def logits(params):
        context = generator.read(params, {"states": states, "pooled": pooled})
        hidden = generator.hidden(params, context, jnp.int32(codes), jnp.asarray(known))
        return generator.factor_logits(params, hidden)

    found = logits(params)
    expected = stated(weights, np.where(known, codes, V), states, pooled, 6.5)
    np.testing.assert_allclose(found, expected, atol=1e-4, rtol=1e-4)


def test_a_head_that_is_not_the_table_once_more_is_refused():
    generator = network(blocks=2)
    table, abstract = maskgen(generator.config), abstract_params(generator)
    weights = random_tensors(shapes(table, abstract))
    # As an earlier export of ours wrote it.
    read(table, weights, abstract)
    with pytest.raises(UserError, match=r"lm_head.weight that is not its embeddings.weight; this"):
        read(table, weights | {"lm_head.weight": weights["embeddings.weight"] + 1}, abstract)


CONDITIONS = {"class": ClassCondition(5, 0.1), "text": TextCondition(20, S)}
ASKED = {
    "class": jnp.int32([0, 3, 5]),
    "text": jnp.int32([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]]),
}


@pytest.mark.parametrize("asked", CONDITIONS)
def test_each_place_is_told_by_the_condition_and_what_is_known_alone(asked):
    generator = network(CONDITIONS[asked], codes=Codes((T,), (5, 4)), score_dim=0)
    params = random_params(generator)
    drawn = jnp.int32(RNG.integers(0, 4, (B, T, 2)))
    known = jnp.arange(T)[None] < jnp.array([0, 3, T])[:, None]
    hidden = jax.jit(lambda context, codes: generator.hidden(params, context, codes, known))
    context = generator.read(params, ASKED[asked])
    found = hidden(context, drawn)

    def moved(changed):
        """[B, T]: whether it reaches a place."""
        return np.abs(np.asarray(changed - found)).max(-1) > 1e-4

    other = drawn.at[:, 4].set((drawn[:, 4] + 1) % 4)
    np.testing.assert_array_equal(moved(hidden(context, other)), [[0] * T, [0] * T, [1] * T])
    nothing = generator.read(params, generator.condition.nothing(ASKED[asked]))
    np.testing.assert_array_equal(moved(hidden(nothing, drawn)), [[1] * T, [1] * T, [0] * T])


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("blocks", 1, "config.model.stack.blocks is 1; at least 2 are needed"),
        ("score_dim", 3, "config.model.score_dim is 3; an even number is needed, or 0"),
        ("spare", -1, "config.model.spare is -1; at least 0 is needed"),
    ],
)
def test_sizes_that_cannot_be_are_named(field, value, line):
    with pytest.raises(UserError) as told:
        network(**{field: value})
    assert line in str(told.value)


def test_a_vector_of_another_width_is_told():
    line = "text_dim is 6 and the vector of config.condition.kind=features has 7 numbers; set"
    with pytest.raises(UserError, match=line):
        network(FeaturesCondition(S, C + 1))


def test_features_are_given_whole_and_by_python_alone():
    row = {"states": np.ones((S, C)), "pooled": np.ones(C)}
    assert FEATURES.ask(row, None).row["states"].dtype == np.float32
    with pytest.raises(UserError, match="features of the shapes .* are given; .* are needed"):
        FEATURES.ask({"states": np.ones((S, C + 1)), "pooled": np.ones(C)}, None)
    wide = {"states": jnp.ones((B, S, C + 1)), "pooled": jnp.ones((B, C))}
    for batch in (wide, {"states": wide["states"][..., 1:]}):
        with pytest.raises(UserError, match="features of the shapes .* by config.condition.length"):
            FEATURES.of_batch(batch)
    words = FeaturesCondition(S, C, encoder="t5")
    with pytest.raises(UserError, match="count, of words in features, is 5; 1 to 4 are possible"):
        words.ask({"states": np.ones((S, C)), "count": 5}, None)
    with pytest.raises(UserError, match="a text is given and the run draws from features"):
        FEATURES.asked_by({"text": ["a ring"]}, None)
    assert not FEATURES.in_data and TextCondition().in_data and words.in_data
    narrow = FEATURES.prefix(3)
    like = FEATURES.of_batch({n: jnp.ones(s.shape) for n, s in FEATURES.spec(B).items()})
    assert jax.eval_shape(narrow.init_with_output, jax.random.key(0), like)[0].shape == (B, S, 3)
