"""Several captions, several languages, and a class's name where there is no caption."""

import logging

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.captions import turn_of, with_captions
from babeldraw.data.config import DataConfig, MixturePart
from babeldraw.data.folder import FolderSource
from babeldraw.data.languages import in_language
from babeldraw.data.pipeline import TrainBatches, eval_batches
from babeldraw.data.prepare.inputs import open_input
from babeldraw.data.records import Record
from babeldraw.data.sources import open_source
from babeldraw.data.text import Vocabulary, captions_in, train_vocabulary
from babeldraw.errors import UserError

TIGER = "A tiger.\nfr.utf8=Un tigre.\npt_BR.utf8=Um tigre.\nca@valencia.utf8=Un tigre.\nde.utf8="


def paint(path, caption=None, suffix=".txt"):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((2, 3, 3), np.uint8)).save(path)
    if caption is not None:
        path.with_suffix(suffix).write_text(caption, encoding="utf-8")


def captions(path, require=True, **options):
    source = FolderSource(path, "all", require, **options)
    assert list(source.captions()) == [source[i].caption for i in range(len(source))]
    return list(source.captions())


# ------------------------------------------------------------------ languages


@pytest.mark.parametrize(
    ("language", "lines"),
    [
        ("", "A tiger."),
        ("fr", "Un tigre."),
        ("pt_BR", "Um tigre."),
        # An empty translation is none; nor does a language stand for its dialects.
        ("de", "A tiger."),
        ("pt", "A tiger."),
        ("any", "A tiger.\nUn tigre.\nUm tigre."),
    ],
)
def test_a_caption_in_a_language(language, lines):
    assert in_language(TIGER, language) == lines


@pytest.mark.parametrize("caption", ["one\n two ", "", "x.utf8 = y", "see fr.utf8=a", "a=b"])
@pytest.mark.parametrize("language", ["", "any", "fr"])
def test_a_caption_without_translations_stays_as_it_is(caption, language):
    assert in_language(caption, language) == caption


def test_a_picture_without_the_language_has_its_first_line_and_is_counted(tmp_path, caplog):
    paint(tmp_path / "a.png", TIGER)
    paint(tmp_path / "b.png", "A box.\nde.utf8=Eine Kiste.")
    paint(tmp_path / "c.png", "A ring.")
    paint(tmp_path / "d.png")
    with caplog.at_level(logging.WARNING):
        found = captions(tmp_path, require=False, language="fr")
    assert found == ["Un tigre.", "A box.", "A ring.", ""]
    (line,) = caplog.messages
    assert "2 of 3 captions are not there in data.language='fr'; their first line is" in line


def test_translations_that_are_left_out_are_told(tmp_path, caplog):
    paint(tmp_path / "a.png", TIGER)
    with caplog.at_level(logging.WARNING):
        assert captions(tmp_path) == ["A tiger."]
    (line,) = caplog.messages
    assert "translations (fr, pt_BR, ca@valencia), which are left out; data.language" in line


@pytest.mark.parametrize(("language", "there"), [("it", "ca@valencia, fr, pt_BR"), ("any", "none")])
def test_a_language_of_no_caption_is_refused(tmp_path, language, there):
    paint(tmp_path / "a.png", "A box." if language == "any" else TIGER)
    with pytest.raises(UserError, match=rf"data\.language='{language}' is of no.*{there}"):
        FolderSource(tmp_path, "all", language=language)


def test_shards_are_prepared_in_a_language(tmp_path):
    paint(tmp_path / "a.png", TIGER)
    paint(tmp_path / "b.png")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9")
    for language, said in (("", b"A tiger."), ("fr", b"Un tigre.")):
        source = open_input("folder", str(tmp_path), language=language)
        raws = [raw for piece in source.pieces(9) for raw in source.read(piece, 10**6)]
        assert [raw.caption for raw in raws] == [said, b"caf\xe9"]
    assert source.name.endswith("/all/fr")


# ------------------------------------------------------------------ which of several


