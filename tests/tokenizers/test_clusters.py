"""Clusters of codes, and drawing by them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.prediction.logits import SamplingConfig, sample_tokens
from babeldraw.tokenizers.clusters import cluster_codes

RNG = np.random.default_rng(0)


def test_codes_that_lie_together_are_one_cluster():
    centres = 10 * np.eye(4, 6)
    which = RNG.permutation(np.repeat(np.arange(4), [9, 3, 1, 7]))
    vectors = centres[which] + RNG.normal(0, 0.1, (20, 6))
    labels = cluster_codes(vectors, 4)
    assert labels.dtype == np.int32 and set(labels) == {0, 1, 2, 3}
    pairs = set(zip(which, labels, strict=True))
    assert len(pairs) == 4
    np.testing.assert_array_equal(labels, cluster_codes(vectors, 4))


@pytest.mark.parametrize("count", [1, 7, 20])
def test_no_cluster_is_empty(count):
    labels = cluster_codes(RNG.normal(size=(20, 3)), count, seed=1)
    assert set(labels) == set(range(count))


def test_more_clusters_than_codes_is_one_line():
    vectors = np.repeat(RNG.normal(size=(5, 3)), 2, axis=0)
    with pytest.raises(UserError, match="count is 6, .* has 5 different codes of 10; take"):
        cluster_codes(vectors, 6)
    with pytest.raises(UserError, match="count is 0; at least 1"):
        cluster_codes(vectors, 0)


def test_a_cluster_is_drawn_by_the_sum_of_its_codes_and_in_it_a_code():
    labels = np.array([0, 0, 0, 1, 1, 2], np.int32)
    chances = np.array([0.15, 0.15, 0.15, 0.2, 0.05, 0.3])
    logits = np.log(chances)
    config, count = SamplingConfig(clusters=2, temperature=1.0, cluster_temperature=0.5), 20_000
    settings = config.traced().replace(labels=labels)
    keys = jax.random.split(jax.random.key(0), count)
    rows = jnp.broadcast_to(jnp.asarray(logits, jnp.float32), (count, 6))
    found = np.bincount(np.asarray(jax.jit(sample_tokens)(keys, rows, settings)), minlength=6)
    # Clusters of 0.45 and 0.3 stay; within the first all are alike.
    expected = np.array([0.45 / 3] * 3 + [0, 0, 0.3]) / 0.75
    deviation = np.sqrt(expected * (1 - expected) / count)
    assert np.all(abs(found / count - expected) <= 5 * deviation + 1e-9)
    # By top-k of codes the likeliest cluster would lose to the likeliest codes.
    plain = SamplingConfig(top_k=2).traced().replace(labels=labels)
    found = np.asarray(jax.jit(sample_tokens)(keys[:500], rows[:500], plain))
    assert set(found) == {3, 5}


def test_the_second_softmax_has_its_own_temperature():
    labels, logits = np.array([0, 0, 1], np.int32), jnp.array([[2.0, 1.0, -9.0]], jnp.float32)
    for temperature, count in ((0.5, 8000), (2.0, 8000)):
        config = SamplingConfig(clusters=1, temperature=1.15, cluster_temperature=temperature)
        keys = jax.random.split(jax.random.key(1), count)
        rows = jnp.broadcast_to(logits, (count, 3))
        settings = config.traced().replace(labels=labels)
        found = np.mean(np.asarray(jax.jit(sample_tokens)(keys, rows, settings)) == 0)
        expected = 1 / (1 + np.exp(-1 / temperature))
        assert abs(found - expected) < 5 * np.sqrt(expected * (1 - expected) / count)


def test_what_does_not_go_together_is_one_line():
    with pytest.raises(UserError, match="clusters is 3, which top_k=5 and top_p=1.0 would cut"):
        SamplingConfig(clusters=3, top_k=5)
    with pytest.raises(UserError, match="clusters is -1; at least 0"):
        SamplingConfig(clusters=-1)
