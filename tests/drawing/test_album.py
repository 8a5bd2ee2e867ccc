"""A folder of pictures: whole or not there, gone on with, never mixed."""

import json

import numpy as np
import pytest

from babeldraw.data.image import decode, read_png_text
from babeldraw.drawing import album as album_module
from babeldraw.drawing.album import Album
from babeldraw.errors import UserError

PROMPTS = ["a ring", "", "a square"]
SETTINGS = {"step": 7, "temperature": 0.5}


def make(folder, **changes):
    values = {"folder": folder, "settings": SETTINGS, "prompts": PROMPTS, "each": 2} | changes
    return Album(**values)


def entries(number):
    images = np.full((2, 4, 4, 3), 10 * number, np.uint8)
    return [(image, {"file": f"{number}_{i}.png", "seed": i}) for i, image in enumerate(images)]


def test_a_picture_and_its_line_say_how_it_was_drawn(tmp_path):
    album = make(tmp_path)
    assert album.open() == [0, 1, 2]
    album.add(1, entries(1))
    lines = album.lines()
    assert lines[1] == {"number": 1, "prompt": "", "file": "1_1.png", "seed": 1, **SETTINGS}
    assert np.all(decode(tmp_path / "1_1.png") == 10)
    text = read_png_text(tmp_path / "1_1.png")
    assert text == {"number": "1", "prompt": "", "seed": "1", "step": "7", "temperature": "0.5"}


def test_it_goes_on_with_the_prompts_that_are_not_finished(tmp_path):
    album = make(tmp_path)
    album.open()
    album.add(0, entries(0))
    album.add(2, entries(2))
    # Killed within the last line.
    manifest = tmp_path / "manifest.jsonl"
    manifest.write_text(manifest.read_text()[:-9])
    again = make(tmp_path)
    assert again.open() == [1, 2]
    assert [line["file"] for line in again.lines()] == ["0_0.png", "0_1.png"]
    again.add(1, entries(1))
    again.add(2, entries(2))
    assert make(tmp_path).open() == [] and len(again.lines()) == 6


def test_other_settings_or_prompts_are_not_mixed_in(tmp_path):
    album = make(tmp_path)
    album.open()
    album.add(0, entries(0))
    with pytest.raises(UserError, match=r"with temperature 0\.5 and now it is 1\.0; name another"):
        make(tmp_path, settings={**SETTINGS, "temperature": 1.0}).open()
    with pytest.raises(UserError, match="a picture of 'a ring' as prompt 0, which is not asked"):
        make(tmp_path, prompts=["a circle"]).open()
    with pytest.raises(UserError, match="of 'a ring' at level None and now it is 16; name anothe"):
        make(tmp_path, levels=["16", "32", "16"]).open()
    # More prompts may follow.
    assert make(tmp_path, prompts=[*PROMPTS, "more"]).open() == [1, 2, 3]


def test_a_full_disk_leaves_no_line_without_its_picture(tmp_path, monkeypatch):
    album = make(tmp_path)
    album.open()
    whole = album_module.save_png
    left = iter([True, False])

    def full(path, image, text):
        if not next(left):
            raise OSError(28, "No space left on device")
        whole(path, image, text)

    monkeypatch.setattr(album_module, "save_png", full)
    with pytest.raises(UserError, match=r"0_1\.png cannot be written: No space left on device; "):
        album.add(0, entries(0))
    assert album.lines() == []
    assert json.loads((tmp_path / "settings.json").read_text()) == SETTINGS
