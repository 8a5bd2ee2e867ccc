"""The bench of the input pipeline: every stage is measured, over the pictures asked for."""

import io
import json

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.shards import MANIFEST, pack, write_shard

pytest.importorskip("tensorflow")


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shards")
    records = []
    for index in range(32):
        cells = np.random.default_rng(index).integers(0, 256, (4, 4, 3), np.uint8)
        file = io.BytesIO()
        Image.fromarray(cells).resize((40, 40)).save(file, "JPEG")
        records.append(pack(file.getvalue(), "cells", -1, str(index)))
    entry = write_shard(folder / "shard.array_record", records)
    manifest = {"name": "x", "digest": "0", "count": 32, "complete": True, "shards": [entry]}
    (folder / MANIFEST).write_text(json.dumps(manifest))
    return folder


def test_each_stage_has_a_rate(cli, shards):
    words = ["--image_size=16", "--batch_size=8", "--num=30", "--repeats=2"]
    status, printed, _ = cli("bench", "input", f"--path={shards}", *words)
    assert status == 0
    report = json.loads(printed)
    stages = {"records", "decode", "bare", "pipeline"}
    assert report["pictures"] == 24
    assert set(report["images_per_second"]) == set(report["cpu_ms_per_picture"]) == stages
    assert all(len(rates) == 2 and min(rates) > 0 for rates in report["each"].values())
    shares = [
        p / b for p, b in zip(report["each"]["pipeline"], report["each"]["bare"], strict=True)
    ]
    assert report["pipeline_over_bare"] == pytest.approx(np.median(shares), abs=0.01)


@pytest.mark.parametrize(
    ("words", "line"), [(["--num=64"], "32 pictures"), (["--repeats=0"], "--repeats is 0")]
)
def test_a_wrong_flag_is_one_line(cli, shards, words, line):
    status, _, told = cli("bench", "input", f"--path={shards}", *words)
    assert status == 2 and line in told
