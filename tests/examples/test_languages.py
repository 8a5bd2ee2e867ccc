"""docs/examples/languages.py: which language is left out, what is asked for, its table."""

import argparse

import numpy as np
import pytest

from babeldraw.data.emoji import SEEN, read_entries
from babeldraw.data.text import Vocabulary
from babeldraw.evaluation.concepts import Gallery
from babeldraw.train.experiment import parse


@pytest.fixture(scope="module")
def script(load_script):
    return load_script("languages")


@pytest.fixture
def names(script, monkeypatch):
    """Of each thing a name in each language; of every fourth the French one is the German one."""
    told = {
        f"{0x10000 + n:x}": {
            language: f"{'de' if n % 4 == 0 and language == 'fr' else language} wort {n}"
            for language in script.LANGUAGES
        }
        for n in range(160)
    }
    monkeypatch.setattr(script, "read_names", lambda folder, languages: told)
    return told


@pytest.fixture
def args(names, emoji_demo, tmp_path):
    return argparse.Namespace(demo=emoji_demo, workdir=tmp_path, quick=False)


def test_a_language_left_out_is_of_no_caption_and_stands_beside_the_others(script, names, args):
    world = script.write_pictures(args)
    lacking = 0
    for entry in read_entries(world):
        told, lacks = [line[:2] for line in entry.caption[4:]], script.left_out(entry.concept)
        if int(entry.concept, 16) % 4:
            assert {*told} == {*script.LANGUAGES} - {lacks}
        assert len(told) == len(script.LANGUAGES) - bool(lacks)
        lacking += bool(lacks)
    assert 100 < lacking < 220
    lines = world.with_suffix(".txt").read_text().splitlines()
    assert "thing 7 = fr wort 7" in lines and "de wort 7 = thing 7" in lines


def test_some_whole_concepts_are_trained_on(script, emoji_demo):
    entries = read_entries(emoji_demo / "emoji")
    kept = script.chosen(entries, 50)
    those = [e for e in entries if e.split == SEEN and e.concept in kept]
    assert 45 < len(those) <= 50 and len({e.concept for e in those}) == len(kept)


def test_prompts_are_in_a_language_told_and_in_the_one_left_out(script, names, args):
    world = script.write_pictures(args)
    entries = read_entries(world)
    gallery = Gallery(entries, np.zeros(1), np.zeros(1), lambda images: images)
    asked = script.asked_for(gallery, names, 40)
    assert len(asked) == 40
    for entry in (entries[index] for index in asked):
        lacks = script.left_out(entry.concept)
        assert entry.split == SEEN and lacks
        unseen, told = (script.prompt(entry, names, kind) for kind in ("left_out", "told"))
        assert unseen == f"{names[entry.concept][lacks]}, {entry.style}"
        assert told in entry.caption[4:]
        twin = int(entry.concept, 16) % 4 == 0 and lacks in ("fr", "de")
        assert script.spelt_anew(entry, names) == (not twin)


def test_the_generator_draws_one_of_all_languages_and_begins_as_it_is_named(
    script, args, monkeypatch
):
    tokens = {"source": "tokens", "path": "tokens", "split": "all"}
    monkeypatch.setattr(script, "stored_tokens", lambda tokenizer, world, out: tokens)
    warm = parse(script.generator_config("warm", args).to_dict())
    assert (warm.data.source, warm.data.captions) == ("tokens", "random")
    assert warm.starts[0].run == str(args.workdir / "encoder")


def test_the_pieces_are_of_captions_and_of_names(script, args, tmp_path, monkeypatch):
    monkeypatch.setattr(script, "PIECES", 120)
    script.give_vocabulary(tmp_path / "run", args)
    vocabulary = Vocabulary(tmp_path / "run" / "text.model")
    assert not vocabulary.unknown("thing 7, in the style of Twemoji = wort")
    assert vocabulary.lengths(["in the style of Twemoji"])[0] < 12


def test_the_table(script):
    quality = {"concept_english": {"value": 0.5}, "chance_left_out": {"value": 0.001}}
    found = {"encoder": {}, "fresh": {"steps": 9, "minutes": 2.0, "quality": quality}}
    lines = script.table(found).splitlines()
    assert lines[2] == "| fresh | 9 | 2.0 | 50.0 % |  |  |  |  | 0.1 % |  |"
