"""docs/examples/cogview2.py: what is told, compared and enlarged; its cells, tables, quick run."""

import argparse
import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest

from babeldraw.data import shapes
from babeldraw.data.emoji import Entry, captions
from babeldraw.data.image import save_png
from babeldraw.prediction.coglm import CogLMSampling
from babeldraw.train.experiment import parse


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("cogview2")


@pytest.fixture(scope="module")
def measures(script):
    return sys.modules["cogview2_measures"]


@pytest.fixture(scope="module")
def tables(script):
    return sys.modules["cogview2_tables"]


def asked(workdir=Path("runs")):
    return argparse.Namespace(workdir=workdir, emoji=Path("emoji"), quick=False)


# ------------------------------------------------------------------ what is measured


def test_a_scene_may_be_told_from_either_side(measures):
    scene = shapes.parse_caption(
        "a small red circle left of a large blue ring on a gray background"
    )
    texts = [
        scene.caption(),
        "a large blue ring right of a small red circle on a gray background",
        "a large blue ring left of a small red circle on a gray background",
        "a large blue ring of a ring",
    ]
    found = measures.scenes_told(texts, [scene] * 4)
    assert found["exact"]["value"] == 0.5 and found["grammar"]["value"] == 0.75


def entry(concept, name, style):
    file = f"train/{concept}_{style}.png"
    return Entry(file, captions(name, style), concept, name, style)


def test_a_told_emoji_is_right_by_any_of_its_captions(measures):
    world = [entry(c, n, s) for c, n in (("1f", "owl"), ("2f", "bee")) for s in ("Noto", "Fluent")]
    said = {one.file: one.caption for one in world}
    texts = ["an owl, in the style of Noto", "Fluent: owl", "bee, drawn by Noto", "an owl owl"]
    found = measures.entries_told(texts, [world[0]] * 4, world, said)
    assert {name: one["value"] for name, one in found.items()} == {
        "caption": 0.75,
        "concept": 0.5,
        "style": 0.5,
    }


def test_the_best_is_of_the_lowest_rank_and_the_first_of_the_seed_0(measures):
    exact = np.array([[1.0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 0]])
    seeds = np.array([[3, 0, 1, 2], [1, 2, 0, 3], [0, 1, 2, 3]])
    ranks = np.array([[0, 1, 2, 3], [3, 2, 1, 0], [0, 1, 2, 3]])
    found = {name: one["value"] for name, one in measures.of_selection(exact, seeds, ranks).items()}
    expected = {"first": 0, "mean": 1 / 6, "best": 2 / 3, "any": 2 / 3}
    expected |= {"best_less_first": 2 / 3, "best_less_mean": 1 / 2}
    assert found == pytest.approx(expected)


class Teller:
    """Tells of every picture the same, in pieces of a letter each, of which it reads 30."""

    captioner = argparse.Namespace(codes=argparse.Namespace(length=30))
    vocabulary = argparse.Namespace(
        encode=lambda texts, limit: [[ord(letter) for letter in text[:limit]] for text in texts],
        decode=lambda ids: "".join(map(chr, ids)),
    )

    def caption(self, images, batch_size):
        return [argparse.Namespace(text="a very long name of a thing, i") for _ in images]


def test_captions_are_compared_as_far_as_they_are_read(measures, tmp_path):
    world = [entry("1f", "very long name of a thing", "Noto"), entry("2f", "bee", "Noto")]
    for one in world:
        save_png(tmp_path / one.file, np.zeros((8, 8, 3), np.uint8))
    found = measures.emoji_told(Teller(), world, world, tmp_path)
    values = {name: one["value"] for name, one in found.items()}
    assert values == {"caption": 1.0, "concept": 0.5, "style": 1.0}


class Painter:
    """Draws what is asked for where the text has weight, and nothing without."""

    defaults = CogLMSampling()

    def sample(self, prompts, seed, settings, batch_size):
        assert len(seed) == len(prompts) == len({*seed})
        for prompt in prompts:
            scene, rng = shapes.parse_caption(prompt), np.random.default_rng(0)
            image = shapes.render(scene, 64, rng)
            yield argparse.Namespace(image=image if settings.text_weight else np.zeros_like(image))


def test_ways_are_compared_with_the_first_or_with_the_one_that_is_named(measures):
    ways = {"none": {}, "some": {"text_weight": 1.0}, "more": {"text_weight": 2.0}}
    found = measures.compared(Painter(), ways, 2, {"more": "some"})
    assert [one["exact_unseen"]["value"] for one in found.values()] == [0, 1, 1]
    assert [one["gain_seen"]["value"] for one in found.values()] == [0, 1, 0]
    assert [one["against"] for one in found.values()] == ["none", "none", "some"]
    assert found["more"]["settings"] == {"text_weight": 2.0}


# ------------------------------------------------------------------ cells


def test_cells_differ_in_their_maskings_alone(script):
    found = [parse(script.shapes_config(count, asked())) for count in (1, 2, 3)]
    odds = [vars(one.prediction.odds) for one in found]
    assert [sum(value > 0 for value in of.values()) for of in odds] == [1, 2, 3]
    assert odds[0]["text_to_image"] > 0 and odds[1]["text"] == 0
    recipes = [(e.data, e.train, e.optimizer, e.model, e.tokenizer_run) for e in found]
    assert all(recipe == recipes[0] for recipe in recipes)
    assert found[0].tokenizer_run.endswith("runs/shapes_tokenizer")


def test_emoji_are_drawn_into_the_small_codes(script):
    found = parse(script.emoji_config(3, asked()))
    assert found.generator.codes.shape == (8, 8) and found.image_size == (64, 64)
    # No group of parameters is named that a CogLM has not.
    assert found.optimizer.groups == ()


