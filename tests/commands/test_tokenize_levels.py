"""`babeldraw tokenize --level=all`: codes of each level, the column of levels, and the way back."""

import json

import numpy as np
import pytest

from babeldraw.data.image import save_png
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


@pytest.fixture
def stored(untrained_vae, data, cli, tmp_path):
    words = [f"--workdir={untrained_vae}", f"--path={data}", "--batch_size=4", "--shard_size=2"]
    words = ["tokenize", *words, "--compilation_cache=off", f"--out={tmp_path / 'codes'}"]
    status, _, said = cli(*words, "--level=all")
    assert status == 0, said
    return tmp_path / "codes", words


def test_codes_of_each_level_are_those_of_the_pictures(stored, untrained_vae, data, cli, tmp_path):
    folder, words = stored
    source = TokenSource(folder, "all")
    assert source.stored_levels == tuple(LEVELS)
    assert source.levels.tolist() == [1, 2, 4, NO_LEVEL, 2]
    train, test = TokenSource(folder, "train"), TokenSource(folder, "test")
    assert sorted([*train.levels, *test.levels]) == sorted(source.levels)
    runs = {name: TokenizerRun.open(str(untrained_vae), level=name) for name in LEVELS}
    levels = CodesOfLevels.of(runs["1"].tokenizer)
    assert source.tokenizer == runs["1"].identity
    images = np.stack([_picture(data, number) for number in range(COUNT)])
    tokens = np.stack([source[number].tokens for number in range(COUNT)])
    for name, run in runs.items():
        own = levels.of_level(tokens, name)
        assert own.shape == (COUNT, *LEVELS[name])
        np.testing.assert_allclose(own, run.encode(images), atol=1e-5)
    status, _, said = cli(*words, "--level=2")
    assert status == 2 and "holds tokens of tokenizer" in said
    # Another column is another set.
    rows = (data / "list.jsonl").read_text()
    (data / "list.jsonl").write_text(rows.replace('"level": 4', '"level": 1'))
    status, _, said = cli(*words, "--level=all")
    (data / "list.jsonl").write_text(rows)
    assert status == 2 and "holds tokens of column" in said
    # The way back, at a level.
    out = tmp_path / "seen"
    words = [f"--workdir={untrained_vae}", f"--path={folder}", f"--out={out}", "--level=4"]
    status, _, said = cli("tokenize", "--decode", *words, "--compilation_cache=off")
    assert status == 0 and len([*out.glob("*.png")]) == COUNT, said
    status, _, said = cli("tokenize", "--decode", *words[:-1], "--level=all")
    assert status == 2 and "--level=all does not go with --decode" in said


def _picture(data, number):
    from PIL import Image

    return np.asarray(Image.open(data / f"{number}.png"))
