"""CAT's way from pictures to levels: errors of a nested VAE, a scorer trained on them, levels for
data and for words, with a network that nobody trained.
"""

import json

import numpy as np
import pytest

from babeldraw.complexity.base import Score
from babeldraw.complexity.baselines import JpegSize
from babeldraw.complexity.choosing import level_chooser
from babeldraw.complexity.regressor import RegressorRun
from babeldraw.data.complexity import LIST, LevelThresholds
from babeldraw.data.folder import FolderSource
from babeldraw.data.image import center_crop, save_png
from babeldraw.drawing.captioning import CaptionerRun
from babeldraw.drawing.prompts import read_prompts
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.models.condition import Asked

CODES = {"1": 384, "2": 96, "4": 24}
COUNT, SILENT = 24, 5


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Plain and noisy pictures that say so, but for one; two of them of other sizes."""
    folder, rng = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for number in range(COUNT):
        noise = (60 if number % 2 else 5) * rng.normal(size=(30, 28 + number % 3, 3))
        image = (128 + noise).clip(0, 255).astype(np.uint8)
        save_png(folder / f"{number:02d}.png", image)
        if number != SILENT:
            said = "noisy gravel" if number % 2 else "a plain wall"
            (folder / f"{number:02d}.txt").write_text(f"{said} of {'abc'[number % 3]}")
    return folder


def lines(file):
    return [json.loads(line) for line in file.read_text().splitlines()]


@pytest.fixture(scope="module")
def errors(untrained_vae, data, tmp_path_factory):
    """What `score measure` wrote."""
    file = tmp_path_factory.mktemp("errors") / "errors.jsonl"
    words = [f"--workdir={untrained_vae}", f"--path={data}", f"--out={file}", "--batch_size=7"]
    run("score", "measure", *words, "--compilation_cache=off")
    return file


@pytest.fixture(scope="module")
def regressor(errors, tmp_path_factory):
    folder = tmp_path_factory.mktemp("regressor") / "run"
    run("score", "train", f"--errors={errors}", f"--workdir={folder}", "--vocabulary_size=60")
    return folder


def run(*words):
    from babeldraw.cli import main

    with pytest.raises(SystemExit) as stopped:
        main([str(word) for word in words])
    assert stopped.value.code == 0


def asking(tmp_path, data, regressor, **more):
    given = {"workdir": regressor, "path": data, "scores": tmp_path / "scores.jsonl"} | more
    return ["score", *(f"--{name}={value}" for name, value in given.items())]


def test_errors_are_those_of_the_pictures_at_each_level(errors, untrained_vae, data):
    head, *rows = lines(errors)
    assert (head["codes"], head["measure"]) == (CODES, "mse")
    assert [row["record"] for row in rows] == [*range(COUNT)]
    assert rows[SILENT]["caption"] == "" and rows[0]["caption"] == "a plain wall of a"
    run = TokenizerRun.open(str(untrained_vae), level="2")
    image = FolderSource(data, "all")[3].image
    image = center_crop(image, run.image_size)
    found = np.clip(np.asarray(run.reconstruct(image[None])[0]), 0, 1)
    expected = np.square(found - image / np.float32(255)).mean()
    assert rows[3]["errors"]["2"] == pytest.approx(expected, rel=1e-4)


def test_measuring_goes_on_where_it_stopped(errors, untrained_vae, data, cli, tmp_path):
    whole = errors.read_text()
    file = tmp_path / "errors.jsonl"
    file.write_text("\n".join(whole.splitlines()[:12])[:-5])
    words = [
        f"--workdir={untrained_vae}",
        f"--path={data}",
        f"--out={file}",
        "--compilation_cache=off",
    ]
    words += ["--batch_size=7", "--compilation_cache=off"]
    status, _, said = cli("score", "measure", *words)
    assert status == 0 and f"errors of {COUNT} pictures at levels 1, 2, 4" in said
    found, expected = lines(file), lines(errors)
    for one, other in zip(found[1:], expected[1:], strict=True):
        assert one["errors"] == pytest.approx(other["errors"], rel=1e-4)
    status, _, said = cli("score", "measure", *words, "--network=alexnet")
    assert status == 2 and "--network=alexnet is of --perceptual, its weights; give both" in said
    status, _, said = cli("score", "measure", *words, "--size=16")
    assert status == 2 and "--size is the tokenizer's own here" in said


def test_a_target_s_levels_become_a_column(regressor, untrained_vae, data, cli, tmp_path):
    more = {"tokenizer": untrained_vae, "target": 96}
    status, _, said = cli(*asking(tmp_path, data, regressor, **more))
    assert status == 0, said
    assert f"1 of {COUNT} records have no score and go into level 1" in said
    rows = lines(data / LIST)
    assert "complexity" not in rows[SILENT] and rows[SILENT]["level"] == "1"
    scores = np.array([row.get("complexity", np.nan) for row in rows])
    noisy, plain = scores[1::2], scores[::2]
    assert np.nanmin(noisy) > np.nanmax(plain) and np.nanmin(scores) >= 1
    # Those with a score have the mean that was asked for, as near as equal scores allow.
    codes = np.array([CODES[row["level"]] for row in rows])
    assert abs(codes[np.isfinite(scores)].mean() - 96) < 60
    # The list that is written is read again, and neither captions nor scores change.
    source = FolderSource(data, "all", require_captions=False)
    assert source.levels.tolist() == [int(row["level"]) for row in rows]
    assert source[3].caption == "noisy gravel of a"
    assert cli(*asking(tmp_path, data, regressor, **more))[0] == 0
    assert lines(data / LIST) == rows
    # Scores alone, of another scorer, leave the levels where they are.
    by_jpeg = {"scorer": "jpeg", "scores": tmp_path / "jpeg.jsonl"}
    status, _, said = cli(*asking(tmp_path, data, regressor, **by_jpeg))
    assert status == 0 and "the data have levels, which scores alone would erase" in said, said
    assert lines(data / LIST) == rows and len(lines(tmp_path / "jpeg.jsonl")) == COUNT + 1


def test_thresholds_are_taken_as_they_are(regressor, untrained_vae, data, cli, tmp_path):
    more = {"tokenizer": untrained_vae, "thresholds": "2.5,5"}
    assert cli(*asking(tmp_path, data, regressor, **more))[0] == 0
    rows = [row for row in lines(data / LIST) if "complexity" in row]
    expected = [("4", "2", "1")[sum(row["complexity"] >= t for t in (2.5, 5))] for row in rows]
    assert [row["level"] for row in rows] == expected and {*expected} > {"4"}


def test_words_get_their_level_before_there_is_a_picture(
    regressor, untrained_vae, data, cli, tmp_path
):
    prompts, table = tmp_path / "prompts.txt", tmp_path / "levels.tsv"
    prompts.write_text('noisy gravel of a\na plain\twall of b\na "plain" wall, \'b\n')
    more = {"tokenizer": untrained_vae, "thresholds": "3,5", "prompts": prompts, "scores": table}
    status, _, said = cli(*asking(tmp_path, data, regressor, **more))
    assert status == 0 and "levels of 3 texts" in said, said
    found = read_prompts(str(table))
    texts = ["noisy gravel of a", "a plain wall of b", 'a "plain" wall, \'b']
    assert [prompt.text for prompt in found] == texts
    choose = level_chooser(RegressorRun.open(str(regressor)), LevelThresholds((*CODES,), (3, 5)))
    asked = [Asked(text, None, text=text) for text in texts]
    assert [prompt.level for prompt in found] == [*map(choose, asked)]
    assert found[0].level == "1" != found[1].level
    assert [row["caption"] for row in lines(tmp_path / "levels.tsv.jsonl")[1:]] == texts


class ByLength:
    """Scores captions by their words."""

    identity, reads_pictures = "length", False

    def score(self, records):
        return (Score(len(record.caption.split())) for record in records)


def test_a_class_is_drawn_at_the_level_of_its_name():
    levels = LevelThresholds((*CODES,), (5, 7))
    choose = level_chooser(ByLength(), levels, ("plain_wall", "a_gravel_path_by_night"))
    # a picture of plain wall; a picture of a gravel path by night
    assert [choose(Asked("", None, label=label)) for label in (0, 1)] == ["2", "1"]
    assert choose(Asked("a wall", None, text="a wall", label=1)) == "4"
    # Of what nobody says nothing is lost.
    assert choose(Asked("", None)) == choose(Asked("", None, label=7)) == "1"
    with pytest.raises(UserError, match="jpeg:75 scores pictures, and there is none before"):
        level_chooser(JpegSize(), levels)


def test_a_captioner_tells_what_has_no_caption(regressor, data, coca_run, cli, tmp_path):
    silent = FolderSource(data, "all", require_captions=False)[SILENT]
    (told,) = CaptionerRun.open(str(coca_run)).caption([silent.image])
    assert cli(*asking(tmp_path, data, regressor, captioner=coca_run))[0] == 0
    rows = {row["record"]: row for row in lines(tmp_path / "scores.jsonl")[1:]}
    assert len(rows) == COUNT and rows[SILENT]["caption"] == told.text != ""


def test_mistakes_are_one_line(regressor, untrained_vae, data, errors, cli, tmp_path):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a wall\n")
    table = {"prompts": prompts, "scores": tmp_path / "levels.tsv", "tokenizer": untrained_vae}
    for more, line in (
        (
            {"tokenizer": untrained_vae},
            "levels need --tokenizer and one of --thresholds and",
        ),
        ({"tokenizer": untrained_vae, "target": 12}, "a picture has 24 to 384"),
        ({"tokenizer": untrained_vae, "thresholds": "5,3"}, "2 ascending numbers are needed"),
        ({"tokenizer": untrained_vae, "thresholds": "a,b"}, "--thresholds=a,b: numbers, please"),
        ({"tokenizer": regressor, "target": 96}, "is a run of complexity"),
        ({"workdir": untrained_vae}, "is a run of image_tokenizer"),
        (table | {"target": 96}, "--target is of a data set"),
        ({"prompts": prompts}, "--prompts needs --tokenizer and --thresholds"),
        (table | {"thresholds": "3,5", "scores": "a.jsonl"}, "give it a name in .tsv"),
        (table | {"thresholds": "3,5", "scorer": "jpeg"}, "there is none before it is drawn"),
    ):
        status, _, said = cli(*asking(tmp_path, data, regressor, **more))
        assert status == 2 and line in said and said.count("\n") == 1, (more, said)
    words = ["score", "train", f"--errors={errors}", f"--workdir={regressor}"]
    status, _, said = cli(*words)
    assert status == 2 and "is not empty" in said
