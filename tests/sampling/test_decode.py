"""Decoding: what the full forward would choose, one compilation, rows that do not meet."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.block import TransformerConfig
from babeldraw.models.babeldraw import BabeldrawConfig, Generator
from babeldraw.sampling.decode import decode
from babeldraw.sampling.logits import SamplingConfig, Settings
from babeldraw.tokenizers.base import ImageTokens

STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32)
GENERATOR = Generator(
    BabeldrawConfig(encoder=STACK, decoder=STACK, text_vocab_size=20, text_length=4),
    ImageTokens(vocab_size=13, shape=(3, 4)),
)
TEXT = jnp.array([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]], jnp.int32)
KEYS = jax.random.split(jax.random.key(0), 3)
TRACES = []


@jax.jit
def compiled(params, text, keys, settings):
    TRACES.append(text.shape)
    return decode(GENERATOR, params, text, keys, settings)


@pytest.fixture(scope="module")
def params():
    """Random everywhere: at the start too much is zero, one, or too small to tell tokens apart."""
    rng = np.random.default_rng(1)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        scale = 2.0 if "embed" in name or "positions" in name else 0.25
        offset = 1.0 if "'scale'" in name else 0.0
        return jnp.asarray(rng.normal(offset, scale, leaf.shape), leaf.dtype)

    abstract = jax.eval_shape(lambda key: nn.unbox(GENERATOR.init(key)), jax.random.key(0))
    return jax.tree_util.tree_map_with_path(draw, abstract)


def draw(params, text=TEXT, keys=KEYS, **sampling):
    return np.asarray(compiled(params, text, keys, Settings.of(SamplingConfig(**sampling))))


@pytest.mark.parametrize("guidance", [1.0, 0.0, 3.0])
def test_without_temperature_each_token_is_the_full_forward_s_likeliest(params, guidance):
    tokens = draw(params, temperature=0.0, guidance=guidance)
    assert tokens.shape == (3, 12) and tokens.dtype == np.int32
    logits = jax.jit(GENERATOR.logits)
    image = jnp.zeros((3, 12), jnp.int32)
    for t in range(12):
        with_text, without = (logits(params, text, image)[:, t] for text in (TEXT, 0 * TEXT))
        best = jnp.argmax(without + guidance * (with_text - without), axis=-1)
        image = image.at[:, t].set(best.astype(jnp.int32))
    np.testing.assert_array_equal(tokens, image)
    assert len(np.unique(tokens)) > 2


def test_the_same_key_draws_the_same_and_another_something_else(params):
    tokens = draw(params)
    np.testing.assert_array_equal(draw(params), tokens)
    assert np.all(tokens >= 0) and np.all(tokens < 13)
    others = draw(params, keys=jax.random.split(jax.random.key(1), 3))
    assert np.all(np.any(others != tokens, axis=1))


def test_steps_draw_independently(params):
    # One key for all steps would choose the same place in every distribution.
    flat = jax.tree.map(jnp.zeros_like, params)
    assert len(np.unique(draw(flat)[0])) > 3


def test_a_row_does_not_depend_on_the_batch_around_it(params):
    together = draw(params, guidance=2.0)
    for row in range(3):
        alone = draw(params, TEXT[row : row + 1], KEYS[row : row + 1], guidance=2.0)
        np.testing.assert_array_equal(alone[0], together[row])
    turned = draw(params, TEXT[::-1], KEYS[::-1], guidance=2.0)
    np.testing.assert_array_equal(turned[::-1], together)


def test_guidance_changes_tokens_of_prompts_alone(params):
    plain, guided = (draw(params, temperature=0.0, guidance=g) for g in (1.0, 5.0))
    assert np.all(np.any(guided != plain, axis=1) == [True, True, False])
    unguided = draw(params, temperature=0.0, guidance=0.0)
    # Nothing is left of the prompt.
    np.testing.assert_array_equal(unguided, np.tile(plain[2:], (3, 1)))


def test_changed_settings_compile_nothing(params):
    draw(params)
    before = len(TRACES)
    for sampling in (
        {"temperature": 0.0},
        {"temperature": 0.7, "top_k": 3},
        {"top_p": 0.5, "guidance": 4.0},
        {"guidance": 0.0},
    ):
        draw(params, **sampling)
    assert len(TRACES) == before


def test_top_k_of_one_is_greedy(params):
    np.testing.assert_array_equal(draw(params, top_k=1), draw(params, temperature=0.0))
