"""docs/examples/cat.py: its pictures, its measures, what each cell trains, its tables."""

import argparse
import dataclasses
import itertools
import json
import sys
from pathlib import Path

import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.train.experiment import parse


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("cat")


def neighbour(name):
    return sys.modules[name]


def args(tmp_path, **more):
    said = {"workdir": tmp_path, "emoji": tmp_path / "emoji", "out": None, "quick": False}
    return argparse.Namespace(**(said | more))


# ------------------------------------------------------------------ pictures


def test_texts_and_charts_are_the_same_each_time_and_their_captions_tell_of_detail(script):
    data, levels = neighbour("cat_data"), neighbour("cat_levels")
    size = {"plain": [], "detailed": []}
    for kind in ("text", "chart"):
        first, again = ([*data.pictures(kind, "test", 40, Path(), Path())] for _ in range(2))
        other = [*data.pictures(kind, "train", 40, Path(), Path())]
        assert [caption for _, caption in first] == [caption for _, caption in again]
        assert [caption for _, caption in first] != [caption for _, caption in other]
        for (picture, caption), (same, _) in zip(first, again, strict=True):
            np.testing.assert_array_equal(picture, same)
            assert picture.shape == (128, 128, 3) and picture.dtype == np.uint8
            (score,) = levels.JpegSize().score([levels.Record(picture, caption)])
            if "sign" in caption or "small" in caption:
                size["plain" if "sign" in caption else "detailed"].append(score.value)
    assert np.mean(size["plain"]) < np.mean(size["detailed"])


def test_data_are_written_once(script, tmp_path):
    data = neighbour("cat_data")
    data.make_data(tmp_path / "data", tmp_path / "packages", quick=True)
    rows = script.listed(args(tmp_path))
    assert len(rows) == sum(sum(counts.values()) for counts in data.QUICK_COUNTS.values())
    assert {data.kind_of(row["file"]) for row in rows} == {"text", "chart"}
    first = tmp_path / "data" / rows[0]["file"]
    first.unlink()
    data.make_data(tmp_path / "data", tmp_path / "packages", quick=True)
    assert not first.exists()
    tested = script.some(rows, "test", 5)
    assert len(tested) == 5 and {data.kind_of(row["file"]) for row in tested} == {"text", "chart"}


# ------------------------------------------------------------------ measures


@pytest.fixture
def judged(script):
    """Twelve pictures of two kinds; every second one of each is four times as hard."""
    error_N = np.tile([0.01, 0.04], 6) * np.linspace(1, 1.1, 12)
    error_NK = error_N[:, None] * np.array([0.25, 1.0, 2.0])
    kind_N = np.repeat(["emoji", "text"], 6)
    return neighbour("cat_measures").Judged(
        kind_N, (16, 4, 1), {"squared_error": error_NK}, {"squared_error": error_N}, ("text",)
    )


def test_levels_by_the_error_are_better_than_one_for_all_at_as_many_codes(judged):
    measures, error_NK = neighbour("cat_measures"), judged.error["squared_error"]
    found = judged.chosen(measures.log_error(error_NK), 4)
    assert abs(found["codes"] - 4) < 1.5
    whole = found["parts"]["all"]
    assert sum(whole["pictures"]) == 12 and {*found["parts"]} == {
        "all",
        "detailed",
        "emoji",
        "text",
    }
    level_N = measures.levels_of(measures.log_error(error_NK), found["thresholds"])
    chosen_N = error_NK[np.arange(12), level_N]
    less = np.mean(10 * np.log10(error_NK[:, 1]) - 10 * np.log10(chosen_N))
    assert whole["psnr_db_less_fixed"]["value"] == pytest.approx(less)
    assert whole["psnr_db_less_same_network"]["value"] == pytest.approx(less)
    low, high = whole["psnr_db_less_fixed"]["interval"]
    assert low <= less <= high
    table = measures.by_level(judged, ("8", "16", "32"))["text"]["8"]["psnr_db"]["value"]
    assert table == pytest.approx(np.mean(-10 * np.log10(error_NK[6:, 0])))


def test_no_other_levels_of_as_many_codes_have_a_better_psnr_than_the_best(judged):
    rng = np.random.default_rng(0)
    error_NK = np.sort(rng.uniform(0.01, 0.1, (6, 3)), axis=1)
    judged = dataclasses.replace(
        judged,
        kind_N=judged.kind_N[3:9],
        error={"squared_error": error_NK},
        fixed={"squared_error": error_NK[:, 1]},
    )
    found = judged.best(7)
    assert 4 < found["codes"] <= 7
    levels = np.array([*itertools.product(range(3), repeat=6)])
    psnr = -10 * np.log10(error_NK[np.arange(6), levels]).mean(axis=1)
    allowed = np.array(judged.codes)[levels].mean(axis=1) <= found["codes"]
    assert found["parts"]["all"]["psnr_db"]["value"] == pytest.approx(psnr[allowed].max())


def test_correlations_say_by_how_much_words_are_better(judged):
    measures = neighbour("cat_measures")
    error_N = measures.log_error(judged.error["squared_error"])
    score = {"caption": error_N, "jpeg": -error_N, "variance": np.arange(12.0)}
    found = measures.correlations(score, error_N, judged.parts())
    # Six pictures of a kind are too few.
    assert {*found} == {"all"}
    assert found["all"]["caption"]["value"] == pytest.approx(1)
    assert found["all"]["caption_less_jpeg"]["value"] == pytest.approx(2)