def test_both_draw_as_many_codes_by_the_same_blocks(script):
    found = [parse(script.long_config(file, asked())) for file in ("refiner.py", "coglm.py")]
    assert [one.generator.codes.shape for one in found] == [(60, 60), (60, 60)]
    assert found[0].model.decoder == found[1].model.decoder
    assert found[0].prediction.passes == 6


def test_weights_of_a_text_go_from_none_to_twice_and_beyond(script, monkeypatch):
    given, ways = {}, sys.modules["cogview2_ways"]
    monkeypatch.setattr(ways.Sampler, "from_run", lambda run: run)
    monkeypatch.setattr(ways, "compared", lambda run, ways, count: given.update(ways) or {})
    cell, _ = script.all_cells()["text_weight"]
    cell(asked())
    factors = [math.exp(way["text_weight"]) for way in given.values()]
    np.testing.assert_allclose(factors[:5], [1, 1.25, 1.5, 1.75, 2], atol=1e-12)
    assert [way["text_weight"] for way in given.values()][5:] == [1.0, 1.4, 2.0]


# ------------------------------------------------------------------ tables


def figure(value):
    return {"value": value, "interval": [value - 0.1, value + 0.1]}


def figures(*names, value=0.5):
    return {name: figure(value) for name in names}


COST = {"parameters": 3_390_000, "steps": 1500, "minutes": 11.0, "peak_gib": 1.25}


def shapes_figures(tables):
    hole = {"exact": figure(0.7), "psnr_in_hole": figure(20.0)}
    return {
        **COST,
        "quality": {"prompts": figures(*tables.DRAWN["shapes"][1], value=0.9)},
        "captions": figures(*tables.TOLD["shapes"], value=0.8),
        "hole": {"filled": hole, tables.NOTHING: hole},
        "losses": [[100, 3.0]],
        "curves": {"total": [[100, 3.0]], "image": [[100, 4.0]], "text": []},
    }


def test_tables_hold_what_there_is(tables):
    drawn = {"exact_seen": figure(0.5), "exact_unseen": figure(0.5)}
    more = {"gain_seen": figure(0.1), "gain_unseen": figure(-0.1), "against": "1.0 times"}
    stage = {"seconds": 2.0, "tokens": 3600, "passes": 6, "operations": 10**11}
    one_by_one = {**stage, "seconds": 8.0, "passes": 3600}
    kinds = ("first", "mean", "best", "any", "best_less_first", "best_less_mean")
    text = tables.tables(
        {
            "shapes_coglm_1": shapes_figures(tables),
            "shapes_coglm_3": shapes_figures(tables),
            "emoji_coglm_3": {
                **COST,
                # Without the weights of a judge.
                "quality": {},
                "captions": figures(*tables.TOLD["emoji"]),
            },
            "lopar_speed": {"LoPAR": stage, "one by one": one_by_one},
            "post_selection": {"num": 8, "kinds": {"seen": figures(*kinds)}},
            "text_weight": {"2.0 times": {**drawn, **more}},
        }
    )
    line = "| 3 | 90.0 % [80.0, 100.0] | 90.0 % [80.0, 100.0] | 80.0 % [70.0, 90.0] |"
    assert line in text and "| nothing drawn anew |  |" in text
    assert "| 20.0 [19.9, 20.1] | 3.39 | 1,500 | 11.0 | 1.25 |" in text
    assert "| 3 |  |  |  |  | 50.0 % [40.0, 60.0] |" in text
    assert "| LoPAR | 3,600 | 6 | 100.0 | 2.00 | 50.0 | 4.00 |" in text
    assert "| one by one | 3,600 | 3,600 | 100.0 | 8.00 | 12.5 | 1.00 |" in text
    assert "| seen, of 8 | 50.0 % [40.0, 60.0] |" in text and "+50.0 [+40.0, +60.0] |" in text
    assert "| 2.0 times | 1.0 times | 50.0 % [40.0, 60.0] | +10.0 [+0.0, +20.0] |" in text


def test_curves_are_drawn_of_what_there_is(tables, tmp_path):
    weights = {
        "1.0 times": {"settings": {"text_weight": 0.0}, **figures("exact_seen", "exact_unseen")}
    }
    found = {"shapes_coglm_1": shapes_figures(tables), "text_weight": weights}
    tables.draw_curves(found, argparse.Namespace(workdir=tmp_path))
    assert (tmp_path / "cogview2.png").exists()


# ------------------------------------------------------------------ the whole


@pytest.mark.slow
@pytest.mark.budget(300)  # A tokenizer, a network and four measurements.
def test_the_quick_variant_goes_all_the_way(script, tmp_path, monkeypatch):
    cells = ["shapes_tokenizer", "shapes_coglm_3", "lopar_speed", "post_selection", "clusters"]
    words = ["--quick", f"--workdir={tmp_path}", f"--cells={','.join(cells)},text_weight"]
    monkeypatch.setattr(sys, "argv", ["cogview2.py", *words])
    script.main()
    folder = tmp_path / "figures" / "cogview2"
    found = {file.stem: json.loads(file.read_text()) for file in folder.iterdir()}
    assert {*found} == {*cells, "text_weight"}
    assert {*found["shapes_coglm_3"]["curves"]} == {"total", "image", "text"}
    assert found["shapes_coglm_3"]["captions"]["exact_seen"]["n"] == 2
    assert found["lopar_speed"]["LoPAR"]["passes"] == 6
    assert found["clusters"] and (tmp_path / "cogview2.png").exists()
    assert "| shapes, maskings |" in (tmp_path / "cogview2.md").read_text()
