"""From raw data to shards: counts, duplicates, the same bytes however it is run, going on."""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.prepare import work as work_module
from babeldraw.data.prepare.beam import alike_losers, prepare
from babeldraw.data.prepare.examples import Options
from babeldraw.data.prepare.inputs import open_input
from babeldraw.data.shards import ShardSource, damaged_shards
from babeldraw.errors import UserError

pytest.importorskip("apache_beam")
ROOT = Path(__file__).parents[3]
OPTIONS = Options(side=24, min_side=8)
# Out of order on purpose: what is kept follows the data's order, not that of hashes.
COPY_OF = {9: 2, 5: 4, 11: 2}


def picture(index):
    cells = np.random.default_rng(index).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(cells).resize((32, 32), Image.Resampling.BICUBIC)


def fill(folder, count, junk=()):
    folder.mkdir()
    for index in range(count):
        file = io.BytesIO()
        picture(COPY_OF.get(index, index)).save(file, "PNG")
        data = b"junk" if index in junk else file.getvalue()
        (folder / f"{index:05d}.png").write_bytes(data)
        (folder / f"{index:05d}.txt").write_text(f"picture number {'i' * index}")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures") / "data"
    fill(folder, 14, junk=[7])
    return folder


def run(pictures, out, options=OPTIONS, **settings):
    settings = {"shard_size": 4, "max_bad_share": 0.1} | settings
    return prepare(open_input("folder", str(pictures)), options, str(out), **settings)


@pytest.fixture(scope="module")
def prepared(pictures, tmp_path_factory):
    out = tmp_path_factory.mktemp("prepared") / "out"
    return out, run(pictures, out)


