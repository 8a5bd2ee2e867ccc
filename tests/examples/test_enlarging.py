"""docs/examples/enlarging.py: ways to a large picture, its stages, its tables, its quick run."""

import argparse
import dataclasses
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from babeldraw.config import to_dict
from babeldraw.data.emoji import Entry
from babeldraw.prediction.refinement import RefinementSampling
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("enlarging")


@pytest.fixture(scope="module")
def measures(script):
    return sys.modules["enlarging_measures"]


def asked(workdir=Path("runs")):
    return argparse.Namespace(workdir=workdir, emoji=Path("emoji"), quick=False)


# ------------------------------------------------------------------ what is measured


@dataclasses.dataclass(frozen=True)
class Stage:
    """Adds a number to codes, the values of the pictures; half of it where it is cold."""

    added: int
    settings: RefinementSampling = RefinementSampling()

    @property
    def drawer(self):
        return self

    def draw(self, asked, codes, seeds):
        assert len(asked) == len(codes) == len(seeds)
        return codes + (self.added if self.settings.temperature else self.added // 2)

    def pixels(self, codes):
        return np.broadcast_to(codes[:, :1, None, None], (len(codes), 6, 6, 3)).astype(np.uint8)


def test_each_way_makes_a_picture_of_every_true_one(measures):
    sides = (2, 6)
    tokenizers = tuple(
        argparse.Namespace(
            image_size=(side, side),
            encode=lambda images: np.rint(255 * images[:, 0, 0, :1]).astype(np.int32),
            decode=lambda codes: np.full((len(codes), 2, 2, 3), 7 / 255, np.float32),
            reconstruct=lambda images: (np.full(images.shape, 9 / 255), None),
        )
        for side in sides
    )
    cascade = argparse.Namespace(stages=(Stage(10), Stage(20)))
    sampler = argparse.Namespace(ask=list, cascade=cascade)
    images = np.arange(10, dtype=np.uint8)[:, None, None, None] + np.zeros((1, 6, 6, 3), np.uint8)
    found = measures.large_pictures(sampler, tokenizers, ["owl"] * 10, images)
    assert all(own.shape == images.shape and own.dtype == np.uint8 for own in found.values())
    seen = {name: own[:, 3, 3, 0].tolist() for name, own in found.items()}
    assert seen == {
        "small picture, enlarged": [*range(10)],
        measures.SMALL_CODES: [7] * 10,
        "direct": [*range(10, 20)],
        "direct, then iterative": [*range(30, 40)],
        "direct, the likeliest codes": [*range(5, 15)],
        "direct, then iterative, the likeliest codes": [*range(15, 25)],
        "large codes": [9] * 10,
    }


def test_large_pictures_are_compared_with_the_true_ones(measures):
    images = np.full((3, 6, 6, 3), 100, np.uint8)
    pictures = {measures.SMALL_CODES: images + np.uint8(51), "direct": images.copy()}
    pictures["direct"][0] += 51

    def distance(own, true):
        return np.abs(own.astype(float) - true).mean(axis=(1, 2, 3))

    found = measures.of_large(pictures, images, {"lpips": distance})
    assert found["direct"]["psnr_db"]["value"] == pytest.approx(-10 * math.log10(0.04 / 3))
    assert found["direct"]["lpips"]["value"] == pytest.approx(17)
    assert found["direct"]["lpips_less"]["value"] == pytest.approx(-34)
    assert found[measures.SMALL_CODES]["lpips_less"]["value"] == 0


# ------------------------------------------------------------------ cells


def test_what_is_held_out_is_pairs_where_there_are_some(script):
    def at(split):
        return Entry(f"{split}/owl.png", ("owl",), "1f", "owl", "Noto")

    world = [at("train"), at("unseen_concepts"), at("unseen_pairs")]
    assert script.held_out(world) == "unseen_pairs"
    assert script.held_out(world[:2]) == "unseen_concepts"
    assert script.some(world, "unseen_pairs", 3) == world[2:]


@pytest.mark.parametrize("name", ["direct", "iterative"])
def test_stages_begin_from_the_run_of_the_small_codes(script, name, tmp_path, monkeypatch):
    args = asked(tmp_path)
    hierarchy = script.folder_of("hierarchy", args)
    config = script.coglm_config("hierarchy_4", hierarchy, args)
    config.data = {"source": "tokens", "path": "codes", "split": "all"}
    run = RunFolder.of(script.folder_of("coglm", args))
    run.path.mkdir()
    run.write_config(to_dict(parse(config)))
    worlds = sys.modules["cogview2_emoji"]
    monkeypatch.setattr(worlds, "pictures", lambda side, args: Path(f"emoji_{side}"))
    monkeypatch.setattr(worlds, "read_entries", lambda folder: [])
    monkeypatch.setattr(worlds, "stored_tokens", lambda *inputs: {"source": "tokens", "path": "8"})
    trained = {}
    monkeypatch.setattr(
        script, "trained_and_judged", lambda config, *more: (trained.update(config=config), {})
    )
    script.stage_cell(name, args)
    found = parse(trained["config"])
    assert found.generator.codes.shape == (24, 24) and found.train.batch_size == 8
    assert all(start.run == str(run.path) for start in found.starts) and found.starts
    assert found.data.source == {"direct": "folder", "iterative": "tokens"}[name]
    assert found.data.path == {"direct": "emoji_96", "iterative": "8"}[name]


# ------------------------------------------------------------------ tables


def test_tables_hold_what_there_is(script):
    def figure(value):
        return {"value": value, "interval": [value - 0.1, value + 0.1]}

    costs = {"parameters": 3_390_000, "steps": 1500, "minutes": 11.0, "peak_gib": 1.25}
    stage = {**costs, "losses": [[n, float(n)] for n in range(1, 11)]}
    way = {"psnr_db": figure(20.0), "lpips_vgg16": figure(0.5), "lpips_vgg16_less": figure(0.5)}
    # Of equal pictures, whose PSNR no JSON holds.
    equal = way | {"psnr_db": {"value": None, "interval": [None, None]}}
    larger = {"pictures": 2, "ways": {"direct": way, "small picture, enlarged": equal}}
    text = script.tables({"iterative": stage, "larger": larger})
    assert "| iterative | 9.500 | 3.39 | 1,500 | 11.0 | 1.25 |" in text
    row = "| direct | 20.00 [19.90, 20.10] | 0.500 [0.400, 0.600] | +0.500 [+0.400, +0.600] |"
    assert row in text and "| small picture, enlarged | not finite | 0.500" in text


# ------------------------------------------------------------------ the whole


@pytest.mark.slow
@pytest.mark.budget(300)  # A tokenizer, a network, two stages and what they make.
def test_emoji_are_enlarged_in_the_quick_variant(script, tmp_path, emoji_demo, monkeypatch):
    # No file of weights is there to be read.
    for module in (script, sys.modules["cogview2_emoji"]):
        monkeypatch.setattr(module, "weights", lambda kind, args: "")
    words = ["--quick", f"--workdir={tmp_path}", f"--emoji={emoji_demo}"]
    monkeypatch.setattr(sys, "argv", ["enlarging.py", *words])
    script.main()
    folder = tmp_path / "figures" / "enlarging"
    found = {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}
    assert {*found} == {*script.all_cells()}
    assert len(found["larger"]["ways"]) == 7
    assert (tmp_path / "strips" / "larger.png").exists()
