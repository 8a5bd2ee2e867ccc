"""The vocabulary: round trips, padding, cuts, reproducible training, clear mistakes."""

import itertools
import logging

import numpy as np
import pytest
import sentencepiece

from babeldraw.data import text
from babeldraw.data.text import Vocabulary, train_vocabulary
from babeldraw.errors import UserError

COLOURS = ("red", "green", "blue", "yellow")
THINGS = ("circle", "square", "étoile", "星")
CAPTIONS = [
    f"a {c} {a} on a {d} {b}" for c, a, d, b in itertools.product(COLOURS, THINGS, COLOURS, THINGS)
]


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("vocabulary") / "deep" / "text.model"
    train_vocabulary(CAPTIONS, path, 64)
    return path


@pytest.fixture(scope="module")
def vocabulary(path):
    return Vocabulary(path)


def test_captions_come_back(vocabulary):
    length = max(vocabulary.lengths(CAPTIONS))
    ids = vocabulary.encode(CAPTIONS, length)
    assert ids.dtype == np.int32 and ids.shape == (len(CAPTIONS), length)
    assert ids.min() >= 0 and ids.max() < vocabulary.size
    assert [vocabulary.decode(row) for row in ids] == CAPTIONS


def test_rows_are_padded_on_the_right_and_cut(vocabulary):
    (whole,) = vocabulary.encode(CAPTIONS[:1], 40)
    (count,) = vocabulary.lengths(CAPTIONS[:1])
    assert (whole[:count] != 0).all() and (whole[count:] == 0).all()
    for length in range(1, count):
        np.testing.assert_array_equal(vocabulary.encode(CAPTIONS[:1], length)[0], whole[:length])


@pytest.mark.parametrize("caption", ["", "  ", "\n"])
def test_an_empty_caption_is_all_padding(vocabulary, caption):
    np.testing.assert_array_equal(vocabulary.encode([caption], 5), np.zeros((1, 5)))
    assert vocabulary.lengths([caption]) == [0]
    assert vocabulary.decode([0] * 5) == ""


def test_rows_that_a_table_has_to_spare_are_no_text(vocabulary):
    (ids,) = vocabulary.encode(CAPTIONS[:1], 40)
    spare = [vocabulary.size, *ids, vocabulary.size + 40]
    assert vocabulary.decode(spare) == CAPTIONS[0]


def test_any_unicode_is_encoded(vocabulary):
    ids = vocabulary.encode(["red 日本 \ud800 \0 🌟", "مرحبا"], 16)
    assert (ids == text.UNKNOWN_ID).any()
    assert vocabulary.encode([], 16).shape == (0, 16)


def test_training_twice_gives_the_same_file(path, tmp_path):
    train_vocabulary(iter(CAPTIONS), tmp_path / "again", 64)
    assert (tmp_path / "again").read_bytes() == path.read_bytes()
    assert [p.name for p in tmp_path.iterdir()] == ["again"]


def test_few_captions_carry_fewer_pieces_and_the_log_says_so(tmp_path, caplog):
    with caplog.at_level(logging.INFO):
        size = train_vocabulary(["", "a red circle", "a\nblue circle"], tmp_path / "v", 16_000)
    assert 2 < size < 16_000
    assert size == Vocabulary(tmp_path / "v").size
    assert any(f"{size} pieces, 16000" in message for message in caplog.messages)


def test_a_sample_is_of_the_texts_and_uniform():
    counts = np.zeros(20)
    for seed in range(300):
        shuffled = np.random.default_rng(seed).permutation(20)
        sample = text._sample(map(int, shuffled), 5)
        assert len(set(sample)) == 5
        counts[sample] += 1
    # 300 draws of 5 in 20: 75 each, standard deviation 7.5.
    assert np.abs(counts - 75).max() < 5 * 7.5
    assert text._sample(iter("abc"), 5) == ["a", "b", "c"]


