"""Prompts to pictures: each a function of its prompt, seed and settings, which its file carries."""

import dataclasses
import itertools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from babeldraw.commands.sample import _by_column
from babeldraw.data.image import decode, read_png_text, save_png
from babeldraw.drawing.album import slug as slug_of
from babeldraw.drawing.judging import open_judge
from babeldraw.drawing.prompts import Prompt
from babeldraw.drawing.sampler import Sampler
from babeldraw.errors import UserError
from babeldraw.models.condition import Asked
from babeldraw.prediction.logits import SamplingConfig

PROMPTS = ["a small red circle on a white background", "two green rings", ""]


@pytest.fixture
def sample(cli, generator_run, tmp_path):
    """`sample("--num=2", ...)`: the lines of the manifest, each with its picture and PNG text."""
    folders = map(str, itertools.count())

    def run(*words):
        out = tmp_path / next(folders)
        status, _, said = cli("sample", f"--workdir={generator_run}", f"--out={out}", *words)
        assert status == 0, said
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().split("\n")[:-1]]
        pictures = {line["file"] for line in lines}
        assert {path.name for path in out.iterdir()} == {
            "manifest.jsonl",
            "settings.json",
            "grid.png",
        } | pictures
        for line in lines:
            line["image"] = decode(out / line["file"])
            line["text"] = read_png_text(out / line["file"])
        return lines

    return run


def pixels(lines):
    return np.stack([line["image"] for line in lines])


def assert_same(images, others):
    """Equal up to the rounding of a level: products of matrices round by the size of a batch."""
    np.testing.assert_allclose(images.astype(int), others.astype(int), atol=1)
    assert np.mean(images != others) < 1e-3


@pytest.mark.slow
def test_tokens_do_not_depend_on_the_batch_around_them(generator_run):
    sampler = Sampler.from_run(str(generator_run))
    drawn = [
        [picture.tokens for picture in sampler.sample(PROMPTS, 2, 7, batch_size=size)]
        for size in (1, 2, 4, 16)
    ]
    for other in drawn[1:]:
        np.testing.assert_array_equal(drawn[0], other)
    assert len(np.unique(drawn[0], axis=0)) == 6


@pytest.mark.slow
def test_each_thing_may_have_a_seed_of_its_own(generator_run):
    sampler = Sampler.from_run(str(generator_run))
    apart = [*sampler.sample(PROMPTS, 2, seed=[7, 3, 5], batch_size=4)]
    assert [picture.seed for picture in apart] == [7, 8, 3, 4, 5, 6]
    for place, prompt in enumerate(PROMPTS):
        alone = sampler.sample([prompt], 2, seed=[7, 3, 5][place], batch_size=4)
        for one, other in zip(alone, apart[2 * place : 2 * place + 2], strict=True):
            np.testing.assert_array_equal(one.tokens, other.tokens)
    with pytest.raises(UserError, match="seed holds 2 numbers and 3 things are to be drawn"):
        sampler.sample(PROMPTS, seed=[7, 3])


@pytest.mark.slow
def test_a_picture_does_not_depend_on_the_batch_around_it(sample):
    words = [f"--prompt={prompt}" for prompt in PROMPTS]
    one = sample(*words, "--num=2", "--seed=7", "--batch_size=2")
    other = sample(*words, "--num=2", "--seed=7", "--batch_size=4")
    assert_same(pixels(one), pixels(other))
    assert [line["file"] for line in one] == [line["file"] for line in other]
    # Alone, and as the only picture of its seed.
    (alone,) = sample(words[1], "--seed=8", "--batch_size=2")
    assert_same(alone["image"], one[3]["image"])
    assert len({image.tobytes() for image in pixels(one)}) == len(one)


@pytest.mark.slow
def test_the_best_are_kept_in_order_and_their_scores_are_the_captioner_s(sample, coca_run):
    words = [f"--prompt={prompt}" for prompt in PROMPTS[:2]]
    words += ["--num=4", f"--judge={coca_run}"]
    every, kept = sample(*words), sample(*words, "--keep=2")
    judge = open_judge(str(coca_run))
    asked = [Asked(line["prompt"], None, text=line["prompt"]) for line in every]
    expected = judge.score(pixels(every), asked)
    np.testing.assert_allclose([line["score"] for line in every], expected, atol=1e-5)
    assert [line["rank"] for line in every] == 2 * [0, 1, 2, 3]
    assert np.all(np.diff(expected.reshape(2, 4), axis=1) <= 0) and len(set(expected)) > 4
    files = [line["file"] for line in every]
    assert [line["file"] for line in kept] == files[:2] + files[4:6]


