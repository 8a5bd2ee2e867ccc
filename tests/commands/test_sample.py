"""Prompts to pictures: each a function of its prompt, seed and settings, which its file carries."""

import dataclasses
import itertools
import json

import numpy as np
import pytest

from babeldraw.data.image import decode, read_png_text
from babeldraw.sampling.logits import SamplingConfig
from babeldraw.sampling.sampler import Sampler

PROMPTS = ["a small red circle on a white background", "two green rings", ""]


@pytest.fixture
def sample(cli, generator_run, tmp_path):
    """`sample("--num=2", ...)`: the lines of the manifest, each with its picture and PNG text."""
    folders = map(str, itertools.count())

    def run(*words):
        out = tmp_path / next(folders)
        status, _, said = cli("sample", f"--workdir={generator_run}", f"--out={out}", *words)
        assert status == 0, said
        lines = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
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


def test_a_picture_does_not_depend_on_the_batch_around_it(sample):
    words = [f"--prompt={prompt}" for prompt in PROMPTS]
    one = sample(*words, "--num=2", "--seed=7", "--batch_size=2")
    other = sample(*words, "--num=2", "--seed=7", "--batch_size=4")
    np.testing.assert_array_equal(pixels(one), pixels(other))
    assert [line["file"] for line in one] == [line["file"] for line in other]
    # Alone, and as the only picture of its seed.
    (alone,) = sample(words[1], "--seed=8", "--batch_size=2")
    np.testing.assert_array_equal(alone["image"], one[3]["image"])
    assert len({image.tobytes() for image in pixels(one)}) == len(one)


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


def test_the_run_s_own_settings_are_taken_unless_others_are_given(sample, generator_run):
    own = json.loads((generator_run / "config.json").read_text())["sampling"]
    words = [f"--prompt={PROMPTS[0]}", "--num=2"]
    lines, other = sample(*words), sample(*words, "--guidance=40")
    assert {name: lines[0][name] for name in own} == own
    assert {name: other[0][name] for name in own} == {**own, "guidance": 40.0}
    assert (pixels(lines) != pixels(other)).any()


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