class Said:
    """Records that each have three captions."""

    name, classes = "said", ("x",)

    def __len__(self):
        return 8

    def __getitem__(self, index):
        return Record(np.zeros((4, 4, 3), np.uint8), f"one {index}\ntwo {index}\nthree {index}")

    def captions(self):
        return (self[index].caption for index in range(len(self)))


def epochs(folder, how, start=0, count=6):
    """What 8 records say in each of some epochs, sorted."""
    source = with_captions(Said(), how)
    train_vocabulary(Said().captions(), folder / "text.model", 100)
    vocabulary = Vocabulary(folder / "text.model")
    options = {"batch_size": 8, "image_size": (4, 4), "seed": 3, "text_length": 12}
    batches = TrainBatches(source, vocabulary=vocabulary, captions=how, start_step=start, **options)
    said = [[vocabulary.decode(ids) for ids in next(batches)["text"]] for _ in range(count)]
    batches.close()
    (batch,) = eval_batches(source, batch_size=8, image_size=(4, 4))
    return [sorted(words) for words in said], batch["caption"][0]


def test_the_first_alone_or_all_as_one_is_what_training_and_evaluation_read(tmp_path):
    for how, text in (("first", "one {0}"), ("joined", "one {0} two {0} three {0}")):
        found, held_out = epochs(tmp_path, how, count=3)
        assert found == [[text.format(index) for index in range(8)]] * 3
        assert held_out == text.format(0)


def test_a_random_one_is_drawn_by_seed_and_position(tmp_path):
    found, held_out = epochs(tmp_path, "random")
    # Every record in every epoch, with captions of all three kinds in each, other than in turn.
    assert all(sorted(text[-1] for text in words) == list("01234567") for words in found)
    assert all(len({text.split()[0] for text in words}) > 1 for words in found)
    assert held_out == "one 0"
    # A run goes on with the very next batch.
    assert epochs(tmp_path, "random", start=2, count=4)[0] == found[2:]


def test_a_language_is_drawn_at_random_for_each_example(tmp_path):
    languages = ("a tiger", "un tigre", "一只老虎")
    said = "{}\nfr.utf8={}\nzh.utf8={}".format(*languages)
    for index in range(8):
        paint(tmp_path / "pictures" / f"{index}.png", said)
    source = FolderSource(tmp_path / "pictures", "all", language="any")
    train_vocabulary(source.captions(), tmp_path / "text.model", 100)
    vocabulary = Vocabulary(tmp_path / "text.model")
    options = {"batch_size": 8, "image_size": (2, 2), "seed": 0, "text_length": 12}
    batches = TrainBatches(source, vocabulary=vocabulary, captions="random", **options)
    found = [[vocabulary.decode(ids) for ids in next(batches)["text"]] for _ in range(3)]
    batches.close()
    # Each in one language whole, and a batch in several.
    assert {text for texts in found for text in texts} == set(languages)
    assert all(len(set(texts)) > 1 for texts in found)


def test_a_random_turn_favours_none():
    draws = [
        turn_of("random", position, 10, seed) % 3 for seed in (0, 1) for position in range(3000)
    ]
    counts = np.bincount(draws)
    # Three standard deviations of a fair draw of 6,000 are 110.
    assert abs(counts - 2000).max() < 110
    assert draws[:3000] != draws[3000:]
    assert [turn_of("in_turn", position, 10, 5) for position in (0, 9, 10, 25)] == [0, 0, 1, 2]


def test_a_source_with_one_caption_is_the_source_in_all_else():
    source = with_captions(Said(), "first")
    assert (len(source), source.name, source.classes) == (8, "said", ("x",))
    assert list(source.captions()) == [source[index].caption for index in range(8)]
    assert isinstance(with_captions(Said(), "in_turn"), Said)


# ------------------------------------------------------------------ files of captions


