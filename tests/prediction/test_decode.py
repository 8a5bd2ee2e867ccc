"""Decoding: what the full forward would choose, one compilation, rows that do not meet."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.estimate.program import collectives
from babeldraw.layers import attention
from babeldraw.layers.block import TransformerConfig
from babeldraw.layers.masks import AttentionConfig
from babeldraw.models.babeldraw import BabeldrawConfig, BabeldrawGenerator
from babeldraw.models.conditions import TextCondition
from babeldraw.prediction.base import Given
from babeldraw.prediction.logits import SamplingConfig, sample_tokens
from babeldraw.prediction.next_token import NextToken
from babeldraw.sharding.constraint import logical_axes, shardings
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.base import Codes
from tests import networks

STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32)
# A square smaller than the picture, so that old tokens are forgotten and overwritten.
CONFIG = BabeldrawConfig(
    encoder=STACK,
    decoder=STACK,
    attention=AttentionConfig(kernel=3),
)
GENERATOR = BabeldrawGenerator(CONFIG, TextCondition(20, 4), Codes((3, 4), (13,)))
decode = NextToken().draw
TEXT = jnp.array([[5, 3, 8, 2], [7, 1, 0, 0], [0, 0, 0, 0]], jnp.int32)
KEYS = jax.random.split(jax.random.key(0), 3)
TRACES = []
SERVING = MeshConfig(data=1, model=2, rules="in_layer_serving")


@functools.partial(jax.jit, static_argnums=5)
def compiled(params, text, keys, settings, given=None, guided=True):
    TRACES.append(text.shape)
    return decode(GENERATOR, params, text, keys, settings, given, guided)


@pytest.fixture(scope="module")
def params():
    return networks.random_params(GENERATOR, seed=1)


def draw(params, text=TEXT, keys=KEYS, given=None, guided=True, **sampling):
    settings = SamplingConfig(**sampling).traced()
    return np.asarray(compiled(params, text, keys, settings, given, guided))


@pytest.mark.slow
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


@pytest.mark.slow
def test_seeded_draws_are_those_of_the_full_forward(params):
    tokens = draw(params, temperature=0.8, top_k=9, top_p=0.9, guidance=2.0)
    settings = SamplingConfig(temperature=0.8, top_k=9, top_p=0.9).traced()
    logits = jax.jit(GENERATOR.logits)
    image = jnp.zeros((3, 12), jnp.int32)
    for t in range(12):
        with_text, without = (logits(params, text, image)[:, t] for text in (TEXT, 0 * TEXT))
        keys = jax.vmap(jax.random.fold_in, (0, None))(KEYS, t)
        drawn = sample_tokens(keys, without + 2.0 * (with_text - without), settings)
        image = image.at[:, t].set(drawn)
    np.testing.assert_array_equal(tokens, image)


RISEN = {
    "linear": ({}, lambda t: t / 11),
    "cosine": ({}, lambda t: (1 - np.cos(np.pi * t / 11)) / 2),
    # RAR, by the share of tokens that are drawn: the last one does not reach it.
    "power_cosine": (
        {"guidance_power": 2.75},
        lambda t: (1 - np.cos(np.pi * (t / 12) ** 2.75)) / 2,
    ),
}


@pytest.mark.parametrize("schedule", RISEN)
def test_guidance_grows_over_the_tokens(params, schedule):
    more, risen = RISEN[schedule]
    tokens = draw(params, temperature=0.0, guidance=4.0, guidance_schedule=schedule, **more)
    logits = jax.jit(GENERATOR.logits)
    image = jnp.zeros((3, 12), jnp.int32)
    for t in range(12):
        with_text, without = (logits(params, text, image)[:, t] for text in (TEXT, 0 * TEXT))
        guided = without + (1 + 3 * risen(t)) * (with_text - without)
        image = image.at[:, t].set(jnp.argmax(guided, axis=-1).astype(jnp.int32))
    np.testing.assert_array_equal(tokens, image)


def test_without_the_unconditional_half_it_is_guidance_of_one(params):
    plain = draw(params, guided=False, guidance=1.0)
    np.testing.assert_array_equal(plain, draw(params, guidance=1.0))


def test_kept_tokens_stay_and_what_follows_knows_them(params):
    first = draw(params, temperature=0.0)
    old = jnp.asarray((first + 1) % 13)
    kept = jnp.zeros((3, 12), bool).at[:, 2:5].set(True)
    tokens = draw(params, given=Given(old, kept), temperature=0.0, guidance=2.0)
    np.testing.assert_array_equal(tokens[:, 2:5], old[:, 2:5])
    # What comes before cannot know them.
    plain = draw(params, temperature=0.0, guidance=2.0)
    np.testing.assert_array_equal(tokens[:, :2], plain[:, :2])
    logits = jax.jit(GENERATOR.logits)
    image = jnp.asarray(tokens)
    for t in range(5, 12):
        with_text, without = (logits(params, text, image)[:, t] for text in (TEXT, 0 * TEXT))
        best = jnp.argmax(without + 2.0 * (with_text - without), axis=-1)
        np.testing.assert_array_equal(tokens[:, t], best)


def test_heads_side_by_side_in_the_cache_draw_the_same(params, monkeypatch):
    expected = draw(params, temperature=0.7, guidance=2.0)
    monkeypatch.setattr(attention, "heads_per_row", lambda heads, head_dim: heads)
    cache = jax.eval_shape(functools.partial(networks.start, GENERATOR), params, TEXT)
    assert cache.blocks[0][0].key.shape[1] == 1
    settings = SamplingConfig(temperature=0.7, guidance=2.0).traced()
    found = jax.jit(functools.partial(decode, GENERATOR))(params, TEXT, KEYS, settings)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.slow
def test_rows_may_stand_at_different_places(params):
    """As a server has them: each row's logits are those that it has alone."""
    tokens_BT = jnp.asarray(np.random.default_rng(3).integers(0, 13, (3, 12)), jnp.int32)
    expected = np.asarray(GENERATOR.logits(params, TEXT, tokens_BT))
    cut = GENERATOR.for_decoding(params)
    late = np.array([0, 4, 2])

    @jax.jit
    def step(cache, index):
        before = jnp.take_along_axis(tokens_BT, jnp.maximum(index - 1, 0)[:, None], axis=1)[:, 0]
        logits, cache = networks.step(GENERATOR, cut, before, index, cache)
        return cache, logits

    cache = networks.start(GENERATOR, cut, TEXT)
    for t in range(12 + late.max()):
        index = np.clip(t - late, 0, 11).astype(np.int32)
        cache, logits = step(cache, index)
        for row in range(3):
            if 0 <= t - late[row] < 12:
                np.testing.assert_allclose(logits[row], expected[row, index[row]], atol=1e-4)


