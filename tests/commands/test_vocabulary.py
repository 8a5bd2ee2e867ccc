"""Captions to a SentencePiece file."""

import numpy as np

from babeldraw.data.image import save_png
from babeldraw.data.text import Vocabulary

CAPTIONS = ["a red circle", "a blue square", "two red squares left of a ring", "ein grüner Kreis"]


def test_a_folder_s_captions_become_a_vocabulary(cli, tmp_path):
    for index, caption in enumerate(CAPTIONS):
        save_png(tmp_path / "pictures" / f"{index}.png", np.zeros((8, 8, 3), np.uint8))
        (tmp_path / "pictures" / f"{index}.txt").write_text(caption, encoding="utf-8")
    out = tmp_path / "new" / "text.model"
    words = [f"--path={tmp_path / 'pictures'}", "--split=all", "--size=40", f"--out={out}"]
    status, printed, _ = cli("vocabulary", *words)
    vocabulary = Vocabulary(out)
    assert (status, printed) == (0, f"{out}: {vocabulary.size} pieces\n")
    assert vocabulary.size <= 40
    for caption, ids in zip(CAPTIONS, vocabulary.encode(CAPTIONS, 40), strict=True):
        assert vocabulary.decode(ids) == caption


def test_shapes_have_few_words(cli, tmp_path):
    out = tmp_path / "text.model"
    status, *_ = cli("vocabulary", "--source=shapes", "--size=80", f"--out={out}")
    vocabulary = Vocabulary(out)
    assert status == 0 and vocabulary.size <= 80
    caption = "a small red circle above a large blue square on a gray background"
    assert vocabulary.decode(vocabulary.encode([caption], 80)[0]) == caption
