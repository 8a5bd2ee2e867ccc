"""Runs of a nested VAE: every level is judged, stored, given back, and drawn into."""

import json

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.image import save_png
from babeldraw.data.tokens import TokenSource
from babeldraw.drawing.sampler import Sampler
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.train.presets import load_config

# Of 32 px at 8, 16 and 32 pixels to a code.
SIDES = {"8": 4, "16": 2, "32": 1}


@pytest.fixture(scope="module")
def tokenizer_run(runlocal, trained_once):
    """The folder of a finished run of configs/emoji/cat.py:runlocal."""
    return trained_once("nested_vae", runlocal("emoji/cat.py"))


@pytest.mark.slow
@pytest.mark.budget(40)
def test_every_level_is_judged(tokenizer_run, cli):
    report = json.loads((tokenizer_run / "report.json").read_text())
    names = ("reconstruction", "reconstruction_16", "reconstruction_32")
    figures = [report[f"{name}/psnr_db"] for name in names]
    assert len({*figures}) == 3 and all(np.isfinite(figures))
    words = [f"--workdir={tokenizer_run}", "--evaluators=reconstruction"]
    status, out, said = cli("evaluate", *words)
    assert status == 0, said
    found = json.loads(out)
    assert [found[f"{name}/psnr_db"] for name in names] == pytest.approx(figures, rel=1e-4)
    kept = [path.name for path in (tokenizer_run / "evaluations").iterdir()]
    assert all(any(name.startswith(f"{each}_0") for name in kept) for each in names)


@pytest.mark.slow
@pytest.mark.budget(40)
@pytest.mark.parametrize("level", SIDES)
def test_a_level_is_stored_and_given_back(tokenizer_run, cli, tmp_path, level):
    words = [f"--workdir={tokenizer_run}", f"--level={level}"]
    status, _, said = cli("reconstruct", *words, "--num=2", f"--out={tmp_path / 'pictures'}")
    assert status == 0, said
    assert len([*(tmp_path / "pictures").glob("*.png")]) >= 2
    source = ["--source=shapes", "--split=train", "--num=8"]
    status, _, said = cli("tokenize", *words, *source, f"--out={tmp_path / 'codes'}")
    assert status == 0, said
    run = TokenizerRun.open(str(tokenizer_run), level=level)
    stored = TokenSource(tmp_path / "codes", "all")
    assert stored[3].tokens.shape == (SIDES[level], SIDES[level], 8)
    picture, _ = shapes.example(3, "train", run.image_size[0], 0)
    np.testing.assert_allclose(stored[3].tokens, run.encode(picture[None])[0], atol=1e-3)


def scored(folder, levels):
    """Pictures with the list that `babeldraw score` writes."""
    folder.mkdir()
    rng, rows = np.random.default_rng(0), []
    for number, level in enumerate(levels):
        save_png(folder / f"{number}.png", rng.integers(0, 256, (32, 32, 3), np.uint8))
        rows.append({"file": f"{number}.png", "caption": "noise"})
        rows[-1] |= {} if level is None else {"complexity": 5.0, "level": level}
    (folder / "complexity.jsonl").write_text("\n".join(map(json.dumps, rows)))
    section = {"source": "folder", "path": folder, "split": "all", "eval_split": "all"}
    return [f"--config.data.{name}={value}" for name, value in section.items()]


def training(tmp_path, *words):
    out = ["--config=configs/emoji/cat.py:runlocal", f"--workdir={tmp_path / 'run'}"]
    evaluators = "--config.evaluators.reconstruction=None"
    return ["train", *out, "--config.tokenizer.routing=data", evaluators, *words]


@pytest.mark.slow
@pytest.mark.budget(40)
def test_pictures_are_trained_at_the_level_of_their_caption(cli, tmp_path):
    data = scored(tmp_path / "data", [8, 16, 32, None] * 20)
    status, _, said = cli(*training(tmp_path, *data))
    assert status == 0, said
    assert "20 of level 8, 20 of level 16, 20 of level 32; of 20 it is drawn" in said
    assert (tmp_path / "run" / "report.json").exists()