@pytest.mark.parametrize(
    ("levels", "group"), [([0, 1, 1, 2], (2, 5, 3)), ([2] * 9 + [1], (1, 1, 8)), ([0], (8, 1, 1))]
)
def test_a_group_has_all_levels_near_their_shares(script, levels, group):
    found = neighbour("cat_measures").group_of(np.array(levels), 3)
    assert sum(found) == 10 and min(found) >= 1
    assert np.abs(np.array(found) - group).max() <= 1


# ------------------------------------------------------------------ what is trained


def test_every_cell_s_config_is_one(script, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "weights", lambda kind, args: "")
    for name, part in script.grid.PARTS.items():
        world = dataclasses.replace(part.world, configure=lambda *inputs: None)
        monkeypatch.setitem(script.grid.PARTS, name, dataclasses.replace(part, world=world))
    nested, fixed = (parse(script.vae_config(name, args(tmp_path))) for name in ("nested", "fixed"))
    assert nested.tokenizer.strides == (8, 16, 32) and fixed.tokenizer.strides == (16,)
    assert nested.data == fixed.data and nested.optimizer == fixed.optimizer
    assert nested.tokenizer.network.channels == fixed.tokenizer.network.channels
    monkeypatch.setattr(script, "make_data", lambda *inputs: None)
    with pytest.raises(UserError, match="in --workdir is missing; make the cell errors here first"):
        script.vae_cell("captioned", args(tmp_path))
    captioned = parse(script.vae_config("captioned", args(tmp_path)))
    assert captioned.tokenizer == dataclasses.replace(nested.tokenizer, routing="data")
    assert captioned.train == nested.train and captioned.loss == nested.loss
    drawing = {"counts": [1, 3, 6]}
    cat, one = (
        parse(script.dit_config(name, drawing, args(tmp_path))) for name in ("cat", "fixed")
    )
    assert cat.tokenizer == nested.tokenizer and one.tokenizer == fixed.tokenizer
    assert cat.levels.counts == (1, 3, 6) and one.levels is None
    assert cat.generator.levels.stored.whole.each == (256 + 64 + 16, 8)
    assert one.generator.codes.shape == (8, 8)
    assert cat.model == one.model and cat.train == one.train and cat.optimizer == one.optimizer
    for world, codes in (("shapes", 64), ("emoji", 36)):
        titok, ours = (script.column_config(world, name) for name in script.COLUMN)
        assert titok.tokenizer.kind == "titok" and ours.loss == titok.loss
        monkeypatch.setattr(script.grid, "generator_trained", lambda *inputs: inputs[2])
        config = parse(script.column_dit(world, "cat", args(tmp_path)))
        assert config.generator.codes.length == codes
        # Stored codes of emoji are means.
        assert config.prediction.sampled == (world == "shapes")
    assert all(minutes <= 30 for _, minutes in script.all_cells().values())


# ------------------------------------------------------------------ tables and the whole


def figure(value):
    return {"value": value, "interval": [value - 1, value + 1]}


def test_tables_hold_what_there_is(script):
    part = {"codes": 60.0, "pictures": [1, 2, 3], "psnr_db_less_fixed": figure(1.5)}
    errors = {
        "codes": {"8": 256},
        "levels": {"text": {"8": {"psnr_db": figure(30.0)}}},
        "chosen": {"caption": {"parts": {"text": part}}},
        "spearman": {"all": {"caption": figure(0.5), "caption_less_jpeg": figure(0.1)}},
    }
    dit = {
        "codes": 54.4,
        "batch_size": 30,
        "step_seconds": 0.5,
        "operations_of_training": {"stack": 2 * 10**9},
        "pictures_per_second": 3.0,
        "operations_of_drawing": 4e9,
        "peak_gib": 1.0,
    }
    text = script.tables({"errors": errors, "dit_cat": dit})
    assert "| text, 8 px | 256 | 30 [29, 31] |  |" in text
    assert "| caption, text | 60.0 |  | +1.5 [0.5, 2.5] |" in text
    assert "| all | 0.5 [-0.5, 1.5] | 0.1 [-0.9, 1.1] |" in text
    assert "| dit_cat | 54.4 | 60.0 | 2.000 | 3.00 | 4.00 |  | 1.00 |" in text


@pytest.mark.slow
@pytest.mark.budget(300)  # Two tokenizers, their errors, and a generator on each.
def test_the_quick_variant_goes_all_the_way(script, tmp_path, monkeypatch):
    cells = "nested,fixed,errors,captioned*,dit_*"
    words = ["--quick", f"--workdir={tmp_path}", f"--cells={cells}"]
    monkeypatch.setattr(sys, "argv", ["cat.py", *words])
    script.main()
    folder = tmp_path / "figures" / "cat"
    found = {file.stem: json.loads(file.read_text()) for file in folder.glob("*.json")}
    trained = {"nested", "fixed", "captioned", "dit_cat", "dit_fixed"}
    assert {*found} == trained | {"errors", "captioned_errors"}
    assert found["captioned_errors"]["levels"] != found["errors"]["levels"]
    assert found["errors"]["pictures"] == 24
    assert found["dit_cat"]["pictures_per_second"] > 0
    assert (tmp_path / "cat.md").read_text().count("| dit_") == 2
