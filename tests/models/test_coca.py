"""CoCa: who sees whom, what the two embeddings hang on, sizes as published."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.models.coca import CoCaConfig, ContrastiveCaptioner, slot_mask

B, S, V = 3, 6, 20
STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32, compute=ComputeConfig(scan=False))
CONFIG = CoCaConfig(
    STACK,
    STACK,
    STACK,
    image_size=(16, 24),
    patch_size=8,
    text_vocab_size=V,
    text_length=S,
    queries=5,
    embedding_dim=8,
)
CAPTIONER = ContrastiveCaptioner(CONFIG)
RNG = np.random.default_rng(0)
IMAGES = RNG.random((B, 16, 24, 3), dtype=np.float32)
TEXT = np.array([[3, 4, 5, 6, 7, 8], [9, 8, 7, 0, 0, 0], [5, 0, 0, 0, 0, 0]], np.int32)


@functools.cache
def params():
    """Random weights; to compile `init` would take longer than a whole test."""
    rng = np.random.default_rng(1)

    def fill(path, leaf):
        offset = 1.0 if jax.tree_util.keystr(path).endswith("['scale']") else 0.0
        return jnp.asarray(rng.normal(offset, 0.3, leaf.shape), leaf.dtype)

    abstract = nn.unbox(jax.eval_shape(CAPTIONER.init, jax.random.key(0)))
    return jax.tree_util.tree_map_with_path(fill, abstract)


@functools.cache
def program():
    return jax.jit(CAPTIONER)


def run(images=IMAGES, text=TEXT):
    return jax.device_get(program()(params(), images, text))


def test_shapes_types_and_length_one():
    found = run()
    assert found.image_BQ.shape == found.text_BQ.shape == (B, 8)
    assert found.logits_BSV.shape == (B, S, V) and found.temperature.shape == ()
    for array in jax.tree.leaves(found):
        assert array.dtype == np.float32 and np.all(np.isfinite(array))
    for embedding in (found.image_BQ, found.text_BQ):
        np.testing.assert_allclose(np.linalg.norm(embedding, axis=1), 1, atol=1e-5)


def test_each_half_alone_gives_the_same_embeddings():
    found = run()
    image_BQ = jax.jit(CAPTIONER.embed_images)(params(), IMAGES)
    text_BQ = jax.jit(CAPTIONER.embed_text)(params(), TEXT)
    np.testing.assert_allclose(image_BQ, found.image_BQ, atol=1e-5)
    np.testing.assert_allclose(text_BQ, found.text_BQ, atol=1e-5)


@pytest.mark.parametrize("place", range(S))
def test_a_token_is_predicted_from_those_before_it_alone(place):
    other = TEXT.copy()
    other[0, place] = 15
    before, after = run().logits_BSV[0], run(text=other).logits_BSV[0]
    np.testing.assert_array_equal(after[: place + 1], before[: place + 1])
    assert np.all(np.any(after[place + 1 :] != before[place + 1 :], axis=-1))


def test_every_token_reaches_the_text_s_embedding_and_no_padding_does():
    before = run().text_BQ
    for row, place in ((0, 0), (0, S - 1), (1, 0), (1, 2), (2, 0)):
        other = TEXT.copy()
        other[row, place] = 15
        moved = np.any(run(text=other).text_BQ != before, axis=1)
        np.testing.assert_array_equal(moved, np.arange(B) == row)
    # Padding's own vector is never seen, whatever it is.
    changed = jax.tree.map(lambda p: p, params())
    table = changed["unimodal"]["embed"]["table"]
    changed["unimodal"]["embed"]["table"] = table.at[0].add(1.0)
    found = program()(changed, IMAGES, TEXT)
    np.testing.assert_array_equal(found.text_BQ, before)


def test_the_mask_is_causal_and_without_padding():
    mask = np.asarray(slot_mask(TEXT[1:2]))[0, 0]
    # Start, three tokens, three paddings, class.
    seen = np.array([1, 1, 1, 1, 0, 0, 0, 1], bool)
    np.testing.assert_array_equal(mask, np.tril(np.ones((8, 8), bool)) & seen)


def test_the_picture_reaches_its_embedding_and_each_prediction_but_not_the_text_s():
    other = IMAGES.copy()
    other[1, 15, 23] = 1 - other[1, 15, 23]
    before, after = run(), run(other)
    own = np.arange(B) == 1
    np.testing.assert_array_equal(np.any(after.image_BQ != before.image_BQ, axis=1), own)
    moved = np.any(after.logits_BSV != before.logits_BSV, axis=-1)
    np.testing.assert_array_equal(moved, np.broadcast_to(own[:, None], (B, S)))
    np.testing.assert_array_equal(after.text_BQ, before.text_BQ)


@pytest.mark.slow
def test_dropout_hangs_on_the_example_s_key():
    stack = dataclasses.replace(STACK, dropout=0.5)
    config = dataclasses.replace(CONFIG, image_encoder=stack, unimodal=stack, multimodal=stack)
    drop = jax.jit(ContrastiveCaptioner(config))
    keys = jax.random.split(jax.random.key(0), B)
    first, again = drop(params(), IMAGES, TEXT, keys), drop(params(), IMAGES, TEXT, keys)
    np.testing.assert_array_equal(first.image_BQ, again.image_BQ)
    other = drop(params(), IMAGES, TEXT, jnp.roll(keys, 1))
    for one, two in zip(jax.tree.leaves(first), jax.tree.leaves(other), strict=True):
        assert one.ndim == 0 or np.all(np.any(one != two, axis=-1))


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        ({"patch_size": 7}, "model.image_size is .*patch_size=7 does not divide"),
        ({"queries": 0}, "model.queries is 0; at least 1"),
        ({"temperature": 0.0}, "model.temperature is 0.0; a positive"),
        ({"unimodal": dataclasses.replace(STACK, dim=32)}, "model.unimodal.dim=32.*all three"),
    ],
)
def test_a_bad_value_is_named(bad, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **bad)
