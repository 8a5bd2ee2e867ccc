"""Sources: bad records are counted, logged once and replaced; wrong settings are told in a line."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.config import DataConfig
from babeldraw.data.records import BadRecord, Record, RecordReader
from babeldraw.data.sources import open_source
from babeldraw.errors import UserError

PIXEL = np.zeros((1, 1, 3), np.uint8)


class Numbers:
    """Records whose label is their index; the indices in `bad` cannot be read."""

    name = "numbers"

    def __init__(self, size, bad=()):
        self.size, self.bad, self.reads = size, set(bad), []

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        self.reads.append(index)
        if index in self.bad:
            raise BadRecord(f"numbers[{index}]", "torn")
        return Record(PIXEL, f"number {index}", index)

    def captions(self):
        yield from (f"number {i}" for i in range(self.size))


def test_the_next_good_record_takes_the_place_of_a_bad_one():
    reader = RecordReader(Numbers(6, bad=[1, 2, 5]), max_bad_share=1.0)
    assert [reader.read_at(i).label for i in range(6)] == [0, 3, 3, 3, 4, 0]
    assert (reader.read, reader.bad) == (6, 3)


def test_a_bad_record_is_logged_and_read_once(caplog):
    source = Numbers(4, bad=[2])
    reader = RecordReader(source)
    with caplog.at_level(logging.WARNING):
        assert [reader.read_at(2).label for _ in range(3)] == [3, 3, 3]
    (message,) = caplog.messages
    assert "numbers[2]" in message and "torn" in message
    assert source.reads.count(2) == 1
    assert (reader.read, reader.bad) == (2, 1)


def test_threads_count_each_record_once():
    reader = RecordReader(Numbers(50, bad=range(0, 50, 7)), max_bad_share=1.0)
    with ThreadPoolExecutor(8) as pool:
        labels = list(pool.map(lambda i: reader.read_at(i % 50).label, range(400)))
    # 49 is bad and so is the first record, which comes next: the second stands in for both.
    once = [1 if i == 49 else i + (i % 7 == 0) for i in range(50)]
    assert labels == once * 8
    assert (reader.read, reader.bad) == (50, 8)


def test_too_many_bad_records_stop_the_run_and_the_line_says_why():
    reader = RecordReader(Numbers(1000, bad=range(0, 1000, 20)), max_bad_share=0.04)
    with pytest.raises(UserError, match=r"data\.max_bad_share=0\.04.*numbers\[0\]: torn") as error:
        for index in range(1000):
            reader.read_at(index)
    # 6 of 101 are the first count that is over 4 % once a hundred were read.
    assert "6 of 101 records" in str(error.value) and "5.9%" in str(error.value)
    assert "\n" not in str(error.value)


def test_fewer_bad_than_the_share_go_on_and_few_reads_decide_nothing():
    reader = RecordReader(Numbers(1000, bad=range(0, 1000, 20)), max_bad_share=0.05)
    assert [reader.read_at(i).label for i in range(1, 1000)]
    small = RecordReader(Numbers(50, bad=range(0, 50, 2)), max_bad_share=0.0)
    assert [small.read_at(i).label for i in range(49)][:3] == [1, 1, 3]


def test_no_good_record_at_all_stops_the_run():
    reader = RecordReader(Numbers(3, bad=range(3)), max_bad_share=1.0)
    for _ in range(2):
        with pytest.raises(UserError, match="3 of 3"):
            reader.read_at(1)


def test_an_empty_source_is_refused():
    with pytest.raises(UserError, match="no records"):
        RecordReader(Numbers(0))


def test_shapes_are_a_source():
    config = DataConfig(num_examples=40)
    source = open_source(config, "train", 32, 3)
    assert len(source) == 40
    record = source[7]
    image, caption = shapes.example(7, "train", 32, 3)
    np.testing.assert_array_equal(record.image, image)
    assert (record.caption, record.label) == (caption, -1)
    assert list(source.captions()) == [source[i].caption for i in range(40)]
    names = {
        open_source(config, split, 32, seed).name for split in ("train", "test") for seed in (0, 1)
    }
    assert len(names) == 4


@pytest.mark.parametrize(
    ("config", "split", "size", "seed", "line"),
    [
        (
            {"source": "shape"},
            "train",
            32,
            0,
            "data.source='shape'.*'shapes', .*'shards', 'tfds', 'webdataset', .*'texts' or 'mix",
        ),
        ({}, "val", 32, 0, "data.split='val'.*train, test, unseen"),
        ({}, "train", 8, 0, "image_size=8"),
        ({}, "train", 32, -1, "seed=-1"),
        ({"source": "folder"}, "train", 32, 0, "data.path=''"),
    ],
)
def test_a_wrong_setting_is_named(config, split, size, seed, line):
    with pytest.raises(UserError, match=line):
        open_source(DataConfig(**config), split, size, seed)


@pytest.mark.parametrize(
    ("field", "value"), [("num_examples", 0), ("max_bad_share", 1.5), ("workers", 0)]
)
def test_a_value_out_of_range_is_named(field, value):
    with pytest.raises(UserError, match=f"data.{field}={value}"):
        DataConfig(**{field: value})