def test_the_manifest_and_the_files_say_how_to_draw_them_again(sample, generator_run, tmp_path):
    config = json.loads((generator_run / "config.json").read_text())
    settings = {**config["sampling"], "guidance": 3.0, "top_k": 5}
    (tmp_path / "prompts.txt").write_text(f"{PROMPTS[0]}\n\n  {PROMPTS[1]} \n", encoding="utf-8")
    words = [f"--prompts={tmp_path / 'prompts.txt'}", "--num=2", "--seed=3"]
    lines = sample(*words, "--guidance=3", "--top_k=5", "--prompt=a café")
    asked = [(p, seed) for p in ("a café", *PROMPTS[:2]) for seed in (3, 4)]
    assert [(line["prompt"], line["seed"]) for line in lines] == asked
    assert len({line["file"] for line in lines}) == len(lines)
    for line in lines:
        assert line["step"] == config["train"]["steps"]
        assert {name: line[name] for name in settings} == settings
        text = line["text"]
        assert (text["prompt"], text["seed"]) == (line["prompt"], str(line["seed"]))
        numbers = {name: value for name, value in settings.items() if not isinstance(value, str)}
        assert {name: float(text[name]) for name in numbers} == numbers
        assert line["image"].shape == (*config["tokenizer"]["image_size"], 3)


@pytest.mark.slow
def test_the_run_s_own_settings_are_taken_unless_others_are_given(sample, generator_run):
    own = json.loads((generator_run / "config.json").read_text())["sampling"]
    words = [f"--prompt={PROMPTS[0]}", "--num=2"]
    lines, other = sample(*words), sample(*words, "--guidance=40")
    assert {name: lines[0][name] for name in own} == own
    assert {name: other[0][name] for name in own} == {**own, "guidance": 40.0}
    assert (pixels(lines) != pixels(other)).any()


def test_a_style_is_a_text_around_the_prompt_which_keeps_its_name(generator_run):
    sampler = Sampler.from_run(str(generator_run))
    (one,) = dataclasses.replace(sampler, style="a red {}").ask(["circle"])
    (other,) = sampler.ask(["a red circle"])
    np.testing.assert_array_equal(one.row, other.row)
    # A judge reads the text alone.
    assert (one.name, one.text) == ("circle", "circle")


@pytest.mark.slow
def test_the_python_interface_draws_the_same(sample, generator_run):
    lines = sample(f"--prompt={PROMPTS[0]}", "--num=2", "--seed=5", "--temperature=0.5")
    sampler = Sampler.from_run(str(generator_run))
    settings = dataclasses.replace(sampler.defaults, temperature=0.5)
    assert isinstance(settings, SamplingConfig)
    for line, picture in zip(lines, sampler.sample(PROMPTS[:1], 2, 5, settings, 2), strict=True):
        assert (line["prompt"], line["seed"]) == (picture.prompt, picture.seed)
        np.testing.assert_array_equal(line["image"], picture.image)


def test_the_grid_holds_a_row_per_prompt(cli, generator_run, tmp_path):
    words = [f"--workdir={generator_run}", f"--out={tmp_path}", "--prompt=a", "--prompt=b"]
    assert cli("sample", *words, "--num=2")[0] == 0
    lines = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    images = [decode(tmp_path / line["file"]) for line in lines]
    rows = [np.concatenate(images[i : i + 2], axis=1) for i in (0, 2)]
    np.testing.assert_array_equal(decode(tmp_path / "grid.png"), np.concatenate(rows))
    assert read_png_text(tmp_path / "grid.png")["prompts"] == "a\nb"


