"""Prepared shards: read as written, in any order; damage costs the damaged records alone."""

import io
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.image import decode
from babeldraw.data.pipeline import TrainBatches, eval_batches
from babeldraw.data.records import BadRecord, RecordReader
from babeldraw.data.shards import MANIFEST, ShardSource, damaged_shards, pack, write_shard
from babeldraw.errors import UserError
from tests.data import two_processes

ROOT = Path(__file__).parents[2]
COUNTS = (30, 25, 45)


def jpeg(index):
    cells = np.random.default_rng(index).integers(0, 256, (4, 6, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(cells).resize((30, 20), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


def write(folder, counts=COUNTS):
    folder.mkdir()
    numbers, shards = itertools.count(), []
    for shard, count in enumerate(counts):
        records = [
            pack(jpeg(i), f"number {i}", i, f"{i}.jpg") for i in itertools.islice(numbers, count)
        ]
        name = f"shard-{shard:05d}-of-{len(counts):05d}.array_record"
        shards.append(write_shard(folder / name, records))
    manifest = {
        "name": "x",
        "digest": "0" * 64,
        "count": sum(counts),
        "complete": True,
        "classes": [],
    }
    (folder / MANIFEST).write_text(json.dumps({**manifest, "shards": shards}))
    return folder


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write(tmp_path_factory.mktemp("shards") / "data")


@pytest.fixture
def own(tmp_path):
    """Shards that a test may damage."""
    return write(tmp_path / "data")


def test_records_in_any_order_and_splits_that_share_nothing(shards):
    source = ShardSource(shards, "all")
    assert len(source) == 100
    for index in (99, 0, 54, 55, 29, 30):
        record = source[index]
        assert (record.caption, record.label) == (f"number {index}", index)
        np.testing.assert_array_equal(record.image, decode(jpeg(index)))
        assert source.source_of(index) == f"{index}.jpg"
        assert source.jpeg(index).jpeg == jpeg(index)
    assert list(source.captions()) == [f"number {i}" for i in range(100)]
    labels = {s: [r.label for r in ShardSource(shards, s)] for s in ("train", "test")}
    assert labels["test"] == [0, 20, 40, 60, 80]
    assert sorted(labels["train"] + labels["test"]) == list(range(100))


def test_a_label_that_is_no_class_is_told_and_never_trained(own, caplog):
    """A network would read it as no class at all."""
    manifest = json.loads((own / MANIFEST).read_text())
    manifest["classes"] = [f"class {number}" for number in range(99)]
    (own / MANIFEST).write_text(json.dumps(manifest))
    batches = {"batch_size": 20, "image_size": (8, 8)}
    trained = TrainBatches(ShardSource(own, "all"), seed=0, **batches)
    with caplog.at_level(logging.WARNING):
        seen = [label for _ in range(5) for label in next(trained)["label"].tolist()]
        held = [b["label"] for b in eval_batches(ShardSource(own, "all"), **batches)]
    trained.close()
    assert set(seen) == set(range(99)) and np.concatenate(held).tolist() == [*range(99), -1]
    where = f"{own / 'shard-00002-of-00003.array_record'}[44]"
    told = f"bad record skipped: {where}: its label is 99 and the data name 99 classes"
    assert caplog.messages == [told, told]
    # Of many such records the run stops.
    manifest["classes"] = manifest["classes"][:90]
    (own / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(UserError, match=r"are bad .*its label is 9\d and the data name 90 classes"):
        [*eval_batches(ShardSource(own, "all"), **batches)]


def test_the_same_records_give_the_same_bytes(shards, own):
    for path in shards.iterdir():
        assert path.read_bytes() == (own / path.name).read_bytes()
    assert damaged_shards(own, json.loads((own / MANIFEST).read_text())["shards"]) == []


def test_one_wrong_byte_costs_one_record(own, caplog):
    path = own / "shard-00001-of-00003.array_record"
    data = bytearray(path.read_bytes())
    data[data.index(b"number 40") + 3] ^= 1
    path.write_bytes(data)
    reader = RecordReader(ShardSource(own, "all"), max_bad_share=0.05)
    with caplog.at_level(logging.WARNING):
        labels = [reader.read_at(i).label for _ in range(2) for i in range(100)]
    assert labels == [i + (i == 40) for i in range(100)] * 2
    assert (reader.read, reader.bad) == (100, 1)
    (message,) = caplog.messages
    assert f"{path}[10]" in message and "at byte" in message
    assert damaged_shards(own, json.loads((own / MANIFEST).read_text())["shards"]) == [path.name]


def test_a_shard_cut_off_is_told_at_once_and_its_records_are_bad(own, caplog):
    path = own / "shard-00000-of-00003.array_record"
    path.write_bytes(path.read_bytes()[:-1000])
    with caplog.at_level(logging.WARNING):
        source = ShardSource(own, "all")
    assert "damaged shard" in caplog.messages[0] and path.name in caplog.messages[0]
    with pytest.raises(BadRecord, match=r"00000-of-00003.array_record\[3\]"):
        source[3]
    assert source[30].label == 30
    reader = RecordReader(source, max_bad_share=0.2)
    with pytest.raises(UserError, match="30 of 100 records read.*max_bad_share=0.2"):
        for index in reversed(range(100)):
            reader.try_read_at(index)


def test_what_is_no_record_or_no_jpeg_is_a_bad_record(tmp_path):
    folder = write(tmp_path / "data", (3,))
    records = [b"junk", pack(b"no jpeg", "a", 0, "x"), pack(jpeg(0)[:-5], "a", 0, "x")]
    entry = write_shard(folder / "shard-00000-of-00001.array_record", records)
    manifest = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**manifest, "shards": [entry]}))
    source = ShardSource(folder, "all")
    for index in range(3):
        with pytest.raises(BadRecord, match="no record of a shard|no whole JPEG"):
            source.jpeg(index)


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"complete": False}, "not complete.*babeldraw prepare"),
        ({"shards": 3}, "not a manifest"),
        ({"shards": [{"file": "../x", "count": 1, "bytes": 1, "sha256": ""}]}, "not a manifest"),
    ],
)
def test_wrong_manifests_are_told(own, change, line):
    manifest = json.loads((own / MANIFEST).read_text())
    (own / MANIFEST).write_text(json.dumps({**manifest, **change}))
    with pytest.raises(UserError, match=line):
        ShardSource(own, "all")


