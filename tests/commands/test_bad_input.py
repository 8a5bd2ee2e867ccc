"""What a user gets wrong: one clear line on stderr, exit status 2, no traceback."""

import json
import logging
import re
from pathlib import Path

import numpy as np
import pytest

from babeldraw.cli import main
from babeldraw.data.image import save_png
from babeldraw.errors import UserError

CONFIGS = Path(__file__).parents[2] / "configs"
TOKENIZER = f"--config={CONFIGS}/demo/tokenizer.py:runlocal"
GENERATOR = f"--config={CONFIGS}/demo/text_to_image.py:runlocal"


@pytest.fixture
def refused(cli):
    """`refused("train", ...)`: the one line in which a command says what is wrong."""

    def run(*words):
        status, _, said = cli(*words)
        assert status == 2, said
        (line,) = said.splitlines()
        assert line.startswith("babeldraw: error: ")
        return line.removeprefix("babeldraw: error: ")

    return run


@pytest.fixture
def pictures(tmp_path):
    """A folder of twelve pictures without captions."""
    folder, rng = tmp_path / "pictures", np.random.default_rng(0)
    for index in range(12):
        save_png(folder / f"{index}.png", rng.integers(0, 256, (40, 36, 3), np.uint8))
    return folder


# ------------------------------------------------------------------ words and flags


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["trian"], "'trian' is not a command; the commands are demo, train, sample, "),
        (["train", "--wordir=x"], "Unknown command line flag 'wordir'. Did you mean: workdir ?"),
        (["train", "--workdir=x"], "--config is missing; see --help for an example"),
        (["train", TOKENIZER], "--workdir is missing; see --help for an example"),
        (["train", TOKENIZER, "--workdir=x", "now"], "'now' is left over; flags look like --name="),
        (["sample", "--num=two"], "--num=two: a whole number is needed"),
        (["sample", "--temperature=hot"], "--temperature=hot: a number is needed"),
        (["sample", "--prompt=a"], "--workdir is missing; see --help for an example"),
        (["evaluate"], "--workdir is missing; see --help for an example"),
        (["vocabulary"], "--out is missing; see --help for an example"),
    ],
    ids=lambda value: " ".join(value[:2]) if isinstance(value, list) else "",
)
def test_a_word_that_means_nothing(refused, words, line):
    assert refused(*words).startswith(line)


def test_debug_shows_where(capsys):
    with pytest.raises(UserError, match="--config is missing"):
        main(["train", "--workdir=x", "--debug"])
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------ configs


@pytest.mark.parametrize(
    ("flag", "line"),
    [
        (
            "config.model.encoder.droput=0.1",
            'config.model.encoder.droput is not a field; did you mean "dropout"?',
        ),
        ("config.modle.encoder.dim=8", 'config.modle is not a field; did you mean "model"?'),
        ("config.train.zzz=8", "config.train.zzz is not a field"),
        ("config.train.steps=many", "--config.train.steps=many: a whole number is needed"),
        ("config.train.steps=1.5", "--config.train.steps=1.5: a whole number is needed"),
        ("config.condition.dropout=x", "--config.condition.dropout=x: a number is needed"),
        (
            "config.tokenizer.quantizer.l2_normalized=maybe",
            "--config.tokenizer.quantizer.l2_normalized=maybe: true or false is needed",
        ),
        ("config.train.steps=0", "config.train.steps is 0; at least 1 is needed"),
        ("config.tokenizer.image_size=64", "config.tokenizer.image_size is (64,); 2 values are"),
    ],
)
def test_a_field_that_does_not_fit(refused, tmp_path, flag, line):
    said = refused("train", GENERATOR, f"--workdir={tmp_path / 'run'}", f"--{flag}")
    assert said.startswith(line)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "parts"),
    [
        ("model.encoder.heads=3", ["dim is 32", "heads=3", "choose a multiple"]),
        ("model.decoder.dim=64", ["model.encoder.dim is 32", "model.decoder.dim 64"]),
        ("tokenizer.image_size=(32,36)", ["tokenizer.image_size is (32, 36)", "patch_size=8"]),
        ("tokenizer.patch_size=5", ["patch_size=5", "multiples of 5"]),
    ],
)
def test_sizes_that_do_not_go_together(refused, field, parts):
    line = refused("inspect", GENERATOR, f"--config.{field}")
    assert all(part in line for part in parts)