@pytest.mark.slow
def test_the_same_command_goes_on_where_it_stopped(cli, generator_run, tmp_path):
    words = [f"--workdir={generator_run}", f"--out={tmp_path}", "--num=2"]
    prompts = [f"--prompt={prompt}" for prompt in PROMPTS]
    assert cli("sample", *words, *prompts)[0] == 0
    manifest = tmp_path / "manifest.jsonl"
    lines = manifest.read_text().splitlines()
    grid = decode(tmp_path / "grid.png")
    # As a kill leaves it: the second prompt's pictures half there, the third's not at all.
    manifest.write_text("\n".join(lines[:3]) + "\n")
    for line in lines[3:]:
        (tmp_path / json.loads(line)["file"]).unlink()
    (tmp_path / "grid.png").unlink()
    status, _, said = cli("sample", *words, *prompts)
    assert status == 0 and "1 of 3 prompts are drawn" in said
    assert sorted(manifest.read_text().splitlines()) == sorted(lines)
    assert_same(decode(tmp_path / "grid.png"), grid)
    status, _, said = cli("sample", *words, *prompts, "--guidance=7")
    assert status == 2 and "holds pictures with guidance" in said
    assert sorted(manifest.read_text().splitlines()) == sorted(lines)


def test_a_table_s_columns_stay_with_its_prompts(sample, tmp_path):
    table = tmp_path / "prompts.tsv"
    table.write_text("Category\tPrompt\nShapes\ta ring\nNone\ta square\n")
    lines = sample(f"--prompts={table}")
    assert [line["columns"] for line in lines] == [{"Category": "Shapes"}, {"Category": "None"}]


@pytest.fixture(scope="module")
def old(generator_run, tmp_path_factory):
    """A picture that this tokenizer can draw, and the folder that it lies in."""
    sampler = Sampler.from_run(str(generator_run))
    (picture,) = sampler.sample(["a large blue square"], seed=3)
    folder = tmp_path_factory.mktemp("old")
    save_png(folder / "old.png", picture.image)
    mask = np.zeros_like(picture.image)
    mask[-1] = 255
    save_png(folder / "mask.png", mask)
    save_png(folder / "small.png", mask[:-1])
    (folder / "text.png").write_text("no picture")
    return folder