def test_what_is_missing_is_told(own, tmp_path):
    with pytest.raises(UserError, match="'val'.*'train', 'test', 'all'"):
        ShardSource(own, "val")
    (own / "shard-00002-of-00003.array_record").unlink()
    with pytest.raises(UserError, match="lacks 1 of 3 shards, such as shard-00002"):
        ShardSource(own, "all")
    with pytest.raises(UserError, match="no readable manifest.json"):
        ShardSource(tmp_path, "all")


def test_training_and_evaluation_see_the_same_pictures(shards):
    pytest.importorskip("tensorflow")
    source = ShardSource(shards, "all")
    options = {"batch_size": 20, "image_size": (12, 12)}
    batches = TrainBatches(source, seed=0, crop="center", **options)
    trained = {}
    for batch in itertools.islice(batches, 5):
        trained.update(zip(batch["label"].tolist(), batch["image"], strict=True))
    batches.close()
    assert sorted(trained) == list(range(100))
    for batch in eval_batches(source, **options):
        for label, image in zip(batch["label"], batch["image"], strict=True):
            # Another library's JPEG decoder and filter: they differ by rounding.
            differences = np.abs(trained[int(label)].astype(int) - image)
            assert differences.max() <= 12 and differences.mean() < 1


def test_batches_of_jpeg_files_are_the_same_on_any_number_of_hosts(shards):
    pytest.importorskip("tensorflow")
    options = {"batch_size": 24, "image_size": (12, 12), "seed": 0, "crop": "dalle_tokenizer"}
    source = ShardSource(shards, "train")
    whole = TrainBatches(source, **options)
    hosts = [TrainBatches(source, process_index=i, process_count=2, **options) for i in range(2)]
    for _ in range(5):
        batch, parts = next(whole), [next(host) for host in hosts]
        for key in batch:
            np.testing.assert_array_equal(batch[key], np.concatenate([p[key] for p in parts]))
    for batches in (whole, *hosts):
        batches.close()


SOAK = """
import resource, sys, time
from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.shards import ShardSource
batches = TrainBatches(ShardSource(sys.argv[1], "train"), batch_size=32, image_size=(16, 16),
    seed=0, crop="dalle_generator")
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20
sizes, began, count = [], time.monotonic(), 0
while time.monotonic() - began < float(sys.argv[2]):
    next(batches)
    count += 1
    if count % 10 == 0:
        sizes.append(resident())
batches.close()
third = len(sizes) // 3
print(count, sum(sizes[third:2 * third]) / third, sum(sizes[-third:]) / third)
"""


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads /proc")
def test_a_minute_of_batches_does_not_grow_in_memory(shards):
    command = [sys.executable, "-c", SOAK, str(shards), "60"]
    output = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    count, middle, end = map(float, output.split())
    assert count > 100 and end - middle < 8, output


@pytest.mark.slow
def test_two_processes_together_hold_the_batches_of_one(shards):
    """Gathered over `jax.distributed`; each process learns from jax which host it is."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    program = [sys.executable, two_processes.__file__]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    workers = [
        subprocess.Popen(
            [*program, str(process), "2", str(port), str(shards)],
            env=environment,
            stdout=subprocess.PIPE,
            text=True,
        )
        for process in range(2)
    ]
    printed = [worker.communicate(timeout=300)[0] for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0]
    batches = two_processes.batches_of(shards, 0, 1)
    expected = [
        {key: two_processes.digest(array) for key, array in batch.items()}
        for batch in itertools.islice(batches, two_processes.STEPS)
    ]
    batches.close()
    for text in printed:
        assert json.loads(text.splitlines()[-1]) == expected