@pytest.mark.parametrize(
    ("size", "reason"),
    [
        (0, "is 0; at least 1 is needed"),
        (-8, "is -8; at least 1 is needed"),
        (2**31, f"is {2**31}; ids are int32, so below {2**31}"),
    ],
)
def test_a_codebook_that_cannot_be(refused, tmp_path, size, reason):
    for config in (TOKENIZER, GENERATOR):
        words = [
            f"--workdir={tmp_path / 'run'}",
            f"--config.tokenizer.quantizer.codebook_size={size}",
        ]
        line = refused("train", config, *words)
        assert line.startswith("config.tokenizer") and line.endswith(f"codebook_size {reason}")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("field", "line"),
    [
        ("super_resolution.factor=3", "super_resolution.factor is 3; a power of two is needed"),
        ("super_resolution.blocks=0", "super_resolution.blocks is 0; at least 1 is needed"),
        ("data.source=tokens", "config.data.source is 'tokens', which hold no pictures to learn"),
        ("loss.l2=-1", "config.loss.l2 is -1.0; at least 0 is needed"),
        ("loss.adversarial=0.1", "config.loss.adversarial is 0.1 and config.discriminator.kind is"),
        ("tokenizer_run=", "config.tokenizer_run is empty; name the run folder of a trained"),
        ("evaluators.upscaling.num_examples=0", "config.evaluators.upscaling.num_examples is 0"),
    ],
)
def test_super_resolution_that_cannot_be(refused, tmp_path, field, line):
    config = f"--config={CONFIGS}/demo/super_resolution.py:runlocal"
    said = refused("train", config, f"--workdir={tmp_path / 'run'}", f"--config.{field}")
    assert line in said
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("command", [["train"], ["compile", "--topology=v4:2x2x1"]])
def test_a_picture_is_enlarged_by_its_small_codes_which_stored_ones_are_not(
    refused, tmp_path, command
):
    config = f"--config={CONFIGS}/emoji/enlarger.py:runlocal"
    words = [f"--workdir={tmp_path / 'run'}"] if command == ["train"] else []
    said = refused(*command, config, *words, "--config.data.source=tokens")
    assert "config.data.source is 'tokens', which holds codes of one level" in said


def test_usage_is_counted_over_whole_batches(refused, tmp_path):
    words = [f"--workdir={tmp_path / 'run'}", "--config.evaluators.reconstruction.batch_size=100"]
    line = refused("train", TOKENIZER, *words)
    assert "usage_batch is 8, which batch_size=100 does not divide; choose" in line


def test_a_mesh_that_does_not_fit_the_devices(refused, tmp_path):
    line = refused("train", TOKENIZER, f"--workdir={tmp_path}", "--config.mesh.data=3")
    assert line.startswith("config.mesh needs data 3") and "there are 8" in line


@pytest.mark.parametrize("field", [[], ["--config.train.steps=3"]])
@pytest.mark.parametrize(("name", "reason"), [("none.py", "No such file"), (".", "Is a directory")])
def test_a_config_file_that_is_not_there(refused, tmp_path, name, reason, field):
    line = refused("train", f"--config={tmp_path / name}", "--workdir=x", *field)
    assert line.startswith("--config") and reason in line and str(tmp_path) in line


def test_a_config_file_that_is_no_python(refused, tmp_path):
    (tmp_path / "config.py").write_text("steps: 3\n  more: 4\n")
    line = refused("train", f"--config={tmp_path / 'config.py'}", "--workdir=x")
    assert line.startswith("--config") and "unexpected indent" in line


def test_a_variant_that_is_not_there(refused):
    line = refused("inspect", TOKENIZER.replace("runlocal", "huge"))
    assert line == "the config's argument is 'huge'; it may be runlocal, or nothing"


# ------------------------------------------------------------------ run folders


def foreign(folder, config=None):
    """A folder that is no run, with a file of its own."""
    folder.mkdir(exist_ok=True)
    (folder / "letter.txt").write_text("Dear Sir")
    if config is not None:
        (folder / "config.json").write_text(config)
    return folder


@pytest.mark.parametrize("command", [["sample", "--prompt=a"], ["evaluate"]])
def test_a_folder_without_a_run(refused, tmp_path, command):
    assert "does not exist; name one that train made" in refused(
        *command, f"--workdir={tmp_path / 'none'}"
    )
    for config, reason in (
        (None, "is not a run folder: it holds no config.json"),
        ("{", "is not JSON"),
        ('{"lr": 1}', "is not a babeldraw config: no field `objective`"),
    ):
        line = refused(*command, f"--workdir={foreign(tmp_path / 'letters', config)}")
        assert reason in line and str(tmp_path / "letters") in line


