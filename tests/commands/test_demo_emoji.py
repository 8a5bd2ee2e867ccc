"""The page of the emoji demo: which prompts it shows, beside which pictures, and whom it names."""

import json

import numpy as np
import pytest

from babeldraw.commands.demo_emoji import PICTURES, ROWS, STYLES, shown
from babeldraw.commands.report import WORLD_FILE, write_report
from babeldraw.data.emoji import LIST, UNSEEN_PAIRS, entries
from babeldraw.data.emoji_packs import Icon
from babeldraw.data.image import save_png

NAMES = ("Noto", "Twemoji", "Fluent", "OpenMoji")


@pytest.fixture(scope="module")
def world():
    icons = [Icon(f"{0x10000 + n:x}", f"thing {n}", "") for n in range(400)]
    return entries({style: icons for style in NAMES})


def test_rows_are_seen_concepts_and_then_those_with_a_pair_held_out(world):
    rows = np.array(shown(world), object).reshape(2 * ROWS, STYLES)
    assert all(len({entry.concept for entry in row}) == 1 for row in rows)
    assert [tuple(entry.style for entry in row) for row in rows] == [NAMES] * len(rows)
    held_out = [sum(entry.split == UNSEEN_PAIRS for entry in row) for row in rows]
    assert held_out == [0] * ROWS + [1] * ROWS


def test_the_page_shows_each_drawing_beside_the_true_picture(world, tmp_path):
    (tmp_path / WORLD_FILE).write_text(json.dumps({"world": "emoji"}))
    asked = shown(world)[-STYLES:]
    lines = []
    for number, entry in enumerate(asked):
        true = np.full((8, 8, 3), 50 * number, np.uint8)
        (tmp_path / PICTURES / entry.split).mkdir(parents=True, exist_ok=True)
        save_png(tmp_path / PICTURES / entry.file, true)
        (tmp_path / "samples").mkdir(exist_ok=True)
        save_png(tmp_path / "samples" / f"{number}.png", 255 - true)
        lines.append(json.dumps({"prompt": entry.caption[0], "file": f"{number}.png"}))
    (tmp_path / "samples" / "manifest.jsonl").write_text("\n".join(lines) + "\n")
    rows = [json.dumps(vars(entry)) for entry in asked]
    (tmp_path / PICTURES / LIST).write_text("\n".join(rows) + "\n")
    page = write_report(tmp_path).read_text()
    assert page.count('alt="the true picture"') == STYLES
    assert page.count("held-out pair</small>") == 1
    assert all(entry.caption[0] in page for entry in asked)
    assert "CC-BY-SA-4.0" in page and "Twitter and contributors" in page
