"""docs/examples/pretraining.py: what each cell trains, its table, the quick variant."""

import argparse
import sys

import numpy as np
import pytest

from babeldraw.data.emoji import SEEN, UNSEEN_PAIRS, read_entries
from babeldraw.train.experiment import parse


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("pretraining")


def test_every_way_has_few_pairs_and_many_captions(script, tmp_path):
    args = argparse.Namespace(workdir=tmp_path, quick=False)
    assert len(script.all_cells()) == 1 + 2 * (3 * 3 + 4 * 3)
    seen = {}
    for way in ("masked", "contrastive", "both"):
        found = parse(script.encoder_config("shapes", way, 2, args).to_dict())
        texts = found.text_data and found.text_data.num_examples
        seen[way] = (found.data.num_examples, texts, found.train.steps, found.train.seed)
    assert seen == {
        "masked": (50_000, None, 1000, 2),
        "contrastive": (2000, None, 1000, 2),
        "both": (2000, 50_000, 1000, 2),
    }
    fresh, warm = (
        parse(script.generator_config("shapes", way, 1, args).to_dict()) for way in ("none", "both")
    )
    assert (fresh.data.num_examples, fresh.train.steps, fresh.starts) == (2000, 1400, ())
    (start,) = warm.starts
    assert start.run.endswith("encoder_both_1") and start.names == "text_encoder/.*"
    assert warm.model == fresh.model


def test_emoji_have_pairs_to_learn_from_others_to_judge_by_and_captions_of_both(
    script, emoji_demo, tmp_path, monkeypatch
):
    args = argparse.Namespace(workdir=tmp_path, demo=emoji_demo, quick=False)
    told = {f"{0x10000 + n:x}": {"de": f"Ding {n}"} for n in range(80)}
    monkeypatch.setattr(script, "read_names", lambda folder, languages: told)
    both = parse(script.encoder_config("emoji", "both", 0, args).to_dict())
    masked = parse(script.encoder_config("emoji", "masked", 0, args).to_dict())
    assert both.data.source == "folder" and both.data.split == "train/"
    assert both.text_data.source == masked.data.source == "texts" and masked.text_data is None
    both_data = {"source": "tokens", "path": "tokens", "split": "all"}
    entries = read_entries(tmp_path / "emoji")
    by_split = {
        split: [e for e in entries if e.split == split] for split in (SEEN, UNSEEN_PAIRS, "rest")
    }
    assert len(by_split[SEEN]) == 160 and 0 < len(by_split[UNSEEN_PAIRS]) <= 32
    known = {e.concept for e in by_split[SEEN]}
    assert {e.concept for e in by_split[UNSEEN_PAIRS]} <= known
    lines = (tmp_path / "emoji.txt").read_text().splitlines()
    assert "Ding 7, Noto" in lines or "Ding 7, Twemoji" in lines
    assert not {e.caption[0] for e in by_split[UNSEEN_PAIRS]} & set(lines)
    monkeypatch.setattr(script, "stored_tokens", lambda tokenizer, world, out: both_data)
    generator = parse(script.generator_config("emoji", "none", 0, args).to_dict())
    # The two stacks are one network.
    assert generator.model.encoder.dim == both.model.encoder.dim == 128


def test_the_table_pairs_seeds(script):
    def cell(seen, unseen):
        figures = dict.fromkeys(script.WORLDS["shapes"].figures, {"value": unseen})
        return {"quality": figures | {"exact_seen": {"value": seen}}}

    found = {f"shapes_none_{seed}": cell(0.5 + 0.1 * seed, 0.2) for seed in range(3)}
    found |= {f"shapes_both_{seed}": cell(0.6 + 0.1 * seed, 0.25) for seed in range(3)}
    recall = {name: {"value": 0.9} for name in ("image_to_text", "text_to_image")}
    quality = {"retrieval": recall, "masked": {"loss": {"value": 0.734}}}
    found |= {
        f"shapes_encoder_both_{seed}": {"quality": quality, "minutes": 2.0} for seed in range(3)
    }
    scores, above, encoders = script.table("shapes", found).split("\n\n")
    assert [line[:8] for line in scores.splitlines()[2:]] == ["| none |", "| both |"]
    assert scores.splitlines()[3].startswith("| both | 70.0 % [45.2, 94.8] | 25.0 % [25.0, 25.0] |")
    (gains,) = above.splitlines()[2:]
    assert gains.startswith("| both | 10.0 % [10.0, 10.0] | 5.0 % [5.0, 5.0] |")
    assert (
        encoders.splitlines()[2]
        == "| both | 90.0 % [90.0, 90.0] | 90.0 % [90.0, 90.0] | 0.73 | 2.0 |"
    )
    assert "emoji" not in script.tables(found)
    spread = script.over_seeds(np.array([0.0, 0.3, 0.6]))
    assert spread["value"] == pytest.approx(0.3)
    np.testing.assert_allclose(spread["interval"], (0.3 - 4.303 * 0.3 / 3**0.5, 1.045), atol=1e-3)


@pytest.mark.slow
def test_the_quick_variant_runs_to_its_table(script, tmp_path, monkeypatch, capsys):
    cells = "shapes_tokenizer,shapes_encoder_both_0,shapes_none_0,shapes_both_0"
    words = ["pretraining.py", f"--workdir={tmp_path}", "--quick", f"--cells={cells}"]
    monkeypatch.setattr(sys, "argv", words)
    script.main()
    assert "| both |" in capsys.readouterr().out
    models = {(tmp_path / name / "text.model").read_bytes() for name in cells.split(",")[1:]}
    assert len(models) == 1
