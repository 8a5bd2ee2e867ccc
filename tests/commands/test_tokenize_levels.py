"""`babeldraw tokenize --level=all`: codes of each level, the column of levels, and the way back."""

import json

import numpy as np
import pytest

from babeldraw.cli import main
from babeldraw.data.image import decode, save_png
from babeldraw.data.levels import NO_LEVEL
from babeldraw.data.tokens import TokenSource
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.tokenizers.all_levels import CodesOfLevels

LEVELS = {"1": (16, 24, 3), "2": (8, 12, 3), "4": (4, 6, 3)}
COUNT = 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Pictures with levels, but for one that has none."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    rows = []
    for number in range(COUNT):
        name = f"{number}.png"
        save_png(folder / name, rng.integers(0, 256, (16, 24, 3)).astype(np.uint8))
        row = {"file": name, "caption": f"picture {number}", "level": [1, 2, 4][number % 3]}
        rows.append({**row, "level": None} if number == 3 else row)
    (folder / "list.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def words(untrained_vae, data):
    """Of the command, but for --level and --out."""
    words = [f"--workdir={untrained_vae}", f"--path={data}", "--batch_size=4", "--shard_size=2"]
    return ["tokenize", *words, "--compilation_cache=off"]


@pytest.fixture(scope="module")
def stored(words, tmp_path_factory):
    folder = tmp_path_factory.mktemp("stored") / "codes"
    with pytest.raises(SystemExit) as stopped:
        main([*words, "--level=all", f"--out={folder}"])
    assert stopped.value.code == 0
    return folder


def test_codes_are_those_of_each_level_and_levels_those_of_the_pictures(
    stored, untrained_vae, data
):
    source = TokenSource(stored, "all")
    assert source.stored_levels == tuple(LEVELS)
    assert source.levels.tolist() == [1, 2, 4, NO_LEVEL, 2]
    train, test = TokenSource(stored, "train"), TokenSource(stored, "test")
    assert sorted([*train.levels, *test.levels]) == sorted(source.levels)
    first = TokenizerRun.open(str(untrained_vae))
    levels = CodesOfLevels.of(first.tokenizer)
    assert source.tokenizer == first.identity
    images = np.stack([decode(data / f"{number}.png") for number in range(COUNT)])
    tokens = np.stack([source[number].tokens for number in range(COUNT)])
    shapes = {name: levels.of_level(tokens, name).shape[1:] for name in LEVELS}
    assert shapes == LEVELS
    second = TokenizerRun.open(str(untrained_vae), level="2")
    np.testing.assert_allclose(levels.of_level(tokens, "2"), second.encode(images), atol=1e-5)


def test_other_levels_and_other_columns_are_other_sets(stored, words, data, cli):
    status, _, said = cli(*words, f"--out={stored}", "--level=2")
    assert status == 2 and "holds tokens of tokenizer" in said
    rows = (data / "list.jsonl").read_text()
    (data / "list.jsonl").write_text(rows.replace('"level": 4', '"level": 1'))
    status, _, said = cli(*words, f"--out={stored}", "--level=all")
    (data / "list.jsonl").write_text(rows)
    assert status == 2 and "holds tokens of column" in said


def test_one_level_is_drawn_again(stored, untrained_vae, cli, tmp_path):
    words = [f"--workdir={untrained_vae}", f"--path={stored}", f"--out={tmp_path / 'seen'}"]
    words = ["tokenize", "--decode", *words, "--compilation_cache=off"]
    status, _, said = cli(*words, "--level=4")
    assert status == 0 and len([*(tmp_path / "seen").glob("*.png")]) == COUNT, said
    status, _, said = cli(*words, "--level=all")
    assert status == 2 and "--level=all does not go with --decode" in said