def test_kept_rows_and_what_a_mask_leaves_stay(generator_run, old):
    sampler = Sampler.from_run(str(generator_run))
    image, mask = decode(old / "old.png"), decode(old / "mask.png").max(axis=-1)
    h, w = sampler.drawer.generator.codes.shape
    halves = sampler.canvas(image, rows=h // 2), sampler.canvas(image, mask=mask)
    for canvas, kept_rows in zip(halves, (h // 2, h - 1), strict=True):
        pictures = list(sampler.sample(PROMPTS[:2], num=2, canvas=canvas))
        for picture in pictures:
            kept = picture.tokens[: kept_rows * w]
            np.testing.assert_array_equal(kept, canvas.tokens[: kept_rows * w])
        assert len({picture.tokens.tobytes() for picture in pictures}) > 1


@pytest.mark.slow
def test_the_command_goes_on_from_a_picture(sample, old):
    words = [f"--prompt={PROMPTS[0]}", f"--image={old / 'old.png'}", "--num=2"]
    rows, masked = sample(*words, "--rows=1"), sample(*words, f"--mask={old / 'mask.png'}")
    assert rows[0]["rows"] == 1 and masked[0]["mask"] == str(old / "mask.png")
    assert (pixels(rows) != pixels(masked)).any()


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--image=OLD/old.png", "--rows=99"], "rows is 99; a picture has "),
        (["--image=OLD/old.png", "--mask=OLD/small.png"], "they must be of one size"),
        (["--image=OLD/text.png", "--rows=1"], "; give a picture (PNG, JPEG, WebP)"),
        (["--num=2", "--keep=3"], "--keep is 3 and --num 2; give 1 to 2"),
        (["--num=2", "--keep=1"], "nothing says which are best; give --judge"),
        (["--num=2", "--keep=1", "--judge=RUN"], "kind=babeldraw, which tells no pictures"),
        (["--style=cubism"], "--style is 'cubism'; the styles are none, mainbody, photo, flat, "),
        (["--class=1"], "a class is given and the run draws from a text; leave it out"),
        (["--guidance_schedule=up"], "guidance_schedule is 'up'; the choices are constant"),
        (["--model_parallel=64"], "64"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_does_not_fit_is_one_line(cli, generator_run, old, tmp_path, words, line):
    def real(text):
        return text.replace("OLD", str(old)).replace("RUN", str(generator_run))

    words = [real(word) for word in words]
    out = tmp_path / "out"
    status, _, said = cli(
        "sample", f"--workdir={generator_run}", "--prompt=a", f"--out={out}", *words
    )
    assert status == 2 and real(line) in said and "Traceback" not in said
    assert not out.exists()


# ------------------------------------------------------------------ whatever a prompt holds


@pytest.mark.parametrize("name", ["p.tsv", "p.txt"])
def test_a_prompt_may_hold_what_else_ends_a_line(sample, tmp_path, name):
    prompts = ["a red\u2028circle", "a\x85blue\x0bsquare\x1c", "two green rings"]
    rows = ["Prompt\tCategory", *(f"{text}\tx" for text in prompts)]
    text = "\n".join(rows if name.endswith(".tsv") else prompts)
    (tmp_path / name).write_text(text, encoding="utf-8")
    lines = sample(f"--prompts={tmp_path / name}")
    assert [line["prompt"] for line in lines] == [text.strip() for text in prompts]


@pytest.mark.slow
def test_drawing_goes_on_after_such_a_prompt(cli, generator_run, tmp_path):
    (tmp_path / "p.txt").write_text("a red\u2028circle\na ring", encoding="utf-8")
    words = ["sample", f"--workdir={generator_run}", f"--out={tmp_path / 'out'}"]
    words.append(f"--prompts={tmp_path / 'p.txt'}")
    assert cli(*words)[0] == 0
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("0*.png")}
    status, _, said = cli(*words)
    assert status == 0 and "2 of 2 prompts are drawn" in said
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "out").glob("0*.png")}


def test_bytes_of_a_command_line_that_are_no_text_are_drawn(sample):
    (line,) = sample("--prompt=a ring \udce9")
    assert line["prompt"] == "a ring \udce9"


@pytest.mark.parametrize(
    ("prompt", "slug"),
    [("🍕 пицца", "пицца"), ("🍕", "prompt"), ("Zu\u0308rich", "zürich"), ("貓" * 200, "貓" * 30)]
    + [("A/B: 'c'", "a-b-c"), ("  ", "empty")],
)
def test_a_file_is_called_after_its_prompt(prompt, slug):
    assert slug_of(prompt) == slug


def test_letters_that_the_vocabulary_does_not_know_are_named(cli, generator_run, tmp_path):
    words = ["sample", f"--workdir={generator_run}", f"--out={tmp_path}"]
    status, _, said = cli(*words, "--prompt=a 貓 ring", "--prompt=a red circle")
    assert status == 0
    (line,) = (line for line in said.splitlines() if "vocabulary" in line)
    assert "'貓' of the prompt 'a 貓 ring'" in line


def test_a_path_may_begin_at_home(cli, generator_run, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "p.txt").write_text("a ring")
    words = ["sample", f"--workdir={generator_run}", "--out=~/pictures", "--prompts=~/p.txt"]
    assert cli(*words)[0] == 0
    assert (tmp_path / "pictures" / "grid.png").exists() and not (tmp_path / "~").exists()


@pytest.mark.slow
def test_fewer_devices_than_there_are_will_do(sample):
    assert len(sample("--prompt=a ring", "--model_parallel=2")) == 1


def test_a_table_s_levels_are_told_where_they_draw_nothing(capsys):
    one_level = SimpleNamespace(drawer=SimpleNamespace(generator=SimpleNamespace(levels=None)))
    prompts = [Prompt("a fox", {"Level": "8"}), Prompt("a fox", {"Level": "8"}), Prompt("a cat")]
    assert _by_column(prompts, one_level) is None
    assert "the column Level is passed over" in capsys.readouterr().err
    assert _by_column([Prompt("a cat")], one_level) is None
    assert not capsys.readouterr().err
    with pytest.raises(UserError, match="the table has 'a fox' at the levels '8' and '32'; draw"):
        _by_column([*prompts, Prompt("a fox", {"Level": "32"})], one_level)
