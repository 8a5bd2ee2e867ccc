"""Stored views: each epoch has one of each record's, the same whenever and wherever it is asked."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from babeldraw.data.config import DataConfig
from babeldraw.data.pipeline import TrainBatches, eval_batches
from babeldraw.data.records import Record
from babeldraw.data.sources import open_source
from babeldraw.data.tokens import MANIFEST, TokenSource, write_shard
from babeldraw.data.views import drawn_view
from babeldraw.errors import UserError
from babeldraw.runs.folder import write_json
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

NUM, VIEWS, T = 12, 10, 4
CONFIGS = Path(__file__).parents[2] / "configs" / "README"


# Token [record, view, place] is 100 record + view.
TOKENS = np.broadcast_to(
    100 * np.arange(NUM)[:, None, None] + np.arange(VIEWS)[None, :, None], (NUM, VIEWS, T)
).astype(np.int32)


def stored(out, tokens, **views):
    """A folder of these tokens, whose manifest says so many views."""
    records = [Record(np.zeros((0, 0, 3), np.uint8), f"{n}", n) for n in range(NUM)]
    entry = {**write_shard(out / "tokens-00000.npz", tokens, records), "bad": 0}
    whole = {"tokenizer": "0", "name": "numbers", "shape": [T], "vocab": [2000], "channels": 0}
    counts = {"records": NUM, "shard_size": NUM, "count": NUM, "bad": 0, "complete": True}
    write_json(out / MANIFEST, {**whole, **counts, **views, "shards": [entry]})
    return out


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return stored(tmp_path_factory.mktemp("tokens"), TOKENS, views=VIEWS)


def batches(folder, **more):
    source = TokenSource(folder, "all")
    return TrainBatches(source, batch_size=4, image_size=(8, 8), **{"seed": 3, **more})


def read(train, steps):
    found = [next(train) for _ in range(steps)]
    train.close()
    return np.stack([batch["tokens"] for batch in found])[..., 0]


def test_an_epoch_has_one_view_of_each_record_and_another_epoch_another(folder):
    found = read(batches(folder), 3 * 20).reshape(20, NUM)
    np.testing.assert_array_equal(np.sort(found // 100, axis=1), np.tile(np.arange(NUM), (20, 1)))
    by_record = np.take_along_axis(found, np.argsort(found // 100, axis=1), axis=1) % 100
    expected = [[drawn_view(VIEWS, n, epoch, 3) for n in range(NUM)] for epoch in range(20)]
    np.testing.assert_array_equal(by_record, expected)
    assert set(by_record.ravel()) == set(range(VIEWS))
    # No record keeps a view, no epoch has one view of all.
    assert all(len(set(line)) > 3 for line in [*by_record, *by_record.T])


def test_resumed_or_on_several_hosts_they_are_the_same(folder):
    whole = read(batches(folder), 9)
    np.testing.assert_array_equal(read(batches(folder, start_step=5), 4), whole[5:])
    halves = [read(batches(folder, process_index=i, process_count=2), 9) for i in (0, 1)]
    np.testing.assert_array_equal(np.concatenate(halves, axis=1), whole)
    assert np.any(read(batches(folder, seed=4), 9) != whole)


def test_views_are_drawn_evenly():
    drawn = [drawn_view(VIEWS, n, epoch, 0) for n in range(100) for epoch in range(100)]
    shares = np.bincount(drawn, minlength=VIEWS) / len(drawn)
    # Five standard deviations of a share.
    assert np.all(abs(shares - 0.1) < 5 * np.sqrt(0.1 * 0.9 / len(drawn)))


def test_evaluation_has_the_first(folder):
    source = TokenSource(folder, "test")
    (batch,) = eval_batches(source, batch_size=len(source), image_size=(8, 8))
    assert source.token_spec[0] == (T,) and batch["tokens"].shape == (len(source), T)
    np.testing.assert_array_equal(batch["tokens"] % 100, 0)


@pytest.mark.parametrize("name", ["rar.py", "llamagen.py"])
def test_published_recipes_ask_for_ten_views(name, folder, tmp_path):
    data = parse(load_config(name, CONFIGS)).data
    assert data.views == VIEWS
    source = open_source(dataclasses.replace(data, path=str(folder)), "all", 8, 0)
    assert source[3].views.shape == (VIEWS, T)
    stored(tmp_path, TOKENS, views=1)
    line = "is of `babeldraw tokenize --views=1` and data.views is 10; make tokens with --views=10"
    with pytest.raises(UserError, match=line):
        open_source(dataclasses.replace(data, path=str(tmp_path)), "train", 8, 0)
    # And a manifest that says less than the shards hold.
    with pytest.raises(
        UserError, match=r"the shape \(12, 10, 4\) and manifest.json says \(12, 4\)"
    ):
        _ = TokenSource(tmp_path, "all")[0]


def test_views_are_of_stored_tokens_and_of_a_number_that_there_is():
    with pytest.raises(UserError, match="data.views is 3; 1 or 10 is needed"):
        DataConfig(source="tokens", path="x", views=3)
    with pytest.raises(UserError, match="data.views=10 is of data.source='tokens' alone, and here"):
        DataConfig(views=10)


def test_other_views_are_other_data_and_older_folders_have_one(folder, tmp_path):
    assert TokenSource(folder, "all").name == "tokens:numbers:0:all:10 views"
    older = TokenSource(stored(tmp_path, TOKENS[:, 0]), "all")
    assert older.name == "tokens:numbers:0:all" and older[0].views is None
