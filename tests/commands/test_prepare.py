"""From a folder to shards to a trained tokenizer, by the commands that a user types."""

import builtins
import json

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pictures")
    for index in range(44):
        cells = np.random.default_rng(index).integers(0, 256, (5, 5, 3), np.uint8)
        image = Image.fromarray(cells).resize((40, 40), Image.Resampling.BICUBIC)
        image.save(folder / f"{index:02d}.jpg")
        (folder / f"{index:02d}.txt").write_text(f"some cells, {'very ' * (index % 3)}colourful")
    (folder / "43.jpg").write_bytes(b"junk")
    return folder


def prepare(cli, pictures, out, *words):
    return cli("prepare", f"--path={pictures}", f"--out={out}", "--shard_size=16", *words)


def test_a_folder_becomes_shards_and_a_line_says_what_was_left_out(cli, pictures, tmp_path):
    pytest.importorskip("apache_beam")
    status, _, told = prepare(cli, pictures, tmp_path / "out")
    assert status == 0
    assert "43 of 44 records in 3 shards" in told
    assert "1 left out: unreadable picture, the first 43.jpg" in told
    assert "--config.data.source=shards" in told
    assert json.loads((tmp_path / "out" / "manifest.json").read_text())["count"] == 43


@pytest.mark.slow
def test_prepared_pictures_train_a_tokenizer(cli, pictures, tmp_path, runlocal):
    pytest.importorskip("apache_beam")
    from babeldraw.train.loop import train

    assert prepare(cli, pictures, tmp_path / "out")[0] == 0
    config = runlocal("demo/tokenizer.py")
    config.data.source, config.data.path = "shards", str(tmp_path / "out")
    figures = train(config, str(tmp_path / "run"))
    assert np.isfinite(figures["reconstruction/psnr_db"])


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--side=0"], "--side=0 must lie between"),
        (["--source=zip"], "--source='zip' is unknown; use folder, webdataset"),
        (["--shard_size=0"], "--shard_size is 0"),
        (["--max_bad_share=2"], "--max_bad_share=2.0"),
        (["--fetch"], "--fetch_hosts is empty"),
        (["--source=list", "--split=train"], "--split=train is nothing to --source=list"),
    ],
)
def test_a_wrong_flag_is_one_line(cli, tmp_path, words, line):
    (tmp_path / "empty").mkdir()
    status, _, told = cli("prepare", f"--path={tmp_path / 'empty'}", f"--out={tmp_path}", *words)
    assert status == 2 and told.count("\n") == 1 and line in told


def test_without_apache_beam_a_line_says_what_to_install(cli, pictures, tmp_path, monkeypatch):
    whole = builtins.__import__

    def missing(name, *rest):
        if name == "apache_beam":
            raise ImportError("No module named 'apache_beam'")
        return whole(name, *rest)

    monkeypatch.setattr(builtins, "__import__", missing)
    status, _, told = prepare(cli, pictures, tmp_path / "out")
    assert status == 2 and "pip install 'babeldraw[prepare]'" in told
    assert not (tmp_path / "out").exists()
