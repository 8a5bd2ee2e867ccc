"""docs/examples/editing.py: what is masked is one object, and what is counted is what changed."""

import argparse
import json
import sys

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.evaluation.shapes_scorer import find_objects


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("editing")


def without(case):
    """The picture with its background in the hole."""
    image = case.image.copy()
    image[case.hole] = shapes.BACKGROUNDS[shapes.parse_caption(case.text).background]
    return image


def test_the_box_holds_the_first_object_and_nothing_else(script):
    for case in script.pairs(6, 64):
        scene = shapes.parse_caption(case.text)
        assert scene.split() == "test" and case.hole.mean() == 0.25
        _, before = find_objects(case.image)
        (left,) = find_objects(without(case))[1]
        assert len(before) == 2
        assert (left.colour, left.shape) == (scene.objects[1].colour, scene.objects[1].shape)


def test_of_four_scenes_the_box_holds_one_object(script):
    for case in script.quarters(4, 64):
        assert case.image.shape == (128, 128, 3) and case.hole.sum() == 32 * 32
        assert find_objects(case.scene.of(without(case)))[1] == []
        (found,) = find_objects(case.scene.of(case.image))[1]
        wanted = shapes.parse_caption(case.text).objects[0]
        assert found.colour != wanted.colour and found.shape != wanted.shape


def test_what_is_counted(script):
    cases = script.pairs(4, 64)
    kept = script.figures(cases, [case.image for case in cases])
    assert kept["outside"]["identical"]["value"] == 1
    assert kept["outside"]["changed_pixels"]["value"] == 0
    assert kept["quality"]["exact"]["value"] == 0
    inside = [without(case) for case in cases]
    assert script.figures(cases, inside)["outside"]["identical"]["value"] == 1
    inside[0][~cases[0].hole] ^= 1
    touched = script.figures(cases, inside)["outside"]
    assert touched["identical"]["value"] == 0.75 and touched["changed_pixels"]["value"] == 0.25
    rng = np.random.default_rng(0)
    true = [shapes.render(shapes.parse_caption(case.text), 64, rng) for case in cases]
    assert script.figures(cases, true)["quality"]["exact"]["value"] == 1


@pytest.mark.budget(10)
def test_it_goes_through(script, generator_run, tmp_path, monkeypatch, capsys):
    words = [f"--workdir={tmp_path}", f"--generator={generator_run}", "--quick"]
    monkeypatch.setattr(sys, "argv", ["editing.py", *words, "--cells=given,larger"])
    script.main()
    lines = (tmp_path / "editing.md").read_text().splitlines()
    assert [line.split(" | ")[0] for line in lines[2:]] == ["| given", "| larger"]
    assert "\n".join(lines) in capsys.readouterr().out
    figures = json.loads((tmp_path / "figures" / "editing" / "larger.json").read_text())
    assert figures["outside"]["identical"]["value"] == 1 and (tmp_path / "larger.png").exists()
    assert not (tmp_path / "figures" / "editing" / "drawn.json").exists()


def test_a_quick_run_has_few_pictures(script):
    assert script.count(argparse.Namespace(quick=True)) < script.count(
        argparse.Namespace(quick=False)
    )
