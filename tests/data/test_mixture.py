"""Mixtures: shares by weight, each source's epochs whole, the same on any number of hosts."""

import itertools
import json

import numpy as np
import pytest

from babeldraw.data.config import DataConfig, MixturePart
from babeldraw.data.mixture import SLOTS, MixtureSource, make_pattern
from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.records import BadRecord, Record
from babeldraw.data.sources import open_source
from babeldraw.errors import UserError


class Numbers:
    """Records of one pixel size whose labels begin at `first`; those in `bad` cannot be read."""

    def __init__(self, size, first=0, bad=()):
        self.size, self.first, self.bad = size, first, set(bad)
        self.name = f"numbers/{first}"

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.bad:
            raise BadRecord(f"{self.name}[{index}]", "torn")
        pixels = np.random.default_rng(self.first + index).integers(0, 256, (10, 8, 3), np.uint8)
        return Record(pixels, f"number {self.first + index}", self.first + index)

    def captions(self):
        yield from (f"number {self.first + i}" for i in range(self.size))


def mixture():
    return MixtureSource([Numbers(7), Numbers(30, 100), Numbers(5, 200, bad=[2])], [1, 4, 3])


def train_batches(source=None, **options):
    pytest.importorskip("tensorflow")
    options = {"batch_size": 16, "image_size": (8, 8), "seed": 3} | options
    return TrainBatches(source or mixture(), **options)


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


@pytest.mark.parametrize("weights", [[1, 1], [3, 1, 1], [0.7, 0.2, 0.1], [1, 1e-9], [5, 2, 9, 1]])
def test_a_pattern_has_the_shares_and_spreads_them(weights):
    pattern = make_pattern(weights)
    shares = np.bincount(pattern.part, minlength=len(weights)) / SLOTS
    np.testing.assert_allclose(shares, np.array(weights) / sum(weights), atol=1 / SLOTS)
    for part, count in enumerate(pattern.counts):
        slots = np.flatnonzero(pattern.part == part)
        np.testing.assert_array_equal(pattern.rank[slots], np.arange(count))
        # Evenly: the gaps are the mean gap, give or take a slot for each other source.
        gaps = np.diff(slots)
        assert count < 2 or np.abs(gaps - SLOTS / count).max() <= len(weights)


def test_a_batch_holds_the_weights():
    for batch in take(train_batches(), 6):
        counts = np.bincount(batch["label"] // 100, minlength=3)
        assert np.abs(counts - [2, 8, 6]).max() <= 1


def test_each_source_gives_each_record_once_per_epoch():
    labels = np.concatenate([batch["label"] for batch in take(train_batches(), 30)])
    for first, size in ((0, 7), (100, 30)):
        own = labels[labels // 100 == first // 100]
        epochs = own[: len(own) // size * size].reshape(-1, size)
        assert len(epochs) >= 2
        for epoch in epochs:
            np.testing.assert_array_equal(np.sort(epoch), np.arange(first, first + size))
        assert (epochs[0] != epochs[1]).any()


@pytest.mark.slow
@pytest.mark.parametrize("hosts", [1, 2, 8])
def test_hosts_together_hold_the_global_batch_and_go_on_as_another_number(hosts):
    whole = take(train_batches(), 6)
    parts = [train_batches(process_index=i, process_count=hosts) for i in range(hosts)]
    first = [[next(part) for part in parts] for _ in range(3)]
    state = json.loads(json.dumps(parts[0].state()))
    for part in parts:
        part.close()
    # A state is a step, a seed and a fingerprint, however much data there are.
    assert set(state) == {"step", "seed", "fingerprint"} and state["step"] == 3
    other = 16 // hosts
    resumed = [train_batches(process_index=i, process_count=other) for i in range(other)]
    for part in resumed:
        part.restore(state)
    second = [[next(part) for part in resumed] for _ in range(3)]
    for part in resumed:
        part.close()
    for expected, slices in zip(whole, first + second, strict=True):
        for key, array in expected.items():
            np.testing.assert_array_equal(array, np.concatenate([part[key] for part in slices]))


def test_a_bad_record_is_counted_once():
    batches = train_batches(max_bad_share=0.5)
    take(batches, 10)
    assert batches.reader.bad == 1


def test_a_mixture_in_the_config(tmp_path):
    part = {"source": "shapes", "path": "", "weight": 1.0}
    config = DataConfig(
        source="mixture",
        num_examples=20,
        mixture=(MixturePart(**part), MixturePart(**{**part, "weight": 2.0, "split": "unseen"})),
    )
    source = open_source(config, "train", 32, 0)
    assert source.name == "mixture(1*shapes/train/32px/seed0, 2*shapes/unseen/32px/seed0)"
    assert len(source) == 40 and len(list(source.captions())) == 40
    np.testing.assert_array_equal(
        source[25].image, open_source(DataConfig(num_examples=20), "unseen", 32, 0)[5].image
    )
    held_out = open_source(config, "test", 32, 0)
    assert held_out.name == "mixture(1*shapes/test/32px/seed0, 2*shapes/test/32px/seed0)"


def test_wrong_mixtures_are_told():
    for weights in ([1, 0], [1, -2.0], [0, 0], [1, float("nan")]):
        with pytest.raises(UserError, match=rf"weights \{weights}; each must be above 0"):
            MixtureSource([Numbers(3), Numbers(3)], weights)
    with pytest.raises(UserError, match="holds no records"):
        MixtureSource([Numbers(3), Numbers(0)], [1, 1])
    part = MixturePart("shapes", "", 1.0)
    for options in ({"source": "mixture"}, {"source": "folder", "mixture": (part,)}):
        with pytest.raises(UserError, match="data.mixture has"):
            DataConfig(**options)
