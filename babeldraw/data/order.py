"""Which record stands at which position: epochs shuffled by a formula, nothing stored."""

from typing import Any

from babeldraw.data.crops import tensorflow
from babeldraw.data.mixture import make_pattern
from babeldraw.data.records import Source

# What TensorFlow's own `index_shuffle` puts before a seed; it takes one seed for many indices only
# by its raw operation.
SEED_HEAD = 498247692
SOURCE_BITS = 40


class Order:
    """Positions in the endless sequence of examples to indices of a source.

    An epoch of a source of n records is n of its turns; each epoch is a permutation of its own.

    Args:
        source: plain, or a `MixtureSource`.
        seed: of the permutations.
    """

    def __init__(self, source: Source, seed: int):
        self._seed = seed
        self._pattern = getattr(source, "pattern", None) or make_pattern([1.0])
        self._sizes = getattr(source, "sizes", None) or [len(source)]
        self._starts = getattr(source, "starts", None) or [0]

    def indices(self, positions: Any) -> Any:
        """int64 tensor [n] to int64 tensor [n]."""
        tf = tensorflow()
        pattern, slots = self._pattern, len(self._pattern.part)
        slot = positions % slots
        part = tf.gather(tf.constant(pattern.part), slot)
        turns = tf.gather(tf.constant(pattern.counts), part)
        turn = positions // slots * turns + tf.gather(tf.constant(pattern.rank), slot)
        size = tf.gather(tf.constant(self._sizes, tf.int64), part)
        epoch = turn // size
        seed = tf.fill(tf.shape(positions), tf.constant(self._seed, tf.int64))
        # Sources of one size in one mixture shall not be shuffled alike.
        salted = epoch + part * (1 << SOURCE_BITS)
        head = tf.fill(tf.shape(positions), tf.constant(SEED_HEAD, tf.int64))
        shuffled = tf.raw_ops.RandomIndexShuffle(
            index=turn % size,
            seed=tf.stack([head, seed, salted], axis=1),
            max_index=size - 1,
            rounds=4,
        )
        return shuffled + tf.gather(tf.constant(self._starts, tf.int64), part)
