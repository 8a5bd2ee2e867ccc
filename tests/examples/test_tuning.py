"""The experiment of 200 new emoji: what is held back, which configs its cells have, its table."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from babeldraw.data.emoji import LIST, SETTINGS, entries, read_entries
from babeldraw.data.emoji_packs import Icon
from babeldraw.data.image import save_png
from babeldraw.data.sources import open_source
from babeldraw.evaluation import concepts
from babeldraw.train.experiment import parse

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "tuning.py"
SIDE = 48


@pytest.fixture(scope="module")
def script():
    # It imports its neighbours, as a script does.
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("tuning", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
    return module


@pytest.fixture(scope="module")
def demo(tmp_path_factory):
    """A folder as the demo leaves it: pictures of one colour each, no weights to be read."""
    folder = tmp_path_factory.mktemp("demo")
    icons = [Icon(f"{0x10000 + n:x}", f"thing {n}", "") for n in range(160)]
    found, rng = entries({style: icons for style in ("Noto", "Twemoji")}), np.random.default_rng(0)
    for entry in found:
        picture = np.full((SIDE, SIDE, 3), rng.integers(256), np.uint8)
        save_png(folder / "emoji" / entry.file, picture)
    rows = "\n".join(json.dumps(vars(entry)) for entry in found)
    (folder / "emoji" / LIST).write_text(rows + "\n")
    (folder / "emoji" / SETTINGS).write_text("{}")
    (folder / "alexnet_lpips.safetensors").touch()
    return folder


def asked(demo, folder, quick=True):
    return argparse.Namespace(demo=demo, workdir=folder, quick=quick)


def test_whole_concepts_are_held_back_those_held_out_first(script, demo, tmp_path):
    before = read_entries(demo / "emoji")
    out = {entry.concept for entry in before if entry.split == "unseen_concepts"}
    held_back = script.new_concepts(before, 31)
    assert out < held_back and len([e for e in before if e.concept in held_back]) == 30
    script.write_world(asked(demo, tmp_path))
    after = read_entries(tmp_path / "emoji")
    assert [(e.concept, e.style, e.caption) for e in after] == [
        (e.concept, e.style, e.caption) for e in before
    ]
    new = [entry for entry in after if entry.split == script.NEW]
    assert len(new) == 200 and {"new", "train"} <= {e.split for e in after}
    assert not {e.concept for e in new} & {e.concept for e in after if e.split != "new"}
    assert all((tmp_path / "emoji" / entry.file).read_bytes() for entry in after)


def test_cells_go_on_from_the_base_and_differ_as_they_say(script, demo, generator_run, tmp_path):
    args = asked(demo, tmp_path, quick=False)
    script.write_world(args)
    (tmp_path / "base").symlink_to(generator_run)
    names = [name for name in script.MINUTES if name != "base"]
    found = {name: parse(script.configured(name, args).to_dict()) for name in names}
    base = str((tmp_path / "base").resolve())
    for name, one in found.items():
        assert one.starts[0].run == base and one.train.steps == script.STEPS
        assert one.optimizer.schedule.decay_end == script.STEPS
        assert bool(one.optimizer.groups) == (name == "frozen")
    assert found["frozen"].optimizer.groups[0].rate == 0
    assert found["alone"].data.split == "new/" and found["mixed"].data.source == "mixture"
    source = open_source(found["mixed"].data, found["mixed"].data.split, SIDE, 0)
    assert source.sizes[0] == 200 and len(source.sizes) == 2


# A generator and two tunings of a few steps, and what each draws.
@pytest.mark.slow
@pytest.mark.budget(180)
def test_the_quick_variant_goes_all_the_way(
    script, demo, runlocal, trained_once, tmp_path, monkeypatch
):
    config = runlocal("emoji/tokenizer.py")
    (demo / "tokenizer").symlink_to(trained_once("emoji_tokenizer", config))

    def mean_colour(images):
        return images.mean(axis=(1, 2)).astype(np.float16)

    monkeypatch.setattr(concepts, "make_features", lambda file: mean_colour)
    words = [f"--demo={demo}", f"--workdir={tmp_path}", "--quick", "--cells=base,alone,mixed"]
    monkeypatch.setattr(sys, "argv", ["tuning.py", *words])
    script.main()
    folder = tmp_path / "figures" / "tuning"
    found = {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}
    assert {*found} == {"base", "alone", "mixed"}
    for one in found.values():
        assert one["quality"]["concept_new"]["n"] == 8
        assert 0 <= one["quality"]["concept_old"]["value"] <= 1
    assert (tmp_path / "tuning.md").read_text().count("\n") == 5
