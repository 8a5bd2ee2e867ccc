"""Babeldraw: causality, cached decoding, the reach of a prompt, the published sizes."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.layers.dropout import example_keys
from babeldraw.layers.stack import unstack
from babeldraw.models.babeldraw import BabeldrawConfig, BabeldrawGenerator
from babeldraw.models.conditions import ClassCondition, TextCondition
from babeldraw.tokenizers.base import Codes
from tests import networks

STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32, dropout=0.1)
CONFIG = BabeldrawConfig(encoder=dataclasses.replace(STACK, blocks=1), decoder=STACK)
WORDS = TextCondition(vocab_size=20, length=6)
TOKENS = Codes((2, 3), (17,))
T = TOKENS.length
# A whole prompt, a short one, one of a single token, and none.
TEXT = jnp.array(
    [[5, 3, 8, 2, 9, 4], [7, 1, 3, 0, 0, 0], [12, 0, 0, 0, 0, 0], [0, 0, 0, 0, 0, 0]], jnp.int32
)
IMAGE = jnp.asarray(np.random.default_rng(0).integers(0, 17, (4, T)), jnp.int32)


def with_stacks(config, dropout=0.1, **computed):
    """`config` with both stacks changed."""
    changes = {"dropout": dropout, "compute": ComputeConfig(**computed)}
    encoder = dataclasses.replace(config.encoder, **changes)
    return dataclasses.replace(
        config, encoder=encoder, decoder=dataclasses.replace(config.decoder, **changes)
    )


GENERATOR = BabeldrawGenerator(CONFIG, WORDS, TOKENS)
logits = jax.jit(GENERATOR.logits)


@pytest.fixture(scope="module")
def params():
    return networks.random_params(GENERATOR)


@functools.cache
def step_by_step(scan):
    """Logits of every position by cached decoding, compiled."""
    generator = BabeldrawGenerator(with_stacks(CONFIG, scan=scan), WORDS, TOKENS)

    @jax.jit
    def decode(params, text, image):
        def step(cache, t):
            before = image[:, jnp.maximum(t - 1, 0)]
            found, cache = networks.step(generator, params, before, t, cache)
            return cache, found

        cache = networks.start(generator, params, text)
        return jax.lax.scan(step, cache, jnp.arange(T))[1].swapaxes(0, 1)

    return decode


@pytest.mark.parametrize("cut", [False, True], ids=["stacked", "unstacked"])
@pytest.mark.parametrize("scan", [True, False], ids=["scan", "unrolled"])
def test_cached_decoding_is_the_full_forward(params, scan, cut):
    full = logits(params, TEXT, IMAGE)
    assert full.shape == (4, T, 17) and full.dtype == jnp.float32
    found = step_by_step(scan)(unstack(params) if cut else params, TEXT, IMAGE)
    np.testing.assert_allclose(found, full, atol=1e-5, rtol=1e-5)
    forward = jax.jit(BabeldrawGenerator(with_stacks(CONFIG, scan=scan), WORDS, TOKENS).logits)
    np.testing.assert_allclose(forward(params, TEXT, IMAGE), full, atol=1e-5, rtol=1e-5)


def test_the_token_given_at_the_start_is_ignored(params):
    cache = jax.jit(functools.partial(networks.start, GENERATOR))(params, TEXT)
    step = jax.jit(functools.partial(networks.step, GENERATOR))
    zeros, others = (
        step(params, jnp.full(4, token, jnp.int32), jnp.int32(0), cache)[0] for token in (0, 16)
    )
    np.testing.assert_array_equal(zeros, others)


@pytest.mark.parametrize("text", [TEXT[:1], TEXT[3:]], ids=["prompt", "empty"])
def test_a_logit_depends_on_earlier_tokens_and_on_no_other(params, text):
    # Token s is code s and no other token is, so its embedding is row s of the table.
    image = jnp.arange(T, dtype=jnp.int32)[None]
    direction = jax.random.normal(jax.random.key(1), (TOKENS.vocab_size,))

    def along(table):
        changed = {**params["image_decoder"], "embed": {"table": table}}
        found = GENERATOR.logits({**params, "image_decoder": changed}, text, image)
        return found[0] @ direction

    table = params["image_decoder"]["embed"]["table"]
    jacobian = np.asarray(jax.jit(jax.jacrev(along))(table))
    depends = np.any(jacobian[:, :T] != 0, axis=2)
    np.testing.assert_array_equal(depends, np.tri(T, k=-1, dtype=bool))
    # The start is seen from everywhere, a code that does not occur from nowhere.
    assert np.all(np.any(jacobian[:, TOKENS.vocab_size] != 0, axis=1))
    assert not np.any(jacobian[:, T : TOKENS.vocab_size])


def test_every_text_token_is_seen_and_padding_is_not(params):
    text = TEXT[1:2]

    def along(table):
        changed = {**params["text_encoder"], "embed": {"table": table}}
        found = GENERATOR.logits({**params, "text_encoder": changed}, text, IMAGE[:1])
        return jnp.sum(jnp.square(found))

    grads = np.asarray(jax.jit(jax.grad(along))(params["text_encoder"]["embed"]["table"]))
    assert set(np.flatnonzero(np.any(grads != 0, axis=1))) == {7, 1, 3}


def test_more_padding_changes_nothing(params):
    full = logits(params, TEXT, IMAGE)
    for row, length in [(1, 3), (1, 4), (2, 1), (2, 5)]:
        shorter = logits(params, TEXT[row : row + 1, :length], IMAGE[row : row + 1])
        np.testing.assert_allclose(shorter[0], full[row], atol=1e-5, rtol=1e-5)


def test_each_row_of_a_batch_is_alone(params):
    full = logits(params, TEXT, IMAGE)
    for row in range(4):
        alone = logits(params, TEXT[row : row + 1], IMAGE[row : row + 1])
        np.testing.assert_allclose(alone[0], full[row], atol=1e-5, rtol=1e-5)
    assert np.abs(logits(params, TEXT[::-1], IMAGE) - full).max() > 1e-2


@pytest.mark.slow
def test_dropout_is_the_same_scanned_and_unrolled(params):
    def forward(scan):
        network = BabeldrawGenerator(
            with_stacks(CONFIG, scan=scan, dropout=0.3), WORDS, TOKENS
        ).network
        keys = example_keys(jax.random.key(3), len(TEXT))
        return jax.jit(network.apply)({"params": params}, TEXT, IMAGE, keys)[0]

    scanned = forward(True)
    np.testing.assert_allclose(scanned, forward(False), atol=1e-4, rtol=1e-5)
    plain = jax.jit(GENERATOR.nll)(params, TEXT, IMAGE)[0]
    assert np.abs(scanned - plain).max() > 1e-2


def test_half_precision_inside_float32_outside(params):
    generator = BabeldrawGenerator(with_stacks(CONFIG, dtype="bfloat16"), WORDS, TOKENS)
    abstract = jax.eval_shape(lambda key: nn.unbox(generator.init(key)), jax.random.key(0))
    assert {leaf.dtype for leaf in jax.tree.leaves(abstract)} == {jnp.dtype(jnp.float32)}
    full = jax.eval_shape(generator.logits, abstract, TEXT, IMAGE)
    cache = jax.eval_shape(functools.partial(networks.start, generator), abstract, TEXT)
    assert {leaf.dtype for leaf in jax.tree.leaves(cache.blocks)} == {jnp.dtype(jnp.bfloat16)}
    step = functools.partial(networks.step, generator)
    one, _ = jax.eval_shape(step, abstract, IMAGE[:, 0], jnp.int32(0), cache)
    assert full.dtype == one.dtype == jnp.float32
    assert one.shape == (4, 17)


@pytest.mark.parametrize(
    ("encoder", "decoder", "dim", "hidden", "heads", "millions"),
    [
        (12, 12, 1024, 4096, 16, 352.4),
        (12, 36, 1024, 4096, 16, 755.2),
        (12, 36, 2048, 8192, 32, 3_020),
        (16, 64, 4096, 16384, 64, 20_400),
    ],
    ids=["350m", "750m", "3b", "20b"],
)
def test_the_blocks_have_the_published_number_of_parameters(
    encoder, decoder, dim, hidden, heads, millions
):
    stack = TransformerConfig(blocks=encoder, heads=heads, dim=dim, hidden=hidden)
    config = BabeldrawConfig(stack, dataclasses.replace(stack, blocks=decoder))
    generator = BabeldrawGenerator(config, TextCondition(), Codes((32, 32), (8192,)))
    params = jax.eval_shape(lambda key: nn.unbox(generator.init(key)), jax.random.key(0))

    def count(room):
        blocks = params[room]["stack"]["blocks"]
        return sum(
            leaf.size
            for path, leaf in jax.tree_util.tree_leaves_with_path(blocks)
            if not any("norm" in str(key) for key in path)
        )

    # Full-width attention, once or twice, and a feed-forward of two matrices, without biases.
    assert count("text_encoder") == encoder * (4 * dim**2 + 2 * dim * hidden)
    assert count("image_decoder") == decoder * (8 * dim**2 + 2 * dim * hidden)
    total = count("text_encoder") + count("image_decoder")
    assert abs(total / (millions * 1e6) - 1) < 0.01


def test_stacks_that_do_not_fit_are_named():
    with pytest.raises(UserError, match="model.encoder.dim is 16 and model.decoder.dim 32; "):
        dataclasses.replace(CONFIG, decoder=dataclasses.replace(STACK, dim=32))
    with pytest.raises(UserError, match="kind is 'class' and config.model.kind babeldraw, whose"):
        BabeldrawGenerator(CONFIG, ClassCondition(3), TOKENS).check()
    with pytest.raises(UserError, match="codes are continuous and config.model.kind=babeldraw pre"):
        BabeldrawGenerator(CONFIG, WORDS, Codes((2, 3), channels=4)).check()
    with pytest.raises(UserError, match="dim is 16, which heads=3 does not divide; "):
        dataclasses.replace(STACK, heads=3)


@pytest.mark.slow
@pytest.mark.parametrize("read", [GENERATOR, "prefix"])
def test_words_start_with_the_deviation_asked_for(read):
    words = TextCondition(vocab_size=2000, length=6, stddev=0.5)
    if read == "prefix":
        params = words.prefix(16).init(jax.random.key(0), TEXT)["params"]
    else:
        generator = dataclasses.replace(read, condition=words)
        params = jax.jit(generator.init)(jax.random.key(0))["text_encoder"]
    table = nn.unbox(params["embed"])["table"]
    assert table.shape == (2000, 16)
    np.testing.assert_allclose(jnp.std(table), 0.5, rtol=0.03)
    with pytest.raises(UserError, match="condition.stddev is 0; more than 0"):
        TextCondition(stddev=0)
