"""The order of examples is a formula, the one that runs of earlier versions were begun with."""

import numpy as np
import pytest

pytest.importorskip("tensorflow")

from babeldraw.data.crops import tensorflow  # noqa: E402
from babeldraw.data.order import Order  # noqa: E402


@pytest.mark.parametrize(("size", "seed"), [(1, 0), (10, 3), (1000, 7)])
def test_many_indices_at_once_are_those_of_tensorflow_one_by_one(size, seed):
    tf = tensorflow()
    positions = np.array([0, 1, size - 1, size, 3 * size + size // 2, 10**12 + 5])
    expected = [
        int(
            tf.random.experimental.index_shuffle(
                tf.constant(position % size, tf.int64),
                seed=tf.constant([seed, position // size], tf.int64),
                max_index=tf.constant(size - 1, tf.int64),
            )
        )
        for position in positions
    ]
    found = Order(range(size), seed).indices(tf.constant(positions, tf.int64))
    np.testing.assert_array_equal(found, expected)
