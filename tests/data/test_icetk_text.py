"""icetk's vocabulary: its ids but for two that change places, any text and back, others refused."""

import numpy as np
import pytest
import sentencepiece

from babeldraw.config import to_dict
from babeldraw.data.text import Vocabulary
from babeldraw.errors import UserError
from babeldraw.models.condition import Lexicon
from babeldraw.models.conditions import TextCondition
from tests import icetk_text
from tests.data.test_text import ANY_TEXTS


@pytest.fixture(scope="module", params=[True, False], ids=["padding named", "padding a piece"])
def path(request, tmp_path_factory):
    return icetk_text.write(
        tmp_path_factory.mktemp("icetk") / "ice_text.model", named=request.param
    )


@pytest.fixture(scope="module")
def vocabulary(path):
    return Vocabulary(path)


def test_ids_are_its_own_but_for_padding_and_unknown(path, vocabulary):
    theirs = sentencepiece.SentencePieceProcessor(model_file=path)
    assert (theirs.id_to_piece(0), theirs.id_to_piece(3)) == ("<unk>", "<pad>")
    for said in icetk_text.CAPTIONS:
        (ids,) = vocabulary.encode([said], 60)
        expected = theirs.encode(said)
        np.testing.assert_array_equal(ids[: len(expected)], expected)
        # No end, and padding is 0 as everywhere.
        assert not ids[len(expected) :].any() and {0, 3}.isdisjoint(expected)
    assert vocabulary.size == theirs.get_piece_size()


def test_any_unicode_comes_back(vocabulary):
    assert vocabulary.spells_bytes and vocabulary.made["model"] == "unigram"
    for said in ANY_TEXTS:
        (length,) = vocabulary.lengths([said])
        (ids,) = vocabulary.encode([said], length)
        assert ids.all() and vocabulary.decode(ids) == said
        assert [number for _, number in vocabulary.pieces(said)] == ids.tolist()


def test_an_unknown_character_is_no_padding(tmp_path):
    path = icetk_text.write(tmp_path / "v", size=80, byte_fallback=False)
    vocabulary = Vocabulary(path)
    (ids,) = vocabulary.encode(["red ж red"], 8)
    pieces = dict(map(reversed, vocabulary.pieces("red ж red")))
    assert 3 in ids and pieces[3] == "<unk>" and vocabulary.unknown("red ж") == "ж"
    # A text has no end inside it, so the network sees all of its pieces.
    (count,) = vocabulary.lengths(["red ж red"])
    assert ids[:count].all() and not ids[count:].any()


def test_another_number_of_pieces_than_the_network_s_is_one_line(path, vocabulary):
    size = vocabulary.size
    condition = TextCondition(size, words=path)
    assert condition.vocabulary_file == path
    assert condition.with_vocabulary(size) == condition
    with pytest.raises(UserError, match=f"ice_text.model has {size} pieces and config.condition.v"):
        TextCondition(130_000, words=path).with_vocabulary(size)
    # Without one a run takes what its captions carry.
    assert to_dict(TextCondition(100).with_vocabulary(90))["vocab_size"] == 90


def test_a_model_whose_fourth_piece_is_no_padding_is_another_one(tmp_path):
    path = icetk_text.write(tmp_path / "v", pad_id=-1)
    with pytest.raises(UserError, match="nor T5's or icetk's; train one with babeldraw"):
        Vocabulary(path)


def test_a_prompt_of_a_language_that_the_vocabulary_has_not_is_one_line(tmp_path):
    path = icetk_text.write(tmp_path / "v", size=80, byte_fallback=False)
    lexicon, condition = Lexicon(Vocabulary(path)), TextCondition(80, 64)
    with pytest.raises(UserError, match="most letters of the prompt 'красный круг' are not in the"):
        condition.ask("красный круг", lexicon)
    (note,) = condition.ask("red круг ring, a red ring", lexicon).notes
    assert "draw as one unknown piece" in note
    # What is no letter is of no language.
    assert "one unknown piece" in condition.ask("★", lexicon).notes[0]
