"""Batches: a function of (seed, step) alone, on any number of hosts, from any step on."""

import itertools
import json
import logging
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from babeldraw.data.crops import tensorflow
from babeldraw.data.image import center_crop
from babeldraw.data.pipeline import TrainBatches, eval_batches, fingerprint
from babeldraw.data.records import BadRecord, Record
from babeldraw.data.text import Vocabulary, train_vocabulary
from babeldraw.errors import UserError

ROOT = Path(__file__).parents[2]
SHAPES = [(8, 8), (12, 16), (20, 9), (8, 15)]


class Pictures:
    """Noise of several sizes; the label is the index; the indices in `bad` cannot be read."""

    def __init__(self, size, bad=(), name="pictures"):
        self.size, self.bad, self.name = size, set(bad), name

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index in self.bad:
            raise BadRecord(f"{self.name}[{index}]", "torn")
        shape = SHAPES[index % len(SHAPES)]
        rng = np.random.default_rng(index)
        return Record(rng.integers(0, 256, (*shape, 3), np.uint8), f"number {index}", index)

    def captions(self):
        yield from (f"number {i}" for i in range(self.size))


@pytest.fixture(scope="module")
def vocabulary(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "text.model"
    train_vocabulary(Pictures(30).captions(), path)
    return Vocabulary(path)


def train_batches(source, batch_size=4, **options):
    pytest.importorskip("tensorflow")
    options = {"image_size": (8, 8), "seed": 0} | options
    return TrainBatches(source, batch_size=batch_size, **options)


def take(batches, count):
    taken = list(itertools.islice(batches, count))
    batches.close()
    return taken


def assert_same(one, other):
    assert len(one) == len(other)
    for left, right in zip(one, other, strict=True):
        assert left.keys() == right.keys()
        for key in left:
            np.testing.assert_array_equal(left[key], right[key])


def labels(batches):
    return np.concatenate([batch["label"] for batch in batches])


def test_each_epoch_is_another_permutation():
    orders = labels(take(train_batches(Pictures(10), 5), 8)).reshape(4, 10)
    for order in orders:
        np.testing.assert_array_equal(np.sort(order), np.arange(10))
    assert len({tuple(order) for order in orders}) == 4


def test_the_seed_decides_the_order():
    one, again, other = (
        labels(take(train_batches(Pictures(30), 10, seed=seed), 3)) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, again)
    assert (one != other).any()


def test_batches_hold_what_they_should(vocabulary):
    batches = train_batches(Pictures(30), vocabulary=vocabulary, text_length=6, image_size=(8, 12))
    for batch in take(batches, 3):
        assert {k: (v.shape, v.dtype.name) for k, v in batch.items()} == {
            "image": ((4, 8, 12, 3), "uint8"),
            "text": ((4, 6), "int32"),
            "label": ((4,), "int32"),
        }
        captions = [f"number {label}" for label in batch["label"]]
        np.testing.assert_array_equal(batch["text"], vocabulary.encode(captions, 6))


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_together_hold_the_global_batch(hosts, vocabulary):
    options = {"vocabulary": vocabulary, "text_length": 6}
    whole = take(train_batches(Pictures(11), **options), 5)
    slices = [
        take(train_batches(Pictures(11), process_index=i, process_count=hosts, **options), 5)
        for i in range(hosts)
    ]
    together = [
        {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
        for parts in zip(*slices, strict=True)
    ]
    assert_same(whole, together)


@pytest.mark.parametrize("step", [1, 4])
def test_resumed_equals_never_stopped(step):
    never_stopped = take(train_batches(Pictures(11)), 7)
    batches = train_batches(Pictures(11), workers=3)
    take_before = [next(batches) for _ in range(step)]
    state = json.loads(json.dumps(batches.state()))
    batches.close()
    assert state["step"] == step
    # The seed comes with the state.
    resumed = train_batches(Pictures(11), seed=5)
    resumed.restore(state)
    assert_same(never_stopped, take_before + take(resumed, 7 - step))
    assert_same(never_stopped[step:], take(train_batches(Pictures(11), start_step=step), 7 - step))


def test_resumed_on_another_number_of_hosts():
    never_stopped = take(train_batches(Pictures(11)), 5)
    first = train_batches(Pictures(11), process_index=1, process_count=2)
    for _ in range(3):
        next(first)
    halves = []
    for index in range(4):
        batches = train_batches(Pictures(11), process_index=index, process_count=4)
        batches.restore(first.state())
        halves.append(labels(take(batches, 2)))
    first.close()
    expected = [batch["label"] for batch in never_stopped[3:]]
    np.testing.assert_array_equal(np.stack(halves, axis=1), expected)


def test_restoring_within_a_run_goes_back():
    batches = train_batches(Pictures(11))
    state = batches.state()
    first = [next(batches) for _ in range(3)]
    batches.restore(state)
    assert_same(first, take(batches, 3))


def test_other_data_are_told_when_restoring(caplog):
    state = train_batches(Pictures(11)).state()
    with caplog.at_level(logging.WARNING):
        train_batches(Pictures(11)).restore(state)
        assert not caplog.messages
        train_batches(Pictures(12)).restore(state)
    (message,) = caplog.messages
    assert "data changed" in message
    prints = {fingerprint(s) for s in (Pictures(11), Pictures(12), Pictures(11, name="other"))}
    assert len(prints) == 3


@pytest.mark.parametrize("size", [1, 3])
def test_a_batch_larger_than_the_data_goes_round(size):
    order = labels(take(train_batches(Pictures(size), 8), 3))
    for epoch in order.reshape(-1, size):
        np.testing.assert_array_equal(np.sort(epoch), np.arange(size))


def test_the_centre_crop_takes_known_pixels():
    batches = train_batches(Pictures(4), crop="center")
    (batch,) = take(batches, 1)
    by_label = dict(zip(batch["label"].tolist(), batch["image"], strict=True))
    np.testing.assert_array_equal(by_label[0], Pictures(4)[0].image)
    np.testing.assert_array_equal(by_label[3], Pictures(4)[3].image[:, 3:11])


def test_training_and_evaluation_crop_alike():
    (batch,) = take(train_batches(Pictures(4), crop="center", image_size=(5, 7)), 1)
    for label, image in zip(batch["label"], batch["image"], strict=True):
        expected = center_crop(Pictures(4)[label].image, (5, 7)).astype(np.int32)
        # Two libraries' triangle filters: they differ by rounding.
        assert np.abs(image.astype(np.int32) - expected).max() <= 1


def test_random_crops_follow_the_seed_and_differ_between_epochs():
    options = {"image_size": (6, 6)}
    one, again = (take(train_batches(Pictures(4), **options), 3) for _ in range(2))
    assert_same(one, again)
    images = [dict(zip(b["label"].tolist(), b["image"], strict=True)) for b in one]
    assert all((images[0][label] != images[1][label]).any() for label in range(4))


def test_random_crops_stay_inside_and_lie_within_the_scale():
    """On a ramp a crop shows its own place: the first and last pixel give offset and side."""
    pytest.importorskip("tensorflow")
    from babeldraw.data.crops import make_plan

    boxes = []
    for position in range(300):
        seed = tensorflow().constant([7, position], "int64")
        shape = tensorflow().constant([100, 160], "int64")
        boxes.append([int(v) for v in make_plan(shape, (8, 8), "random", seed).box])
    top, left, height, width = np.array(boxes).T
    assert (top >= 0).all() and (top + height <= 100).all()
    assert (left >= 0).all() and (left + width <= 160).all()
    np.testing.assert_array_equal(height, width)
    assert height.min() >= 80 and height.max() <= 100
    assert height.min() <= 82 and height.max() >= 98
    assert left.min() <= 3 and (left + width).max() >= 157


def test_pictures_are_not_mirrored():
    ramp = np.broadcast_to(np.linspace(0, 255, 40, dtype=np.uint8)[None, :, None], (20, 40, 3))

    class Ramp(Pictures):
        def __getitem__(self, index):
            return Record(ramp, "", index)

    for batch in take(train_batches(Ramp(8)), 4):
        assert (np.diff(batch["image"].astype(np.int32), axis=2) > 0).all()


def test_bad_records_are_replaced_alike_on_any_host_and_logged_once(caplog):
    source = Pictures(11, bad=[3, 4])
    with caplog.at_level(logging.WARNING):
        batches = train_batches(source, 4, workers=3)
        order = labels(take(batches, 11))
    assert (batches.reader.read, batches.reader.bad) == (11, 2)
    assert sorted(m for m in caplog.messages) == [
        f"bad record skipped: pictures[{i}]: torn" for i in (3, 4)
    ]
    clean = labels(take(train_batches(Pictures(11)), 11))
    np.testing.assert_array_equal(order, np.where((clean == 3) | (clean == 4), 5, clean))


def test_too_many_bad_records_reach_the_caller_as_one_line():
    batches = train_batches(Pictures(200, bad=range(0, 200, 2)), 50, max_bad_share=0.1)
    with pytest.raises(UserError, match=r"data\.max_bad_share=0\.1") as error:
        take(batches, 8)
    assert "\n" not in str(error.value)
    batches.close()


def test_any_other_error_of_a_source_reaches_the_caller_as_it_is():
    class Broken(Pictures):
        def __getitem__(self, index):
            raise ZeroDivisionError("a bug")

    batches = train_batches(Broken(8))
    with pytest.raises(ZeroDivisionError, match="a bug"):
        next(batches)
    batches.close()


def test_after_close_there_are_no_batches():
    batches = train_batches(Pictures(8))
    next(batches)
    batches.close()
    assert list(batches) == []


class Slow(Pictures):
    """Counts the reads, each of which takes a while and holds the interpreter in between."""

    reads = 0

    def __getitem__(self, index):
        self.reads += 1
        time.sleep(0.005)
        return super().__getitem__(index)


def test_closing_stops_reading_ahead():
    source = Slow(100)
    for _ in range(5):
        batches = train_batches(source)
        next(batches)
        batches.close()
        reads = source.reads
        time.sleep(0.03)
        assert source.reads == reads


def test_an_interrupt_loses_no_batch():
    never_stopped = take(train_batches(Pictures(11)), 3)
    batches = train_batches(Pictures(11))
    seen = [next(batches)]
    interrupted = iter(raise_interrupt, None)
    batches._running[:] = [interrupted]
    with pytest.raises(KeyboardInterrupt):
        next(batches)
    assert_same(never_stopped, seen + take(batches, 2))


def raise_interrupt():
    raise KeyboardInterrupt


@pytest.mark.slow
@pytest.mark.parametrize(
    ("end", "status"),
    [("", 0), ("list(batches)", 1), ("raise KeyboardInterrupt", -signal.SIGINT)],
)
def test_python_ends_while_records_are_read(end, status):
    """Without `close`, also when the reader itself, or the user, ends it."""
    code = (
        "import sys; sys.path.append('tests/data'); from test_pipeline import *\n"
        "batches = train_batches(Slow(2000, bad=range(0, 2000, 20)), 64)\n"
        f"next(batches)\n{end}"
    )
    ended = subprocess.run([sys.executable, "-c", code], cwd=ROOT, timeout=90, check=False)
    assert ended.returncode == status


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"batch_size": 5, "process_count": 2}, "batch_size=5.*2 hosts.*multiple of 2"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"process_index": 2, "process_count": 2}, "process_index=2"),
        ({"image_size": (8, 0)}, r"image_size=\(8, 0\)"),
        ({"crop": "left"}, "crop=.left.*.random., .random_mirrored., .center."),
        ({"workers": 0}, "data.workers=0"),
    ],
)
def test_a_wrong_setting_is_named(options, line):
    with pytest.raises(UserError, match=line):
        TrainBatches(Pictures(8), **({"batch_size": 4, "image_size": (8, 8), "seed": 0} | options))