@pytest.mark.parametrize("captions", [[], ["", " "]])
def test_no_captions_is_the_users_mistake_and_leaves_no_file(captions, tmp_path):
    with pytest.raises(UserError, match="no captions"):
        train_vocabulary(captions, tmp_path / "v")
    assert not list(tmp_path.iterdir())


def test_a_size_too_small_for_the_letters_is_named(tmp_path):
    with pytest.raises(UserError, match="size=5"):
        train_vocabulary(CAPTIONS, tmp_path / "v", 5)
    assert not list(tmp_path.iterdir())


def test_missing_and_foreign_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"gone.*cannot be read"):
        Vocabulary(tmp_path / "gone")
    (tmp_path / "junk").write_bytes(b"\x89PNG not a model")
    (tmp_path / "empty").write_bytes(b"")
    for name in ("junk", "empty"):
        with pytest.raises(UserError, match=f"{name} is no SentencePiece model"):
            Vocabulary(tmp_path / name)


def test_a_model_with_other_special_ids_is_refused(tmp_path):
    with (tmp_path / "bos").open("wb") as model:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=iter(CAPTIONS), model_writer=model, vocab_size=28, minloglevel=2
        )
    with pytest.raises(UserError, match="bos is no SentencePiece model with ids 0"):
        Vocabulary(tmp_path / "bos")


# ------------------------------------------------------------------ any text

ANY_TEXTS = [
    "a red circle",
    "ein grüner Kreis, étoile",
    "日本 の 猫",
    "مرحبا بالعالم",
    "שלום עולם",
    "👩‍🚒 🇫🇷 👍🏽 a firefighter",
    "x" * 5000,
    "word " * 3000 + "end",
]


@pytest.mark.parametrize("model", ["byte_pair", "unigram"])
def test_with_bytes_any_text_comes_back_and_a_long_one_is_cut(model, tmp_path):
    config = text.VocabularyConfig(400, model, bytes="always")
    train_vocabulary(CAPTIONS, tmp_path / "v", config)
    vocabulary = Vocabulary(tmp_path / "v")
    assert vocabulary.spells_bytes
    assert vocabulary.made == {"model": model, "normalization": "nmt_nfkc"}
    for said in ANY_TEXTS:
        pieces = vocabulary.pieces(said)
        (length,) = vocabulary.lengths([said])
        assert len(pieces) == length and vocabulary.unknown(said) == ""
        whole, cut = (vocabulary.encode([said], n)[0] for n in (length, 16))
        assert vocabulary.decode(whole) == said == vocabulary.normalized(said)
        assert [number for _, number in pieces] == whole.tolist()
        # What is cut is the end alone.
        np.testing.assert_array_equal(cut[:length], whole[:16])
    with pytest.raises(UserError, match="no vocabulary of size=100 from these captions"):
        train_vocabulary(CAPTIONS, tmp_path / "v", text.VocabularyConfig(100, bytes="always"))


def test_the_rule_of_normalization_goes_with_the_file(tmp_path):
    said = "Ⅳ ﬁne  RED"
    for rule, read in (("nmt_nfkc", "IV fine RED"), ("nfkc_cf", "iv fine red"), ("identity", None)):
        path = tmp_path / rule
        train_vocabulary([*CAPTIONS, said], path, text.VocabularyConfig(80, normalization=rule))
        assert Vocabulary(path).made["normalization"] == rule
        assert Vocabulary(path).normalized(said) == (read or "Ⅳ ﬁne RED")


def test_marks_of_direction_go_and_joiners_of_emoji_stay(tmp_path):
    train_vocabulary(CAPTIONS, tmp_path / "v", text.VocabularyConfig(400, bytes="always"))
    vocabulary = Vocabulary(tmp_path / "v")
    assert vocabulary.normalized("\u200fשלום\u200e") == "שלום"
    assert vocabulary.normalized("👩\u200d🚒") == "👩\u200d🚒"


@pytest.mark.parametrize("field", ["model", "bytes", "normalization"])
def test_a_recipe_of_no_such_kind_is_refused(field):
    with pytest.raises(UserError, match=f"{field} is 'x'; the choices are"):
        text.VocabularyConfig(**{field: "x"})
