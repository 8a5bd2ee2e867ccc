"""Captions of several kinds: read by their names, drawn by their odds, the same after any stop."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.captions import text_of
from babeldraw.data.config import DataConfig, MixturePart
from babeldraw.data.fields import CaptionField, as_caption, chosen
from babeldraw.data.pipeline import TrainBatches, eval_batches
from babeldraw.data.records import Record
from babeldraw.data.sources import open_source
from babeldraw.data.text import Vocabulary, train_vocabulary
from babeldraw.errors import UserError

ALT, WRITTEN = CaptionField("alt", 1.0), CaptionField("Written", 3.0)
LABELS = CaptionField("labels", 1.0, joined=True)
ROWS = (
    {"file": "a.png", "alt": "img 1", "written": ["a red ball", "a ball"], "labels": ["x", "y"]},
    {"file": "b.png", "alt": "img 2", "labels": ["z", "z", "x"]},
    {"file": "c.png", "alt": "", "written": "a box"},
)


def png(shade=0):
    data = io.BytesIO()
    Image.fromarray(np.full((4, 5, 3), shade, np.uint8)).save(data, "PNG")
    return data.getvalue()


@pytest.fixture
def folder(tmp_path):
    for row in ROWS:
        (tmp_path / row["file"]).write_bytes(png())
    (tmp_path / "list.jsonl").write_text("\n".join(map(json.dumps, ROWS)))
    (tmp_path / "a.txt").write_text("beside a\n")
    return tmp_path


@pytest.fixture
def tar(tmp_path):
    with tarfile.open(tmp_path / "one.tar", "w") as file:
        for row in ROWS:
            key = row["file"].removesuffix(".png")
            members = {".png": png(), ".json": json.dumps(row).encode()}
            if key == "a":
                members[".txt"] = b"beside a"
            for suffix, data in members.items():
                info = tarfile.TarInfo(key + suffix)
                info.size = len(data)
                file.addfile(info, io.BytesIO(data))
    return tmp_path


def data_of(source, path, *fields, split="all", **more):
    return DataConfig(
        source=source, path=str(path), split=split, eval_split=split, caption_fields=fields, **more
    )


def opened(*given, **more):
    config = data_of(*given, **more)
    return open_source(config, config.split, 32, 0)


# ------------------------------------------------------------------ what records say


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_a_record_has_a_choice_for_each_kind_that_it_has(kind, request):
    path = request.getfixturevalue("tar" if kind == "webdataset" else "folder")
    source = opened(kind, path, ALT, WRITTEN, LABELS, CaptionField("txt", 0.5))
    found = [source[index] for index in range(3)]
    assert [record.choices for record in found] == [
        (
            (1.0, "img 1"),
            (3.0, "a red ball\na ball"),
            (1.0, "x, y"),
            (0.5, "beside a"),
        ),
        ((1.0, "img 2"), (1.0, "z, x")),
        ((3.0, "a box"),),
    ]
    assert found[0].caption == "img 1\na red ball\na ball\nx, y\nbeside a"
    assert list(source.captions()) == [record.caption for record in found]
    (batch,) = eval_batches(source, batch_size=3, image_size=(4, 4))
    assert batch["caption"] == ["img 1", "img 2", "a box"]


def test_a_kind_without_odds_is_not_read(folder):
    source = opened("folder", folder, CaptionField("alt", 0.0), WRITTEN)
    assert [source[index].choices for index in range(len(source))] == [
        ((3.0, "a red ball\na ball"),),
        ((3.0, "a box"),),
    ]


def test_lines_have_numbers_in_any_source(folder):
    (folder / "list.jsonl").unlink()
    for name, text in (("a", "one\ntwo\nthree"), ("b", "eins"), ("c", "un\ndeux")):
        (folder / f"{name}.txt").write_text(text)
    source = opened("folder", folder, CaptionField("1", 1.0), CaptionField("3", 2.0))
    assert [source[index].choices for index in range(3)] == [
        ((1.0, "one"), (2.0, "three")),
        ((1.0, "eins"),),
        ((1.0, "un"),),
    ]
    assert list(source.captions()) == ["one\nthree", "eins", "un"]
    assert len(source) == 3 and source.name.startswith("folder/")


def test_tfds_gives_texts_and_names_of_classes(monkeypatch):
    tfds = pytest.importorskip("tensorflow_datasets")
    thing = {"area": 1, "bbox": tfds.features.BBox(0.0, 0.0, 1.0, 1.0), "id": 1, "is_crowd": False}
    example = {
        "captions": [{"id": 1, "text": "a cat"}, {"id": 2, "text": "another"}],
        "image": png(),
        "image/filename": "x.jpg",
        "image/id": 1,
        "objects": [{**thing, "label": label} for label in (0, 2, 0)],
    }
    fields = (CaptionField("captions", 3.0), CaptionField("objects/label", 1.0, joined=True))
    with tfds.testing.mock_data(num_examples=1):
        features = tfds.builder("coco_captions").info.features
        record = features.serialize_example(features.encode_example(example))
        monkeypatch.setattr("babeldraw.data.tfds._open", lambda *args: [record])
        source = opened("tfds", "coco_captions", *fields)
        names = features["objects"].feature["label"].names
        with pytest.raises(UserError, match="names 'alt', which no record of coco_captions has"):
            opened("tfds", "coco_captions", CaptionField("alt"))
    assert source[0].choices == ((3.0, "a cat\nanother"), (1.0, f"{names[0]}, {names[2]}"))
    assert list(source.captions()) == [as_caption(["a cat\nanother", f"{names[0]}, {names[2]}"])]


# ------------------------------------------------------------------ what is drawn


def test_the_shares_are_the_odds_and_other_seeds_draw_otherwise():
    choices = ((1.0, "alt"), (3.0, "written"), (0.0, "never"))
    drawn = [[chosen(choices, place, seed) for place in range(4000)] for seed in (0, 1)]
    for own in drawn:
        # Four standard deviations of a share of 3/4 among 4,000 are 110.
        assert abs(own.count("written") - 3000) < 110 and "never" not in own
    assert drawn[0] != drawn[1]
    # Of a field the text that `data.captions` says.
    record = Record(np.zeros((1, 1, 3), np.uint8), "", choices=((1.0, "one\ntwo"),))
    assert [text_of(record, "in_turn", place, 10, 0) for place in (0, 9, 10)] == [
        "one",
        "one",
        "two",
    ]
    assert {text_of(record, "random", place, 10, 0) for place in range(20)} == {"one", "two"}


def said(source, folder, start=0, count=12):
    train_vocabulary(source.captions(), folder / "text.model", 200)
    vocabulary = Vocabulary(folder / "text.model")
    options = {"batch_size": 6, "image_size": (4, 4), "seed": 3, "text_length": 40}
    batches = TrainBatches(source, vocabulary=vocabulary, start_step=start, **options)
    found = [[vocabulary.decode(ids) for ids in next(batches)["text"]] for _ in range(count)]
    batches.close()
    return found


def test_a_run_goes_on_with_the_very_next_captions(folder):
    source = opened("folder", folder, ALT, WRITTEN, LABELS)
    whole = said(source, folder)
    assert {text for batch in whole for text in batch} == {
        "img 1",
        "a red ball",
        "a ball",
        "x, y",
        "img 2",
        "z, x",
        "a box",
    }
    assert said(source, folder, start=5, count=7) == whole[5:]


def test_each_source_of_a_mixture_has_its_own_kinds(folder, tmp_path):
    parts = (
        MixturePart("folder", str(folder), 1.0, "all", "all", caption_fields=(WRITTEN,)),
        MixturePart("shapes", "", 2.0, caption_fields=(CaptionField("1"),)),
    )
    config = DataConfig(source="mixture", mixture=parts, num_examples=4)
    source = open_source(config, config.split, 32, 0)
    assert source[0].choices == ((3.0, "a red ball\na ball"),)
    assert source[len(source) - 1].choices == ((1.0, source[len(source) - 1].caption),)


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ([ALT, CaptionField("b", -1.0)], r"has the odds \[1.0, -1.0\]; each must be at least 0"),
        ([CaptionField("a", 0.0)], r"has the odds \[0.0\]; .*one of them more"),
        ([CaptionField("a", float("nan"))], r"has the odds \[nan\]"),
        ([CaptionField("a", float("inf"))], r"has the odds \[inf\]"),
        ([ALT, ALT], r"has the names \['alt', 'alt'\]; each must be there, and once"),
        ([CaptionField("")], r"has the names \[''\]"),
        ([CaptionField("1"), ALT], ".*; take numbers of lines, or names alone"),
    ],
)
def test_odds_and_names_that_say_nothing_are_named(fields, line):
    with pytest.raises(UserError, match=f"data.caption_fields {line}"):
        data_of("folder", "x", *fields)
    part = MixturePart("folder", "x", 1.0, caption_fields=tuple(fields))
    with pytest.raises(UserError, match=f"data.mixture's caption_fields {line}"):
        DataConfig(source="mixture", mixture=(part,))


def test_what_does_not_go_together_is_named():
    with pytest.raises(UserError, match="source='shards' has not; take the numbers of lines"):
        data_of("shards", "x", ALT)
    with pytest.raises(UserError, match="data.captions='first' and data.caption_fields says"):
        data_of("folder", "x", ALT, captions="first")
    with pytest.raises(UserError, match="data.language='fr' is of the captions that"):
        data_of("folder", "x", ALT, language="fr")


@pytest.mark.parametrize("kind", ["folder", "webdataset"])
def test_a_field_that_no_record_has_is_told_with_those_that_there_are(kind, request):
    path = request.getfixturevalue("tar" if kind == "webdataset" else "folder")
    with pytest.raises(UserError, match="names 'altt', which no record of .*; there is alt, file"):
        opened(kind, path, CaptionField("altt"))


def test_a_line_or_a_file_that_no_record_has_is_told(folder):
    (folder / "a.txt").unlink()
    with pytest.raises(UserError, match="names 'txt', which no record .*no text file beside"):
        opened("folder", folder, CaptionField("txt"))
    with pytest.raises(UserError, match="names '2', which no record of .*one line a caption"):
        opened("shapes", "", CaptionField("2"), num_examples=20, split="train")
