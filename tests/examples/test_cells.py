"""docs/examples/cells.py: cells are made once, runs have their minutes, tables their intervals."""

import argparse
import json

import pytest

from babeldraw.errors import UserError
from babeldraw.train.presets import load_config


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("cells")


def asked(tmp_path, **more):
    said = {"workdir": tmp_path, "out": None, "cells": "*", "quick": True}
    return argparse.Namespace(**(said | more))


def test_a_cell_with_figures_is_not_made_again(script, tmp_path):
    made = []
    cells = {
        name: (lambda args, name=name: made.append(name) or {"of": name}, 1.0)
        for name in ("a_1", "a_2", "b_1")
    }
    found = script.run_cells(cells, asked(tmp_path, cells="a_*"), "toy")
    assert made == ["a_1", "a_2"] and found == {"a_1": {"of": "a_1"}, "a_2": {"of": "a_2"}}
    (tmp_path / "figures" / "toy" / "a_2.json").write_text(json.dumps({"of": "before"}))
    found = script.run_cells(cells, asked(tmp_path), "toy")
    assert made == ["a_1", "a_2", "b_1"] and found["a_2"] == {"of": "before"}
    with pytest.raises(UserError, match="--cells names 'c'; the cells are a_1, a_2, b_1"):
        script.run_cells(cells, asked(tmp_path, cells="a_1,c"), "toy")


def test_quick_figures_do_not_lie_among_those_of_record(script, tmp_path):
    assert script.folder_of_figures(asked(tmp_path), "toy") == tmp_path / "figures" / "toy"
    elsewhere = asked(tmp_path, quick=False, out=tmp_path / "elsewhere")
    assert script.folder_of_figures(elsewhere, "toy") == tmp_path / "elsewhere" / "toy"


def test_another_length_moves_all_that_goes_with_it(script):
    config = load_config("rar.py", beside=script.ROOT / "configs" / "demo" / "README")
    whole = config.train.steps
    assert (config.prediction.anneal_start, config.prediction.anneal_end) == (
        whole // 2,
        3 * whole // 4,
    )
    script.set_steps(config, 2 * whole)
    schedule = config.optimizer.schedule
    assert (config.train.steps, schedule.decay_end, schedule.warmup_steps) == (
        2 * whole,
        2 * whole,
        200,
    )
    assert (config.prediction.anneal_start, config.prediction.anneal_end) == (
        whole,
        3 * whole // 2,
    )
    script.set_steps(config, 100)
    assert (schedule.warmup_steps, schedule.decay_start) == (20, 20)


def test_tables_say_how_sure_a_share_is(script):
    assert script.share({"value": 0.905}) == "90.5 %"
    assert script.share({"value": 0.5, "interval": [0.4, 0.61]}) == "50.0 % [40.0, 61.0]"
    lines = script.markdown(["a", "b"], [["x", "1"], ["y", "2"]]).splitlines()
    assert lines == ["| a | b |", "| --- | ---: |", "| x | 1 |", "| y | 2 |"]
