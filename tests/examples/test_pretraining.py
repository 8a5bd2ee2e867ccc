"""docs/examples/pretraining.py: what each cell trains, its table, the quick variant."""

import argparse
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from babeldraw.train.experiment import parse

SCRIPT = Path(__file__).parents[2] / "docs" / "examples" / "pretraining.py"


@pytest.fixture(scope="module")
def script():
    # It imports its neighbours, as a script does.
    sys.path.insert(0, str(SCRIPT.parent))
    spec = importlib.util.spec_from_file_location("pretraining", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    sys.path.remove(str(SCRIPT.parent))
    return module


def test_every_way_has_few_pairs_and_many_captions(script, tmp_path):
    args = argparse.Namespace(workdir=tmp_path, quick=False)
    assert len(script.all_cells()) == 1 + 3 * 3 + 4 * 3
    seen = {}
    for way in ("masked", "contrastive", "both"):
        found = parse(script.encoder_config(way, 2, args))
        texts = found.text_data and found.text_data.num_examples
        seen[way] = (found.data.num_examples, texts, found.train.steps, found.train.seed)
    assert seen == {
        "masked": (50_000, None, 1000, 2),
        "contrastive": (2000, None, 1000, 2),
        "both": (2000, 50_000, 1000, 2),
    }
    fresh, warm = (parse(script.generator_config(way, 1, args)) for way in ("none", "both"))
    assert (fresh.data.num_examples, fresh.train.steps, fresh.starts) == (2000, 1400, ())
    (start,) = warm.starts
    assert start.run.endswith("encoder_both_1") and start.names == "text_encoder/.*"
    assert warm.model == fresh.model


def test_the_table_pairs_seeds(script):
    def cell(seen, unseen):
        figures = {"exact_seen": {"value": seen}, "exact_unseen": {"value": unseen}}
        return {"quality": {"prompts": figures}}

    found = {f"none_{seed}": cell(0.5 + 0.1 * seed, 0.2) for seed in range(3)}
    found |= {f"both_{seed}": cell(0.6 + 0.1 * seed, 0.25) for seed in range(3)}
    recall = {name: {"value": 0.9} for name in ("image_to_text", "text_to_image")}
    found["encoder_both_0"] = {"quality": {"retrieval": recall}, "minutes": 2.0}
    lines = script.table(found).splitlines()
    assert lines[3].startswith("| both | 70.0 % [45.2, 94.8] | 25.0 % [25.0, 25.0] | 10.0 % [10.0")
    assert lines[3].endswith("| 90.0 % | 90.0 % | 2.0 |")
    assert lines[2].startswith("| none | 60.0 %") and lines[2].endswith("|  |  |  |  |  |")
    spread = script.over_seeds(np.array([0.0, 0.3, 0.6]))
    assert spread["value"] == pytest.approx(0.3)
    np.testing.assert_allclose(spread["interval"], (0.3 - 4.303 * 0.3 / 3**0.5, 1.045), atol=1e-3)


@pytest.mark.slow
def test_the_quick_variant_runs_to_its_table(script, tmp_path, monkeypatch, capsys):
    cells = "tokenizer,encoder_both_0,none_0,both_0"
    words = [str(SCRIPT), f"--workdir={tmp_path}", "--quick", f"--cells={cells}"]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    assert "| both |" in capsys.readouterr().out
    models = {(tmp_path / name / "text.model").read_bytes() for name in cells.split(",")[1:]}
    assert len(models) == 1
