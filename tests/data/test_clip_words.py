"""CLIP's byte-pair merging on a vocabulary made by hand, whose results can be followed."""

import gzip
import json

import numpy as np
import pytest

from babeldraw.data.clip_words import (
    COUNT,
    END,
    MERGES,
    OPENAI,
    START,
    VOCABULARY,
    ClipWords,
    byte_letters,
    cleaned,
)
from babeldraw.errors import UserError

# The last pair, of a part that an earlier one makes, is merged after it.
PAIRS = [("t", "h"), ("c", "a"), ("ca", "t</w>"), ("th", "e</w>"), ("e", "r</w>"), ("th", "er</w>")]
FIRST = "#version: 0.2\n"
TEXT = FIRST + "".join(f"{a} {b}\n" for a, b in PAIRS)


def letters(word):
    """Ids of the letters of a word of ASCII, the last one's with its mark."""
    found = [ord(letter) - ord("!") for letter in word]
    return [*found[:-1], found[-1] + 256]


def merged(number):
    return 512 + number


@pytest.fixture
def words(tmp_path):
    with gzip.open(tmp_path / OPENAI, "wt", encoding="utf-8") as file:
        file.write(TEXT)
    return ClipWords.beside(str(tmp_path / "clip.safetensors"))


def test_tokens_are_bytes_words_ends_merges_and_two_marks(words):
    assert words.size == 512 + len(PAIRS) + 2
    assert (words.ids["!"], words.ids["~"], words.ids["¡"]) == (0, 93, 94)
    # The bytes that are not seen come last, in their order: 0 to 32, 127 to 160, 173.
    unseen = [*range(33), *range(127, 161), 173]
    assert [words.ids[byte_letters()[byte]] for byte in unseen] == [*range(188, 256)]
    assert words.ids[START] == 512 + len(PAIRS) and words.ids[END] == words.size - 1
    # 512 bytes, the published merges and two marks.
    assert 512 + COUNT + 2 == 49_408


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", [merged(2)]),
        ("The  CAT\n", [merged(3), merged(2)]),
        # e r</w> is made before th er</w>, of which it is a part.
        ("other", [*letters("ox")[:1], merged(5)]),
        ("cats", [merged(1), *letters("tx")[:1], *letters("s")]),
        ("the cat's", [merged(3), merged(2), *letters("'s")]),
        ("they've!!", [merged(0), *letters("ey"), *letters("'ve"), *letters("!!")]),
        # At a word's end "th" is t and h</w>, which no pair merges.
        ("7th 12", [*letters("7"), *letters("th"), *letters("1"), *letters("2")]),
        ("cat&amp;amp;cat", [merged(2), *letters("&"), merged(2)]),
        ("", []),
    ],
)
def test_known_results(words, text, expected):
    assert words.tokens(text) == expected


def test_letters_of_other_scripts_are_their_bytes(words):
    found = words.tokens("É")
    first, second = "é".encode()
    own = byte_letters()
    assert found == [words.ids[own[first]], words.ids[own[second] + "</w>"]]
    # A letter and its mark are one letter, a digit in a circle a numeral of its own.
    assert words.tokens("E\u0301") == found
    assert len(words.tokens("½½")) == 4 and cleaned(" A\u00a0 b ") == "a b"


def test_a_row_is_a_text_between_its_marks(words):
    rows = words.encode(["cat", "the " * 9], 6)
    start, end = words.ids[START], words.ids[END]
    the = merged(3)
    np.testing.assert_array_equal(
        rows, [[start, merged(2), end, 0, 0, 0], [start, the, the, the, the, end]]
    )
    assert rows.dtype == np.int32


def test_transformers_two_files_are_the_same_words(words, tmp_path):
    (tmp_path / MERGES).write_text(TEXT, encoding="utf-8")
    (tmp_path / VOCABULARY).write_text(json.dumps(words.ids), encoding="utf-8")
    assert ClipWords.beside(str(tmp_path / "x.safetensors")) == words


def test_what_cannot_be_is_one_line(words, tmp_path):
    ids, file = dict(words.ids), str(tmp_path / "x.safetensors")

    def fails(told):
        with pytest.raises(UserError, match=told):
            ClipWords.beside(file)

    (tmp_path / OPENAI).write_bytes(b"no gzip")
    fails(r"bpe_simple_vocab_16e6.txt.gz cannot be read: ")
    (tmp_path / OPENAI).unlink()
    fails(r"holds neither merges.txt nor bpe_simple_vocab_16e6.txt.gz, CLIP's words; copy one be")
    (tmp_path / MERGES).write_text(TEXT)
    fails(r"vocab.json is not there; it goes with .*merges.txt$")
    for vocabulary, told in (
        ("[1", "vocab.json is no JSON: "),
        ('["a"]', "vocab.json is no object of tokens and their numbers$"),
        (json.dumps({"a": 0}), "vocab.json holds no '!': it is of another vocabulary$"),
        (json.dumps(ids | {"more": 9_999}), "which is not the highest, 9999: CLIP finds a text's"),
    ):
        (tmp_path / VOCABULARY).write_text(vocabulary)
        fails(told)
    (tmp_path / MERGES).write_text(FIRST + "t h e\n")
    fails(r"merges.txt, line 2, is no pair of parts: 't h e'$")