@pytest.mark.slow
def test_pictures_of_one_text_share_its_reading(params):
    keys = jax.random.split(jax.random.key(3), 6)
    together = draw(params, keys=keys, guidance=2.0)
    apart = draw(params, jnp.repeat(TEXT, 2, axis=0), keys, guidance=2.0)
    np.testing.assert_array_equal(together, apart)


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        SERVING,
        MeshConfig(data=3, model=2, rules="in_layer_serving"),
        MeshConfig(data=2, model=2, rules="in_layer"),
    ],
    ids=lambda mesh: f"{mesh.rules}_{mesh.data}x{mesh.model}",
)
def test_devices_that_share_a_model_draw_the_same(params, mesh):
    devices = jax.devices()[: mesh.data * mesh.model]
    layout = make_layout(mesh, make_mesh(mesh, devices))
    boxed = jax.eval_shape(GENERATOR.init, jax.random.key(0))
    places = shardings(logical_axes(boxed), params, layout.mesh, layout.preset.used)
    split = jax.device_put(params, places)
    assert any(not leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(split))

    def sharded(params, text, keys, settings):
        with use(layout):
            return decode(GENERATOR, params, text, keys, settings)

    settings = SamplingConfig(temperature=0.7, guidance=2.0).traced()
    program = jax.jit(sharded).lower(split, TEXT, KEYS, settings).compile()
    found = program(split, TEXT, KEYS, settings)
    np.testing.assert_array_equal(found, draw(params, temperature=0.7, guidance=2.0))
    if mesh == SERVING:
        assert {found.kind for found in collectives(program.as_text())} == {"all-reduce"}


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
