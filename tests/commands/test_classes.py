"""Classes from the command line: pictures, prefixes, features, probes, and what is refused."""

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.image import decode, read_png_text, save_png
from babeldraw.drawing.classifier_judge import ClassifierJudge
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.judges.classifier import Classifier, ClassifierConfig
from babeldraw.models.condition import Lexicon
from babeldraw.models.conditions import ClassCondition
from babeldraw.train.understanding import FeaturesRun

CONFIGS = Path(__file__).parents[2] / "configs"


@pytest.fixture(scope="module")
def sampler(vim_run):
    return Sampler.from_run(str(vim_run))


@pytest.fixture(scope="module")
def picture():
    return shapes.pair_example(0, "test", 32, 0)[0]


@pytest.mark.slow
def test_pictures_of_classes_carry_how_to_draw_them_again(cli, vim_run, sampler, tmp_path):
    words = [f"--workdir={vim_run}", f"--out={tmp_path}", "--class=3,none", "--num=2", "--seed=5"]
    assert cli("sample", *words, "--temperature=0.5")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [(line["class"], line["seed"]) for line in lines] == [(3, 5), (3, 6), (48, 5), (48, 6)]
    text = read_png_text(tmp_path / lines[1]["file"])
    assert (text["class"], text["seed"], text["temperature"]) == ("3", "6", "0.5")
    assert decode(tmp_path / "grid.png").shape == (64, 64, 3)
    # Alone, in another batch: the same tokens, and the picture but for the rounding of a level,
    # as docs/sampling.md says: matrix products round by the size of a batch.
    settings = _settings(sampler, temperature=0.5)
    (alone,) = sampler.sample(["3"], 1, 6, settings, batch_size=1)
    _, beside = sampler.sample(["3"], 2, 5, settings, batch_size=4)
    np.testing.assert_array_equal(alone.tokens, beside.tokens)
    drawn = decode(tmp_path / lines[1]["file"]).astype(int)
    assert abs(alone.image.astype(int) - drawn).max() <= 1


def _settings(sampler, **changes):
    return dataclasses.replace(sampler.defaults, **changes)


@pytest.mark.slow
def test_a_prefix_is_kept_exactly(cli, vim_run, sampler, picture, tmp_path):
    drawer = sampler.drawer
    length = drawer.generator.codes.length
    encoded = drawer.encode(picture)
    for count in (0, 5, length):
        drawn = list(sampler.sample(["1"], 2, 0, canvas=drawer.canvas(picture, count=count)))
        for one in drawn:
            np.testing.assert_array_equal(one.tokens[:count], encoded[:count])
        if count < length:
            assert (drawn[0].tokens != drawn[1].tokens).any()
    save_png(tmp_path / "picture.png", picture)
    words = [f"--workdir={vim_run}", f"--out={tmp_path / 'out'}", "--class=none"]
    assert cli("sample", *words, f"--image={tmp_path / 'picture.png'}", "--rows=3")[0] == 0
    line = json.loads((tmp_path / "out" / "manifest.jsonl").read_text())
    assert (line["class"], line["rows"]) == (48, 3)
    # Three of four rows are kept, in the picture's own pixels.
    kept = 3 * len(picture) // 4
    np.testing.assert_array_equal(decode(tmp_path / "out" / line["file"])[:kept], picture[:kept])


def test_a_class_is_asked_for_by_its_name(cli, vim_run, sampler, tmp_path):
    assert sampler.lexicon.classes == tuple(" ".join(pair) for pair in shapes.PAIRS)
    words = [
        f"--workdir={vim_run}",
        f"--out={tmp_path}",
        f"--class={sampler.lexicon.classes[5]},#2",
    ]
    assert cli("sample", *words)[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [line["class"] for line in lines] == [5, 2]
    assert [line["name"] for line in lines] == [
        sampler.lexicon.classes[5],
        sampler.lexicon.classes[2],
    ]
    assert lines[0]["file"] == f"00000_class-5-{'-'.join(shapes.PAIRS[5])}_seed0.png"


def labels(words, names):
    condition, lexicon = ClassCondition(5), Lexicon(classes=names)
    words = condition.asked_by({"class": words}, lexicon)
    return [int(condition.ask(word, lexicon).row) for word in words]


def test_a_name_that_could_be_a_number_is_not_guessed():
    names = ("1", "2", "3", "none", "cat")
    assert labels(["cat", "#1", "0", "3", "all"], ("0", "1", "2", "3", "cat")) == [
        *(4, 1, 0, 3),
        *range(5),
    ]
    assert labels(["#1", "4", "#5"], names) == [1, 4, 5]
    for word, said in (
        (
            "1",
            "the class '1' is the name of class 0 and something else besides; write #0 for that ",
        ),
        ("none", "is the name of class 3 and something else besides; write #3 for that class"),
        (
            "bat",
            "the class 'bat' is not there: a name (such as cat), a number or none is needed",
        ),
    ):
        with pytest.raises(UserError, match=re.escape(said)):
            labels([word], names)


def test_a_judge_of_the_same_classes_in_another_order_is_refused():
    config = ClassifierConfig(2, (8, 8))
    judge = ClassifierJudge(Classifier(config), None, ("cat", "dog"))
    judge.check_knows(2, ("cat", "dog"), "runs/judge")
    judge.check_knows(2, (), "runs/judge")
    with pytest.raises(UserError, match="runs/judge knows class 0 as 'cat' and the model as 'dog'"):
        judge.check_knows(2, ("dog", "cat"), "runs/judge")


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--class=49"], "class '49' is not there; the model knows 0 to 47, or 48 for no class"),
        (["--class=cat"], "class 'cat' is not there: a name (such as red circle, "),
        (
            ["--class=1", "--prompt=a"],
            "a text is given and the run draws from a class; leave it out",
        ),
        (["--class=1", "--keep=1"], "nothing says which are best; give --judge"),
        ([], "nothing to draw is given; the run draws from a class"),
    ],
)
def test_what_cannot_be_drawn_is_told(cli, vim_run, tmp_path, words, said):
    out = tmp_path / "out"
    status, _, told = cli("sample", f"--workdir={vim_run}", f"--out={out}", *words)
    assert status == 2 and said in told and told.count("\n") == 1
    assert not out.exists()


