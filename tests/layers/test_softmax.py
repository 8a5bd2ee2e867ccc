"""The loss in pieces: value and gradients of the whole one, ties, shares of devices, memory."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.layers.softmax import streamed_nll
from babeldraw.models.head import token_nll
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh

B, T, D, V = 4, 3, 8, 48
RNG = np.random.default_rng(0)
X = jnp.asarray(RNG.normal(size=(B, T, D)), jnp.float32)
WEIGHT = jnp.asarray(RNG.normal(size=(D, V)), jnp.float32)
IDS = jnp.asarray(RNG.integers(0, V, (B, T)), jnp.int32)
# How much each place's loss counts.
SLOPES = jnp.asarray(RNG.normal(size=(B, T)), jnp.float32)


def plain(x, weight, smoothing=0.0):
    logits = x @ weight
    return token_nll(logits, IDS, smoothing), jnp.argmax(logits, axis=-1) == IDS


def with_gradients(nll):
    def loss(x, weight):
        found = nll(x, weight)
        return jnp.sum(found[0] * SLOPES), found

    return jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)


def close(found, expected):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, expected)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("pieces", [1, 3, 48])
def test_it_is_the_whole_loss_in_value_and_gradients(pieces, smoothing):
    own = functools.partial(streamed_nll, ids_BT=IDS, pieces=pieces, smoothing=smoothing)
    found = jax.jit(with_gradients(own))(X, WEIGHT)
    close(found, with_gradients(functools.partial(plain, smoothing=smoothing))(X, WEIGHT))


def test_of_equal_logits_the_first_is_the_likeliest_and_large_ones_do_no_harm():
    weight = jnp.tile(200 * WEIGHT[:, : V // 4], (1, 4))
    first = jnp.argmax(X @ weight, axis=-1).astype(jnp.int32)
    for ids, right in ((first, True), (first + V // 4, False)):
        nll, found = streamed_nll(X, weight, ids, 8)
        assert np.isfinite(nll).all() and (found == right).all()


@pytest.mark.parametrize("rules", ["in_layer", "fsdp", "in_layer_serving"])
def test_a_vocabulary_in_shares_of_devices_gives_the_same(rules):
    config = MeshConfig(data=2, model=4, rules=rules)
    expected = with_gradients(functools.partial(plain, smoothing=0.1))(X, WEIGHT)
    own = functools.partial(streamed_nll, ids_BT=IDS, pieces=3, smoothing=0.1)
    with use(make_layout(config, make_mesh(config))):
        close(jax.jit(with_gradients(own))(X, WEIGHT), expected)


def test_memory_is_that_of_a_piece():
    """Beside the weights' gradient, which is the result; by the compiler, nothing is run."""
    vocab, tokens = 2**18, 512

    def held(nll):
        shapes = (1, tokens, D), (D, vocab)
        like = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
        run = jax.grad(lambda x, weight: jnp.sum(nll(x, weight)), argnums=(0, 1))
        return jax.jit(run).lower(*like).compile().memory_analysis().temp_size_in_bytes

    ids = jnp.zeros((1, tokens), jnp.int32)
    whole = held(lambda x, weight: token_nll(x @ weight, ids))
    pieces = held(lambda x, weight: streamed_nll(x, weight, ids, 64)[0])
    logits, weights = 4 * tokens * vocab, 4 * D * vocab
    assert whole > logits
    assert pieces < 6 * logits / 64 + 3 * weights


def test_pieces_that_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="5 pieces do not divide a vocabulary of 48"):
        streamed_nll(X, WEIGHT, IDS, 5)