def test_a_caption_file_may_end_otherwise_and_in_capitals(tmp_path, caplog):
    paint(tmp_path / "a.PNG", "of kohya", ".caption")
    paint(tmp_path / "b.JPEG", "in capitals", ".TXT")
    paint(tmp_path / "c.webp", "first", ".txt")
    (tmp_path / "c.caption").write_text("second")
    (tmp_path / "lone.txt").write_text("of nothing")
    with caplog.at_level(logging.WARNING):
        assert captions(tmp_path) == ["of kohya", "in capitals", "first"]
    assert "1 text files have no picture and are left out, first: 'lone.txt'" in caplog.text
    assert "1 text files are second ones of their picture" in caplog.text and "c.cap" in caplog.text


def test_a_metadata_list_tells_of_its_own_folder(tmp_path):
    for name in ("train/a", "test/a"):
        paint(tmp_path / f"{name}.png")
        rows = f"file_name,text\na.png,{name}\n"
        (tmp_path / name).with_name("metadata.csv").write_text(rows)
    # Of another name it is none, but at the top.
    (tmp_path / "train" / "other.csv").write_text("file_name,text\na.png,wrong\n")
    assert captions(tmp_path) == ["test/a", "train/a"]


# ------------------------------------------------------------------ classes


def test_a_picture_without_caption_is_told_by_its_class(tmp_path, caplog):
    paint(tmp_path / "golden_retriever" / "a.png")
    paint(tmp_path / "golden_retriever" / "b.png", "its own")
    paint(tmp_path / "c.png")
    with caplog.at_level(logging.WARNING):
        found = captions(tmp_path, class_caption="a photo of a {class}, {class}!")
    assert found == ["a photo of a golden retriever, golden retriever!", "its own"]
    assert "1 of 3 pictures have no caption and are left out" in caplog.text
    assert captions(tmp_path) == ["its own"]


def test_the_class_may_be_the_topmost_folder(tmp_path):
    for name in ("train/animals/cats/a", "train/animals/b", "train/plants/trees/old/c", "train/d"):
        paint(tmp_path / f"{name}.png")
    for class_folder, classes, labels in (
        ("inner", ("animals", "cats", "old"), [0, 1, -1, 2]),
        ("outer", ("animals", "plants"), [0, 0, -1, 1]),
    ):
        source = FolderSource(tmp_path, "train/", False, class_folder=class_folder)
        assert source.classes == classes
        assert [source[index].label for index in range(4)] == labels


# ------------------------------------------------------------------ the section `data`


@pytest.mark.parametrize(
    ("field", "value", "line"),
    [
        ("captions", "all", "is unknown; use in_turn, random, first, joined"),
        ("language", "French", "is no language"),
        ("class_folder", "top", "is unknown; use inner, outer"),
        ("class_caption", "a photo", r"has no \{class\}"),
    ],
)
def test_a_value_that_is_none_is_named(field, value, line):
    with pytest.raises(UserError, match=rf"data\.{field}='{value}' {line}"):
        DataConfig(source="folder", **{field: value})


@pytest.mark.parametrize(
    ("field", "value"),
    [("language", "fr"), ("class_folder", "outer"), ("class_caption", "a {class}")],
)
def test_what_only_a_folder_reads_is_refused_elsewhere(field, value):
    with pytest.raises(UserError, match=rf"data\.{field}=.* is of data\.source='folder' alone"):
        DataConfig(source="shapes", **{field: value})


def test_the_section_reaches_the_folder_and_each_folder_of_a_mixture(tmp_path):
    paint(tmp_path / "cats" / "a.png", f"{TIGER}\nfr.utf8=Un fauve.")
    paint(tmp_path / "cats" / "b.png")
    fields = {"language": "any", "captions": "first", "class_caption": "a {class}"}
    one = DataConfig(source="folder", path=str(tmp_path), split="all", **fields)
    parts = (
        MixturePart(source="folder", path=str(tmp_path), split="all", weight=1.0),
        MixturePart(source="shapes", path="", weight=1.0),
    )
    mixed = DataConfig(source="mixture", mixture=parts, num_examples=4, **fields)
    for config in (one, mixed):
        source = open_source(config, config.split, 32, 0)
        found = list(source.captions())[:2]
        assert found == ["A tiger.", "a cats"] == [source[index].caption for index in range(2)]
        assert all(len(captions_in(caption)) == 1 for caption in source.captions())