def test_text_needs_a_length(vocabulary):
    with pytest.raises(UserError, match="text_length=0"):
        train_batches(Pictures(8), vocabulary=vocabulary)
    with pytest.raises(UserError, match="text_length=0"):
        eval_batches(Pictures(8), batch_size=4, image_size=(8, 8), vocabulary=vocabulary)


@pytest.mark.parametrize("hosts", [1, 2])
@pytest.mark.parametrize("num_examples", [None, 6, 99])
def test_evaluation_sees_each_record_once_in_order(hosts, num_examples, vocabulary):
    options = {"vocabulary": vocabulary, "text_length": 6, "num_examples": num_examples}
    source = Pictures(9, bad=[2])
    runs = [
        list(
            eval_batches(
                source,
                batch_size=4,
                image_size=(8, 8),
                process_index=index,
                process_count=hosts,
                max_bad_share=1.0,
                **options,
            )
        )
        for index in range(hosts)
    ]
    total = min(num_examples or 9, 9)
    assert {len(run) for run in runs} == {-(-total // 4)}
    seen = []
    for step in range(-(-total // 4)):
        for run in runs:
            batch = run[step]
            assert batch["image"].shape == (4 // hosts, 8, 8, 3) and batch["mask"].dtype == np.bool_
            np.testing.assert_array_equal(batch["text"], vocabulary.encode(batch["caption"], 6))
            seen += batch["label"][batch["mask"]].tolist()
            assert (batch["label"][~batch["mask"]] == -1).all()
            assert (batch["image"][~batch["mask"]] == 0).all()
    assert seen == [i for i in range(total) if i != 2]


def test_evaluation_crops_the_centre_and_keeps_captions():
    (batch,) = eval_batches(Pictures(3), batch_size=3, image_size=(6, 4))
    for index in range(3):
        expected = center_crop(Pictures(3)[index].image, (6, 4))
        np.testing.assert_array_equal(batch["image"][index], expected)
    assert batch["caption"] == ["number 0", "number 1", "number 2"]
    assert "text" not in batch


def test_evaluating_and_vocabularies_do_not_import_tensorflow():
    code = (
        "import sys; from babeldraw.data.config import DataConfig; "
        "from babeldraw.data.sources import open_source; "
        "from babeldraw.data.pipeline import eval_batches; "
        "source = open_source(DataConfig(num_examples=4), 'test', 32, 0); "
        "list(eval_batches(source, batch_size=2, image_size=(16, 16))); "
        "assert 'tensorflow' not in sys.modules and 'jax' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