def files(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_the_manifest_counts_every_record_once(prepared):
    out, manifest = prepared
    assert json.loads((out / "manifest.json").read_text()) == manifest
    assert (manifest["records"], manifest["count"], manifest["bad"]) == (14, 10, 1)
    assert manifest["rejected"] == {"duplicate": 3, "unreadable picture": 1}
    assert manifest["classes"] == []
    texts = [(out / name).read_text() for name in manifest["rejected_files"]]
    lines = [json.loads(line) for text in texts for line in text.splitlines()]
    assert [(line["where"], line["reason"], line["detail"]) for line in lines] == [
        ("00007.png", "unreadable picture", "no picture, or of an unknown kind"),
        ("00005.png", "duplicate", "00004.png"),
        ("00009.png", "duplicate", "00002.png"),
        ("00011.png", "duplicate", "00002.png"),
    ]
    assert [shard["count"] for shard in manifest["shards"]] == [4, 2, 2, 2]
    assert damaged_shards(out, manifest["shards"]) == []
    named = {"manifest.json", *manifest["rejected_files"], *(s["file"] for s in manifest["shards"])}
    assert {path.name for path in out.iterdir()} == named


def test_the_shards_hold_the_pictures_in_order(prepared):
    source = ShardSource(prepared[0], "all")
    kept = [i for i in range(14) if i not in COPY_OF and i != 7]
    assert [source.source_of(i) for i in range(len(source))] == [f"{i:05d}.png" for i in kept]
    for index, number in enumerate(kept):
        record = source[index]
        assert record.caption == f"picture number {'i' * number}".strip()
        expected = np.asarray(picture(number).resize((24, 24), Image.Resampling.BICUBIC))
        assert np.abs(record.image.astype(int) - expected).mean() < 6


def test_the_same_bytes_again_and_nothing_to_do_when_finished(prepared, pictures, tmp_path):
    out, manifest = prepared
    assert run(pictures, tmp_path / "again") == manifest
    assert files(tmp_path / "again") == files(out)
    before = {path: path.stat().st_mtime_ns for path in out.iterdir()}
    assert run(pictures, out) == manifest
    assert {path: path.stat().st_mtime_ns for path in out.iterdir()} == before


@pytest.mark.slow
def test_the_same_bytes_from_four_workers(prepared, pictures, tmp_path):
    run(pictures, tmp_path / "four", workers=4)
    assert files(tmp_path / "four") == files(prepared[0])


@pytest.mark.parametrize("stage", ["make_part", "make_shard"])
def test_a_run_that_failed_goes_on_without_doing_anything_twice(
    prepared, pictures, tmp_path, monkeypatch, stage
):
    from babeldraw.data.prepare import beam

    whole, calls = getattr(beam, stage), []

    def fails_at_the_third(work, index, *rest):
        calls.append(index)
        if len(calls) == 3:
            raise RuntimeError("a worker dies")
        return whole(work, index, *rest)

    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        patched.setattr(beam, stage, fails_at_the_third)
        with pytest.raises(Exception, match="a worker dies"):
            run(pictures, out)
    assert not (out / "manifest.json").exists()
    made = []
    monkeypatch.setattr(
        work_module, "write_shard", lambda path, records: made.append(path) or write(path, records)
    )
    run(pictures, out)
    assert files(out) == files(prepared[0])
    # Eight files are written in all, a part and a shard for each piece.
    assert len(made) == 8 - (2 if stage == "make_part" else 6)


write = work_module.write_shard


def test_pairs_and_near_duplicates(pictures, tmp_path):
    pairs = Options(side=24, min_side=8, duplicates="pair")
    assert run(pictures, tmp_path / "pair", pairs)["rejected"] == {"unreadable picture": 1}
    near = Options(side=24, min_side=8, duplicates="keep", near_duplicates=3)
    manifest = run(pictures, tmp_path / "near", near)
    assert manifest["rejected"] == {"near duplicate": 3, "unreadable picture": 1}


def test_alike_means_at_most_so_many_bits():
    base = 0x0123456789ABCDEF
    looks = [base, base ^ 0b111, base ^ 0b1111, base ^ (1 << 63)]
    group = [((0, row), f"{row}", f"{look:016x}") for row, look in enumerate(looks)]
    found = list(alike_losers(("0:", group), Options(near_duplicates=3)))
    # The third differs from the first in four bits, from the second in one.
    assert [(row, first) for _, (row, _, first) in found] == [(1, "0"), (2, "1"), (3, "0")]


def test_too_many_damaged_records_stop_it_and_a_larger_share_goes_on(prepared, pictures, tmp_path):
    out = tmp_path / "out"
    line = r"1 of 14 records are damaged \(7.1%\) where max_bad_share=0.05.*00007.png"
    with pytest.raises(UserError, match=line):
        run(pictures, out, max_bad_share=0.05)
    assert not (out / "manifest.json").exists()
    run(pictures, out, max_bad_share=0.1)
    assert files(out) == files(prepared[0])


def test_nothing_left_is_told_with_the_reasons(tmp_path):
    fill(tmp_path / "data", 3)
    with pytest.raises(UserError, match=r"none of the 3 records .*: 3 too small"):
        run(tmp_path / "data", tmp_path / "out", Options(min_side=100))


def test_other_work_in_the_folder_is_refused(prepared, pictures, tmp_path):
    with pytest.raises(UserError, match="side 24, not 16"):
        run(pictures, prepared[0], Options(side=16, min_side=8))
    with pytest.raises(UserError, match="shard_size 4, not 5"):
        run(pictures, prepared[0], shard_size=5)
    fill(tmp_path / "data", 3)
    with pytest.raises(UserError, match="other files"):
        run(tmp_path / "data", prepared[0])
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run(pictures, tmp_path / "full")


@pytest.mark.slow
def test_killed_three_times_at_random_moments_it_ends_with_the_same_bytes(tmp_path):
    fill(tmp_path / "data", 400, junk=range(50, 400, 20))
    out, killed = tmp_path / "out", 0
    command = [sys.executable, "-m", "babeldraw.cli", "prepare", f"--path={tmp_path / 'data'}"]
    command += ["--min_side=8", "--side=24", "--shard_size=20", "--max_bad_share=0.1"]
    rng = np.random.default_rng(int(time.time()))
    while killed < 3:
        process = subprocess.Popen([*command, f"--out={out}"], cwd=ROOT, start_new_session=True)
        begun = out / "work" / "plan.json"
        while process.poll() is None and not begun.exists():
            time.sleep(0.05)
        time.sleep(rng.uniform(0.1, 1.0))
        finished = process.poll() is not None
        if not finished:
            os.killpg(process.pid, signal.SIGKILL)
            killed += 1
        process.wait()
        if finished:
            shutil.rmtree(out)
    subprocess.run([*command, f"--out={out}"], cwd=ROOT, check=True)
    subprocess.run([*command, f"--out={tmp_path / 'once'}"], cwd=ROOT, check=True)
    assert files(out) == files(tmp_path / "once")
