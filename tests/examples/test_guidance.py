"""docs/examples/guidance.py: what its cells train, its table, the quick variant."""

import argparse
import json
import sys

import pytest

from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("guidance")


def test_cells_differ_in_what_is_taken_away_and_what_is_kept(script, generator_run, tmp_path):
    args = argparse.Namespace(workdir=tmp_path, quick=False)
    base = parse(script.configured("base", args).to_dict())
    assert base.condition.dropout == 0 and base.train.steps == script.STEPS
    (tmp_path / "base").symlink_to(generator_run)
    names = (script.GUIDED, script.KEPT, script.LONGER)
    found = {name: parse(script.configured(name, args).to_dict()) for name in names}
    shares = {name: one.condition.dropout for name, one in found.items()}
    assert shares == {"guided": 0.1, "kept": 0.1, "longer": 0}
    assert {one.train.steps for one in found.values()} == {script.TUNED_STEPS}
    assert [start.into for start in found["kept"].starts] == ["opt_state", "params"]
    run = RunFolder.of(str(generator_run)).read_config()
    assert found["kept"].optimizer.schedule.peak == run["optimizer"]["schedule"]["peak"]
    assert found["guided"].optimizer == found["longer"].optimizer


def test_the_table_has_a_row_for_each_guidance(script):
    low, high = ({"value": value, "interval": (value, value)} for value in (0.4, 0.5))
    plain = dict.fromkeys(script.FIGURES, low)
    both = plain | {f"{name}{script.WITHOUT}": high for name in script.FIGURES}
    found = {
        "tokenizer": {},
        "base": {"steps": 9, "guidance": 1.0, "quality": plain},
        "guided": {"steps": 4, "guidance": 1.5, "quality": both},
    }
    lines = script.table(found).splitlines()[2:5]
    assert [line.split(" | ")[0:3] for line in lines] == [
        ["| base", "9", "1"],
        ["| guided", "4", "1"],
        ["| guided", "4", "1.5"],
    ]
    assert [line.count("40.0 % [40.0, 40.0]") for line in lines] == [2, 0, 2]
    assert lines[1].count("50.0 % [50.0, 50.0]") == 2


@pytest.mark.slow
@pytest.mark.budget(240)
def test_the_quick_variant_goes_all_the_way(script, tmp_path, monkeypatch):
    words = [f"--workdir={tmp_path}", "--quick", "--cells=tokenizer,base,kept,longer"]
    monkeypatch.setattr(sys, "argv", ["guidance.py", *words])
    script.main()
    folder = tmp_path / "figures" / "guidance"
    kept, longer = (
        json.loads((folder / f"{name}.json").read_text()) for name in ("kept", "longer")
    )
    assert (kept["guidance"], longer["guidance"]) == (1.5, 1)
    assert kept["quality"]["exact_seen"]["n"] == 2
    assert f"exact_seen{script.WITHOUT}" in kept["quality"]