@pytest.mark.parametrize(
    ("levels", "line"),
    [
        ([None] * 8, "has no column level, which config.tokenizer.routing='data' goes by; "),
        ([8, 64], "is 64 in record 1 and the tokenizer has the levels 8, 16, 32; write one of"),
    ],
)
def test_data_that_name_no_level_to_train_at_are_told(cli, tmp_path, levels, line):
    status, _, said = cli(*training(tmp_path, *scored(tmp_path / "data", levels)))
    assert status == 2 and line in said and said.strip().count("\n") == 0, said
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_level_that_is_not_there_is_told(tokenizer_run, cli, tmp_path):
    words = [f"--workdir={tokenizer_run}", "--level=4", f"--out={tmp_path}"]
    status, _, said = cli("reconstruct", *words)
    assert status == 2 and "level is '4'; tokenizer.kind=nested_vae has 8, 16, 32" in said


@pytest.mark.slow
@pytest.mark.budget(60)
def test_a_generator_draws_into_one_level(tokenizer_run, runlocal, trained_once):
    config = runlocal("emoji/cat_dit.py")
    assert config.level == "16"
    config.tokenizer_run = str(tokenizer_run)
    folder = trained_once("nested_vae_dit", config)
    (drawn,) = Sampler.from_run(str(folder)).sample(["a small red circle"])
    # 2 x 2 codes of 8 channels.
    assert drawn.tokens.size == 32
    assert drawn.image.shape == (32, 32, 3)


@pytest.fixture(scope="module")
def of_all_levels(tokenizer_run, trained_once):
    """The folder of a finished run of configs/emoji/cat_dit.py:all."""
    config = load_config("configs/emoji/cat_dit.py", "pyproject.toml", "all,runlocal")
    assert config.levels.packed and config.levels.counts == (1, 2, 1)
    config.tokenizer_run = str(tokenizer_run)
    # A group of four pictures for each of the tests' devices.
    config.train.batch_size = 32
    return trained_once("nested_vae_dit_all", config)


@pytest.mark.slow
@pytest.mark.budget(90)
def test_one_run_draws_into_all_levels(of_all_levels, cli, tmp_path):
    report = json.loads((of_all_levels / "report.json").read_text())
    losses = [report[f"validation{end}/loss"] for end in ("", "_8", "_32")]
    assert len({*losses}) == 3 and all(np.isfinite(losses))
    sampler = Sampler.from_run(str(of_all_levels))
    # By what is asked, as a score of the text would say.
    levels = {"a red circle": "8", "a blue square": "32"}
    drawn = [*sampler.sample([*levels], level_of=lambda asked: levels[asked.text])]
    assert [picture.tokens.shape[0] for picture in drawn] == [4, 1]
    assert [picture.level for picture in drawn] == ["8", "32"]
    # By a column of the prompts' table, and by the flag.
    table = tmp_path / "prompts.tsv"
    table.write_text("Prompt\tLevel\na red circle\t8\na blue square\t\n")
    for number, (words, expected) in enumerate(
        [([f"--prompts={table}"], ["8", "16"]), (["--level=32", f"--prompts={table}"], ["32"] * 2)]
    ):
        out = tmp_path / str(number)
        status, _, said = cli("sample", f"--workdir={of_all_levels}", *words, f"--out={out}")
        assert status == 0, said
        lines = (out / "manifest.jsonl").read_text().splitlines()
        found = [json.loads(line) for line in lines]
        assert [line["level"] for line in found if "level" in line and "prompt" in line] == expected


@pytest.mark.slow
@pytest.mark.budget(60)
def test_a_level_that_a_generator_does_not_draw_into_is_told(of_all_levels, cli, tmp_path):
    words = ["--prompt=a red circle", f"--out={tmp_path / 'pictures'}"]
    status, _, said = cli("sample", f"--workdir={of_all_levels}", "--level=64", *words)
    assert status == 2 and "level is '64'; tokenizer.kind=nested_vae has 8, 16, 32" in said
    table = tmp_path / "prompts.tsv"
    table.write_text("Prompt\tLevel\na red circle\t16\na blue square\t9\n")
    words[0] = f"--prompts={table}"
    status, _, said = cli("sample", f"--workdir={of_all_levels}", *words)
    assert status == 2 and "level is '9'; tokenizer.kind=nested_vae has 8, 16, 32" in said
    assert not (tmp_path / "pictures").exists()
