"""Stored views: each epoch has one of each record's, the same whenever and wherever it is asked."""

import numpy as np
import pytest

from babeldraw.data.image import write_whole
from babeldraw.data.pipeline import TrainBatches, eval_batches
from babeldraw.data.records import Record
from babeldraw.data.tokens import MANIFEST, TokenSource, write_shard
from babeldraw.data.views import drawn_view
from babeldraw.runs.folder import write_json

NUM, VIEWS, T = 12, 10, 4


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Token [record, view, place] is 100 record + view."""
    out = tmp_path_factory.mktemp("tokens")
    tokens = 100 * np.arange(NUM)[:, None, None] + np.arange(VIEWS)[None, :, None]
    tokens = np.broadcast_to(tokens, (NUM, VIEWS, T)).astype(np.int32)
    records = [Record(np.zeros((0, 0, 3), np.uint8), f"{n}", n) for n in range(NUM)]
    entry = {**write_shard(out / "tokens-00000.npz", tokens, records), "bad": 0}
    whole = {"tokenizer": "0", "name": "numbers", "shape": [T], "vocab": [2000], "channels": 0}
    counts = {"records": NUM, "shard_size": NUM, "count": NUM, "bad": 0, "complete": True}
    write_json(out / MANIFEST, {**whole, **counts, "views": VIEWS, "shards": [entry]})
    return out


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


def test_other_views_are_other_data_and_older_folders_have_one(folder, tmp_path):
    assert TokenSource(folder, "all").name == "tokens:numbers:0:all:10 views"
    for file in folder.iterdir():
        write_whole(tmp_path / file.name, file.read_bytes())
    manifest = (tmp_path / MANIFEST).read_text().replace('"views": 10,', "")
    (tmp_path / MANIFEST).write_text(manifest)
    older = TokenSource(tmp_path, "all")
    assert older.name == "tokens:numbers:0:all" and older[0].views is None