def test_a_folder_that_is_not_for_training(refused, tmp_path):
    train = ["train", TOKENIZER]
    line = refused(*train, f"--workdir={foreign(tmp_path / 'letters')}")
    assert line.endswith("letters is not empty and holds no config.json; give another workdir")
    file = tmp_path / "letters" / "letter.txt"
    assert refused(*train, f"--workdir={file}") == f"workdir={file} is a file; name a folder"
    assert f"Not a directory: '{file}/run'" in refused(*train, f"--workdir={file}/run")
    other = foreign(tmp_path / "other", '{"lr": 1}')
    line = refused(*train, f"--workdir={other}")
    assert "is not a babeldraw config" in line


def test_a_run_that_has_no_checkpoint_yet(refused, tokenizer_run, generator_run, tmp_path):
    for run, command in ((tokenizer_run, ["evaluate"]), (generator_run, ["sample", "--prompt=a"])):
        folder = tmp_path / run.name
        folder.mkdir()
        for name in ("config.json", "text.model"):
            if (run / name).exists():
                (folder / name).write_bytes((run / name).read_bytes())
        assert "holds no checkpoint; train the run first" in refused(
            *command, f"--workdir={folder}"
        )


def test_a_tokenizer_does_not_draw_from_text(refused, tokenizer_run):
    line = refused("sample", f"--workdir={tokenizer_run}", "--prompt=a")
    assert "is a run of image_tokenizer; name one of generator" in line


def test_an_evaluator_that_the_run_does_not_have(refused, tokenizer_run):
    line = refused("evaluate", f"--workdir={tokenizer_run}", "--evaluators=fid,reconstruction")
    assert line.startswith("evaluators names fid; ") and line.endswith(
        " are reconstruction, outlines, rfd"
    )


def test_another_config_in_the_folder_of_a_run(refused, tokenizer_run):
    words = [f"--workdir={tokenizer_run}", "--config.tokenizer.quantizer.codebook_size=128"]
    line = refused("train", TOKENIZER, *words)
    assert (
        "was trained with config.tokenizer.quantizer.codebook_size = 64 and now it is 128" in line
    )


def test_a_generator_without_its_tokenizer(refused, tokenizer_run, generator_run, tmp_path):
    def line(run, *more):
        words = [f"--workdir={tmp_path / 'run'}", f"--config.tokenizer_run={run}"]
        return refused("train", GENERATOR, *words, *more)

    assert line("").startswith("config.tokenizer_run is empty; name the run folder of a trained")
    assert "none does not exist; name one that train made" in line(tmp_path / "none")
    assert "a run of generator; name one that trained a tokenizer" in line(generator_run)
    other = line(tokenizer_run, "--config.tokenizer.quantizer.codebook_size=128")
    assert other.startswith("config.tokenizer.quantizer.codebook_size is 128 but ")
    whole = "or all as there, by --config.tokenizer=None"
    assert other.endswith(f" was trained with 64; set 64, {whole}")
    larger = line(tokenizer_run, "--config.tokenizer.image_size=(64,64)")
    assert larger.startswith("config.tokenizer.image_size is [64, 64] but ")
    assert larger.endswith(f" was trained with [32, 32]; set [32, 32], {whole}")
    assert line("", "--config.tokenizer=None").startswith("config.tokenizer_run is empty; name")
    assert "a run of generator; name" in line(generator_run, "--config.tokenizer=None")
    both = line(tokenizer_run, "--config.tokenizer=None", "--config.tokenizer.quantizer.code_dim=9")
    assert both.endswith("as it is; leave out --config.tokenizer.quantizer.code_dim=9")
    # Nothing is left to refuse but what is asked beside it.
    assert "batch_size is 0" in line(
        tokenizer_run, "--config.tokenizer=None", "--config.train.batch_size=0"
    )
    # All this is known before the vocabulary is trained or anything compiled.
    assert not (tmp_path / "run").exists()


# ------------------------------------------------------------------ prompts and settings