def test_a_prefix_longer_than_the_picture_is_told(cli, vim_run, sampler, picture, tmp_path):
    length = sampler.drawer.generator.codes.length
    with pytest.raises(UserError, match=f"{length + 1} tokens are to be kept and a picture has"):
        sampler.drawer.canvas(picture, count=length + 1)
    save_png(tmp_path / "picture.png", picture)
    words = [f"--workdir={vim_run}", "--class=1", f"--image={tmp_path / 'picture.png'}"]
    status, _, told = cli("sample", *words, "--rows=9")
    assert status == 2 and "rows is 9; a picture has 4 rows of tokens" in told


@pytest.mark.slow
def test_features_go_to_a_file(cli, vim_run, tmp_path):
    out = tmp_path / "new" / "features.npz"
    words = [f"--workdir={vim_run}", "--block=1", "--num=5", "--batch_size=2", f"--out={out}"]
    assert cli("features", *words)[0] == 0
    with np.load(out, allow_pickle=False) as arrays:
        found = dict(arrays)
    pictures = [shapes.pair_example(i, "test", 32, 0) for i in range(5)]
    run = FeaturesRun.open(str(vim_run))
    expected = run.features(np.stack([image for image, _, _ in pictures]), 1)
    np.testing.assert_allclose(found["features"], expected, atol=1e-5)
    assert found["features"].dtype == np.float32 and len(found["features"]) == 5
    assert [*found["label"]] == [label for _, _, label in pictures]
    assert [*found["caption"]] == [caption for _, caption, _ in pictures]
    with pytest.raises(UserError, match="block 2 is not there; the blocks are 1 to 1"):
        run.features(np.zeros((1, 32, 32, 3), np.uint8), 2)


@pytest.mark.slow
def test_a_probe_prints_a_line_per_block(cli, vim_run, tmp_path):
    out = tmp_path / "probe.json"
    words = [f"--workdir={vim_run}", "--num_train=64", "--num_test=32", "--epochs=2"]
    status, printed, told = cli("probe", *words, "--pixels=8", f"--out={out}")
    assert status == 0, told
    lines = printed.strip().splitlines()
    assert [line.split("top-1")[0].strip() for line in lines[:-1]] == [
        "block 00",
        "block 01",
        "pixels",
    ]
    assert lines[-1].startswith("best: block ")
    assert "was trained from a class" in told
    figures = json.loads(out.read_text())
    assert 0 <= figures["linear_probe/top1_block_01"] <= figures["linear_probe/top5_block_01"] <= 1
    assert [*(vim_run / "samples").glob("linear_probe_curve_*.png")]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["features", "--block=9"], "block 9 is not there; the blocks are 1 to 1"),
        (["features", "--block=1", "--out=features.txt"], "must end in .npz"),
        (["features"], "--block is missing"),
        (["probe", "--blocks=9"], "blocks holds 9; the blocks are 1 to 1"),
        (["probe", "--blocks=x"], "--blocks=x: whole numbers separated by commas"),
        (["probe", "--epochs=0"], "linear_probe.epochs is 0; at least 1"),
    ],
)
def test_features_and_probes_refuse_in_one_line(cli, vim_run, words, said):
    status, _, told = cli(words[0], f"--workdir={vim_run}", *words[1:])
    assert status == 2 and said in told


def test_runs_of_another_kind_are_refused(cli, tokenizer_run):
    for words in (["features", "--block=1"], ["probe"], ["sample", "--class=1"]):
        status, _, told = cli(words[0], f"--workdir={tokenizer_run}", *words[1:])
        assert status == 2 and "is a run of image_tokenizer" in told


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            ["--config.condition.num_classes=47"],
            "num_classes is 47 and shape_pairs/train/32px/seed0 has 48 classes; set 48",
        ),
        (["--config.data.source=shapes"], "has no classes; name data with some"),
        (
            ["--config.evaluators.samples.ask=('1','99')"],
            "the class '99' is not there; the model knows 0 to 47",
        ),
        (
            ["--config.evaluators.class_accuracy.classifier_run=nowhere"],
            "the run folder nowhere does not exist",
        ),
        (
            ["--config.condition.dropout=0", "--config.sampling.guidance=2"],
            "config.sampling.guidance is 2.0 and config.condition.dropout 0: no",
        ),
    ],
)
def test_a_config_of_other_classes_is_refused(cli, tokenizer_run, tmp_path, changes, said):
    words = [f"--config={CONFIGS}/digits/vim.py:runlocal", f"--workdir={tmp_path / 'run'}"]
    words += [f"--config.tokenizer_run={tokenizer_run}", "--config.tokenizer.patch_size=8"]
    status, _, told = cli("train", *words, *changes)
    assert status == 2 and said in told
