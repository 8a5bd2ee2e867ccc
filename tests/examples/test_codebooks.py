"""docs/examples/codebooks.py: its cells, how use is counted, the quick variant in small."""

import argparse
import dataclasses
import json
import sys
import types

import numpy as np
import pytest

from babeldraw.data.emoji import LIST, SETTINGS, entries
from babeldraw.data.emoji_packs import Icon
from babeldraw.data.image import save_png
from babeldraw.errors import UserError
from babeldraw.tokenizers.base import Codes
from babeldraw.train.experiment import parse

BOTH = ("vq", "ibq", "ibq_alone", "ibq_uniform")


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("codebooks")


def small_world(script, folder):
    """Pictures of noise over one colour each, no weights to be read."""
    icons = [Icon(f"{0x10000 + n:x}", f"thing {n}", "") for n in range(60)]
    found, rng = entries({style: icons for style in ("Noto", "Twemoji")}), np.random.default_rng(0)
    for entry in found:
        path = folder / script.PICTURES / entry.file
        path.parent.mkdir(parents=True, exist_ok=True)
        picture = rng.integers(0, 200) + rng.integers(0, 50, (8, 8, 3))
        save_png(path, picture.astype(np.uint8).repeat(8, axis=0).repeat(8, axis=1))
    rows = "\n".join(json.dumps(vars(entry)) for entry in found)
    (folder / script.PICTURES / LIST).write_text(rows + "\n")
    (folder / script.PICTURES / SETTINGS).write_text('{"size": 64}')
    for kind in ("vgg_lpips", "alexnet_lpips"):
        (folder / f"{kind}.safetensors").touch()
    return [entry for entry in found if entry.split == "train"]


def asked(tmp_path, quick=False):
    return argparse.Namespace(workdir=tmp_path, emoji=tmp_path / "emoji", quick=quick)


def test_cells_differ_in_the_quantizer_and_its_term_alone(script, tmp_path, monkeypatch):
    world = dataclasses.replace(script.EMOJI, configure=lambda *inputs: None)
    monkeypatch.setattr(script, "EMOJI", world)
    found = {
        cell: parse(script.configured(*cell, asked(tmp_path)).to_dict()) for cell in script.CELLS
    }
    assert len(found) == len(script.all_cells()) - 1 == 14
    recipes = {
        (
            dataclasses.replace(e.loss, entropy=0.0),
            e.tokenizer.network,
            e.train,
            e.optimizer,
            e.data,
        )
        for e in found.values()
    }
    assert len(recipes) == 1 and next(iter(recipes))[0].restart_below == 0
    entropy = {cell: e.loss.entropy for cell, e in found.items()}
    assert {cell for cell in entropy if entropy[cell]} == {
        *((kind, codes) for kind in ("ibq", "lfq") for codes in ("1k", "8k")),
        ("ibq", "64k"),
        ("ibq_uniform", "8k"),
    }
    assert found["ibq_uniform", "8k"].tokenizer.quantizer.code_init == "uniform"
    # Beta weighs the same term of both.
    beta = {e.tokenizer.quantizer.beta_on for (kind, _), e in found.items() if kind in BOTH}
    assert beta == {"codebook"}
    sizes = {cell: e.tokenizer.quantizer.codebook_size for cell, e in found.items()}
    assert all(
        sizes[cell] == {"1k": 2**10, "8k": 2**13, "64k": 2**16}[cell[1]]
        for cell in sizes
        if cell[0] != "fsq"
    )
    assert (sizes["fsq", "1k"], sizes["fsq", "8k"]) == (1000, 8000)
    assert all(e.tokenizer.grid == (8, 8) for e in found.values())


def test_use_is_that_of_all_training_pictures_and_no_others(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "BATCH", 7)
    (tmp_path / "emoji").mkdir()
    training = small_world(script, tmp_path / "emoji")
    shown = []

    def encode(images):
        shown.extend(images)
        # As many codes as there are pictures, the last ones seen twice.
        return np.arange(len(shown) - 7, len(shown))[:, None] % len(training)

    run = types.SimpleNamespace(codes=Codes((1,), (500,)), image_size=(64, 64), encode=encode)
    images = script.pictures(asked(tmp_path), (64, 64))
    assert script.used(run, images) == len(training) / 500
    assert len(shown) == -(-len(training) // 7) * 7 and shown[0].shape == (64, 64, 3)


def test_what_was_counted_before_a_stop_is_kept(script, tmp_path, monkeypatch):
    (tmp_path / "emoji").mkdir()
    small_world(script, tmp_path / "emoji")
    args, trained = asked(tmp_path, quick=True), []
    (tmp_path / "ibq_1k").mkdir()
    (tmp_path / "ibq_1k" / "usage.json").write_text("[[1, 0.25], [2, 0.5]]")

    class Stop(Exception):
        pass

    def stopped(config, folder, label):
        trained.append(config.train.steps)
        raise Stop

    monkeypatch.setattr(script, "train", stopped)
    with pytest.raises(Stop):
        script.cell("ibq", "1k", args)
    whole = script.configured("ibq", "1k", args).train.steps
    assert trained == [max(1, round(0.4 * whole))]


@pytest.mark.slow
@pytest.mark.budget(120)  # Two trainings in parts, and their judge.
def test_the_quick_variant_goes_all_the_way(script, tmp_path, monkeypatch):
    (tmp_path / "emoji").mkdir()
    small_world(script, tmp_path / "emoji")
    words = [f"--workdir={tmp_path}", "--quick", "--cells=ibq_1k,lfq_1k,ibq_tables"]
    monkeypatch.setattr(sys, "argv", ["codebooks.py", *words])
    script.main()
    folder = tmp_path / "figures" / "codebooks"
    found = {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}
    tables = found.pop("ibq_tables")
    # Two steps move it little; with another seed's start it would have no correlation.
    assert [*tables] == ["ibq_1k"] and 0.9 < tables["ibq_1k"]["correlation"] < 1
    assert 0 < tables["ibq_1k"]["moved"] < 0.1
    assert {name: one["codes"] for name, one in found.items()} == {"ibq_1k": 64, "lfq_1k": 256}
    for one in found.values():
        assert 0 < one["usage"][-1][1] <= 1
        steps = [step for step, _ in one["usage"]]
        assert steps == sorted(steps) and one["steps"] == steps[-1]
    assert "| IBQ | 64 |" in (tmp_path / "codebooks.md").read_text()
    assert (tmp_path / "codebooks.png").exists()


def test_tables_of_no_runs_are_no_figures(script, tmp_path):
    with pytest.raises(UserError, match="none of ibq_1k, .* make these cells first"):
        script.tables_cell(asked(tmp_path))