@pytest.mark.parametrize(
    ("words", "line"),
    [
        ([], "nothing to draw is given; the run draws from a text"),
        (["--prompts=EMPTY"], "EMPTY holds no prompt; write one per line"),
        (["--prompts=NONE"], "cannot be read: [Errno 2] No such file"),
        (["--prompt=a", "--num=0"], "--num is 0; at least 1 is needed"),
        (["--prompt=a", "--batch_size=0"], "--batch_size is 0; at least 1 is needed"),
        (["--prompt=a", "--seed=-1"], "--seed is -1; at least 0 is needed"),
        (["--prompt=a", f"--seed={2**31}"], f"--seed is {2**31}; at most {2**31 - 1} is needed"),
        (["--prompt=a", "--temperature=-0.1"], "temperature is -0.1; at least 0 is needed"),
        (["--prompt=a", "--temperature=nan"], "temperature is nan; at least 0 is needed"),
        (["--prompt=a", "--top_k=-1"], "top_k is -1; at least 0 is needed (0 keeps all)"),
        (["--prompt=a", "--top_p=2"], "top_p is 2.0; a mass in (0, 1] is needed"),
        (["--prompt=a", "--top_p=0"], "top_p is 0.0; a mass in (0, 1] is needed"),
        (["--prompt=a", "--out=FILE"], "FILE cannot be made: [Errno 17] File exists"),
        (["--prompt=a", "--out=FILE/b"], "FILE/b cannot be made: [Errno 20] Not a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_drawn(refused, generator_run, tmp_path, monkeypatch, words, line):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "EMPTY").write_text("\n  \n")
    (tmp_path / "FILE").write_text("a file")
    assert line in refused("sample", f"--workdir={generator_run}", *words)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["EMPTY", "FILE"]


@pytest.mark.slow
def test_a_prompt_that_is_too_long_is_cut_and_said_so(cli, generator_run, tmp_path):
    prompt = "a small red circle " * 40
    words = [f"--workdir={generator_run}", f"--prompt={prompt}", f"--out={tmp_path}"]
    status, _, said = cli("sample", *words)
    assert status == 0
    text_length = json.loads((generator_run / "config.json").read_text())["condition"]["length"]
    assert re.match(
        rf"the prompt has \d+ tokens and is cut to {text_length}: 'a small red circle", said
    )
    assert json.loads((tmp_path / "manifest.jsonl").read_text())["prompt"] == prompt


# ------------------------------------------------------------------ data and places to write


def test_a_folder_that_cannot_teach(refused, tmp_path, pictures):
    def train(path):
        words = [f"--workdir={tmp_path / 'run'}", f"--config.data.path={path}"]
        return refused("train", f"--config={CONFIGS}/folder/tokenizer.py", *words)

    assert train("") == "data.path='' is not a folder; give a folder of pictures or a .zip"
    assert "none' is not a folder" in train(tmp_path / "none")
    assert "holds no pictures (.jpg, .png" in train(foreign(tmp_path / "letters"))
    vocabulary = ["--source=folder", f"--out={tmp_path / 'text.model'}"]
    line = refused("vocabulary", *vocabulary, f"--path={pictures}")
    assert "holds 12 pictures but no captions; put NAME.txt beside each" in line
    line = refused("vocabulary", "--source=foldr", f"--out={tmp_path / 'text.model'}")
    assert line.startswith("data.source='foldr' is unknown; use ")
    assert not (tmp_path / "text.model").exists()


@pytest.mark.slow
def test_a_broken_picture_is_skipped_and_named_once(cli, tmp_path, pictures, caplog):
    broken = pictures / "broken.png"
    broken.write_bytes((pictures / "3.png").read_bytes()[:100])
    words = [f"--workdir={tmp_path / 'run'}", "--config.data.source=folder"]
    words += [f"--config.data.path={pictures}", "--config.train.steps=5"]
    with caplog.at_level(logging.WARNING):
        status, _, said = cli("train", TOKENIZER, *words)
    assert status == 0
    (message,) = [message for message in caplog.messages if "bad record" in message]
    assert message.startswith(f"bad record skipped: {broken}: ")
    assert "train: 1 records could not be read and were skipped" in said
    assert json.loads((tmp_path / "run" / "report.json").read_text())["step"] == 5


def test_a_place_where_nothing_can_be_written(refused, tmp_path, pictures, tokenizer_run):
    (tmp_path / "file").write_text("a file")
    for picture in [*pictures.iterdir()]:
        picture.with_suffix(".txt").write_text("a red circle")
    for words in (
        ["evaluate", f"--workdir={tokenizer_run}"],
        ["vocabulary", f"--path={pictures}", "--split=all"],
    ):
        line = refused(*words, f"--out={tmp_path}/file/out")
        assert f"{tmp_path}/file" in line and re.search("Not a directory|File exists", line)
