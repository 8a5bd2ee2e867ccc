"""The experiment of 200 new emoji: what is held back, which configs its cells have, its table."""

import argparse
import json
import sys

import numpy as np
import pytest

from babeldraw.data.emoji import SEEN, UNSEEN_CONCEPTS, UNSEEN_PAIRS, read_entries
from babeldraw.data.sources import open_source
from babeldraw.evaluation import concepts
from babeldraw.train.experiment import parse

SIDE = 48


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("tuning")


def asked(demo, folder, quick=True):
    return argparse.Namespace(demo=demo, workdir=folder, quick=quick)


@pytest.fixture
def few(script, monkeypatch):
    """As many new pictures as so small a world has."""
    monkeypatch.setattr(script, "COUNT", 12)
    monkeypatch.setattr(script, "ASKED", script.ASKED | {"new": (script.NEW, 12)})


def test_the_new_are_held_out_concepts_and_then_held_out_pairs(script, emoji_demo, tmp_path):
    before = read_entries(emoji_demo / "emoji")
    concepts = {e.file for e in before if e.split == UNSEEN_CONCEPTS}
    pairs = {e.file for e in before if e.split == UNSEEN_PAIRS}
    new = script.new_pictures(before, len(concepts) + 3)
    assert concepts and concepts < new and len(new & pairs) == 3 == len(new - concepts)
    script.write_pictures(asked(emoji_demo, tmp_path))
    after = read_entries(tmp_path / "emoji")
    told = [(e.concept, e.style, e.caption) for e in after]
    assert told == [(e.concept, e.style, e.caption) for e in before]
    moved = {e.split for e in after} - {e.split for e in before}
    assert moved == {script.NEW}
    assert {e.split for b, e in zip(before, after, strict=True) if b.split == SEEN} == {SEEN}
    assert all((tmp_path / "emoji" / entry.file).read_bytes() for entry in after)


def test_cells_go_on_from_the_demo_and_differ_as_they_say(
    script, few, emoji_demo, generator_run, tmp_path
):
    demo = tmp_path / "demo"
    demo.mkdir()
    (demo / "emoji").symlink_to(emoji_demo / "emoji")
    (demo / "text_to_image").symlink_to(generator_run)
    args = asked(demo, tmp_path, quick=False)
    script.write_pictures(args)
    names = [name for name in script.MINUTES if name != script.BEFORE]
    found = {name: parse(script.configured(name, args).to_dict()) for name in names}
    base = str((demo / "text_to_image").resolve())
    for name, one in found.items():
        assert one.starts[0].run == base and one.train.steps == script.STEPS
        assert one.optimizer.schedule.decay_end == script.STEPS
        assert bool(one.optimizer.groups) == (name == "frozen")
    assert found["frozen"].optimizer.groups[0].rate == 0
    assert found["alone"].data.split == "new/" and found["mixed"].data.source == "mixture"
    source = open_source(found["mixed"].data, found["mixed"].data.split, SIDE, 0)
    assert len(source.sizes) == 2 and source.sizes[0] < source.sizes[1]


# A generator and two tunings of a few steps, and what each draws.
@pytest.mark.slow
@pytest.mark.budget(180)
def test_the_quick_variant_goes_all_the_way(
    script, few, emoji_demo, tokenizer_run, generator_run, tmp_path, monkeypatch
):
    demo = tmp_path / "demo"
    demo.mkdir()
    for name in ("emoji", "alexnet_lpips.safetensors"):
        (demo / name).symlink_to(emoji_demo / name)
    (demo / "text_to_image").symlink_to(generator_run)
    (demo / "tokenizer").symlink_to(tokenizer_run)

    def mean_colour(images):
        return images.mean(axis=(1, 2)).astype(np.float16)

    monkeypatch.setattr(concepts, "make_features", lambda file: mean_colour)
    words = [f"--demo={demo}", f"--workdir={tmp_path}", "--quick", "--cells=before,alone,mixed"]
    monkeypatch.setattr(sys, "argv", ["tuning.py", *words])
    script.main()
    folder = tmp_path / "figures" / "tuning"
    found = {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}
    assert {*found} == {"before", "alone", "mixed"}
    for one in found.values():
        assert one["quality"]["concept_new"]["n"] == 8
        assert 0 <= one["quality"]["concept_old"]["value"] <= 1
    assert (tmp_path / "tuning.md").read_text().count("\n") == 5
    assert (tmp_path / "alone.png").exists() and (tmp_path / "tuning.png").exists()
