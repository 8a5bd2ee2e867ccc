"""Texts without pictures: files by lines, captions of pictures, beside pairs, and what is none."""

import itertools

import jax
import numpy as np
import pytest

from babeldraw.data.config import DataConfig, MixturePart
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.records import BadRecord, has_pictures
from babeldraw.data.sources import open_source, open_texts
from babeldraw.data.text import Vocabulary, train_vocabulary
from babeldraw.data.texts import CaptionSource, TextFileSource
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, of_texts
from babeldraw.evaluation.validation_loss import ValidationLoss, ValidationLossConfig
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train.experiment import parse
from babeldraw.train.start import open_batches, open_train_source

LINES = [f"text {i} שלום 🎨" for i in range(40)]


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "a.txt").write_text("\n".join(LINES[:15]) + "\n\n  \n", encoding="utf-8")
    (tmp_path / "in").mkdir()
    # Windows' line ends, and no end of the last line.
    (tmp_path / "in" / "b.txt").write_bytes("\r\n".join(LINES[15:]).encode())
    return tmp_path


def test_lines_of_a_file_and_of_a_folder(folder):
    assert [*TextFileSource(str(folder / "a.txt"), "all").captions()] == LINES[:15]
    whole = TextFileSource(str(folder), "all")
    assert len(whole) == 40 and [whole[i].caption for i in range(40)] == LINES
    assert whole[3].image.size == 0 and not has_pictures(whole)
    parts = [[*TextFileSource(str(folder), split).captions()] for split in ("train", "test")]
    assert sorted(itertools.chain(*parts)) == sorted(LINES) and len(parts[1]) == 2
    moved = folder.rename(folder.parent / "elsewhere")
    assert TextFileSource(str(moved), "all").identity == whole.identity


def test_a_line_that_is_no_utf8_is_a_bad_record(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"good\n\xff\xfe\nalso good\n")
    source = TextFileSource(str(tmp_path), "all")
    with pytest.raises(BadRecord, match="a.txt at byte 5: the line is not UTF-8"):
        source[1]
    assert [*source.captions()] == ["good", "also good"]


def test_a_mark_of_byte_order_is_no_text_and_bad_lines_are_told_once(tmp_path, caplog):
    file = tmp_path / "a.txt"
    file.write_bytes(b"\xef\xbb\xbfgood\n" + b"caf\xe9\n" * 3 + b"also good\n")
    with caplog.at_level("WARNING"):
        assert [*TextFileSource(str(file), "all").captions()] == ["good", "also good"]
    told = [record.getMessage() for record in caplog.records if "skipped" in record.getMessage()]
    assert len(told) == 1 and told[0].startswith("3 of 5 texts skipped, such as ")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le"])
def test_a_file_of_another_encoding_is_one_line(tmp_path, encoding):
    (tmp_path / "a.txt").write_text("a red ring\n" * 30, encoding=encoding)
    with pytest.raises(UserError, match="holds no line in UTF-8, such as .*; convert it"):
        [*TextFileSource(str(tmp_path), "all").captions()]


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({}, "is no file of texts and no folder with"),
        ({"a.txt": "\n \n"}, "holds no text, only empty lines"),
    ],
)
def test_an_empty_source_is_one_line(tmp_path, content, line):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    with pytest.raises(UserError, match=line) as told:
        open_texts(DataConfig(source="texts", path=str(tmp_path)), "train", 0)
    assert "data.path=" in str(told.value) and "\n" not in str(told.value)


def test_captions_of_pictures_are_read_without_them():
    data = DataConfig(source="shapes", num_examples=30_000)
    texts, pairs = open_texts(data, "train", 3), open_source(data, "train", 64, 3)
    assert len(texts) == 30_000 and not has_pictures(texts)
    assert [texts[i].caption for i in (0, 29_999)] == [pairs[i].caption for i in (0, 29_999)]
    listed = open_texts(DataConfig(source="shape_pairs", num_examples=20), "train", 3)
    assert len(listed) == 20 and listed[4].caption == [*listed.captions()][4]


def test_texts_are_mixed_with_texts_alone(folder):
    lines = MixturePart("texts", str(folder), 3.0, split="all")
    data = DataConfig(source="mixture", mixture=(lines, MixturePart("shapes", "", 1.0)))
    found = open_texts(data, "train", 0)
    assert found[39].caption == LINES[39] and found[40].caption.startswith("a ")
    assert not has_pictures(found)
    with pytest.raises(UserError, match="holds pictures and texts/.*, which has none"):
        open_source(data, "train", 64, 0)


def test_held_out_texts_are_batches_without_pictures(folder, tmp_path):
    train_vocabulary(LINES, tmp_path / "text.model", 200)
    words = Vocabulary(tmp_path / "text.model")
    source = TextFileSource(str(folder / "a.txt"), "all")
    options = {"batch_size": 10, "image_size": (8, 8), "vocabulary": words, "text_length": 24}
    first, last = eval_batches(source, **options)
    assert "image" not in first and last["mask"].tolist() == [True] * 5 + [False] * 5
    assert [words.decode(row) for row in first["text"]] == LINES[:10]


def test_a_run_reads_texts_beside_its_pairs_and_goes_on(runlocal, folder, tmp_path):
    pytest.importorskip("tensorflow")
    config = runlocal("demo/text_encoder.py").to_dict()
    config["text_data"] = {"source": "texts", "path": str(folder)}
    experiment = parse(config)
    train_vocabulary([*LINES, *open_train_source(experiment).captions()], tmp_path / "w", 300)
    words = Vocabulary(tmp_path / "w")
    batches = open_batches(experiment, words)
    first = next(batches)
    state, second = batches.state(), next(batches)
    assert first["image"].shape == (8, 32, 32, 3)
    assert first["masked_text"].shape == first["text"].shape == (8, 32)
    said = {words.decode(row) for row in first["masked_text"]}
    assert said <= set(LINES) and len(said) == 8
    batches.restore(state)
    np.testing.assert_equal(next(batches), second)
    assert batches.same_data(state)
    batches.close()


def test_a_run_of_pictures_refuses_texts_and_one_of_masked_texts_takes_them(runlocal, folder):
    config = runlocal("demo/text_encoder.py").to_dict()
    config["data"] = {"source": "texts", "path": str(folder)}
    with pytest.raises(UserError, match="config.data.source is 'texts', texts without pictures"):
        parse(config)
    config["loss"]["contrastive"] = 0.0
    assert open_train_source(parse(config))[0].caption in LINES
    config["text_data"] = config["data"]
    with pytest.raises(UserError, match="config.text_data is set, texts to be masked beside pairs"):
        parse(config)
    config["loss"] |= {"contrastive": 1.0, "masked": 0.0}
    with pytest.raises(UserError, match="config.text_data is set"):
        parse(config)


def test_texts_beside_pairs_that_are_none_are_told_by_their_own_name(runlocal, tmp_path):
    config = runlocal("demo/text_encoder.py").to_dict()
    config["text_data"] = {"source": "texts", "path": str(tmp_path / "nowhere")}
    with pytest.raises(UserError, match="^config.text_data.path='.*nowhere' is no file of texts"):
        open_train_source(parse(config))


@pytest.mark.parametrize("section", ["data", "text_data"])
def test_a_path_that_nobody_would_read_is_refused(runlocal, section):
    config = runlocal("demo/text_encoder.py").to_dict()
    config[section] = {**(config[section] or {}), "path": "mine"}
    line = f"config.{section}.path is 'mine' and config.{section}.source 'shapes', which reads no"
    with pytest.raises(UserError, match=line):
        open_train_source(parse(config))


def test_what_is_judged_by_texts_says_which(folder):
    mesh = make_mesh(MeshConfig(data=1), jax.devices()[:1])
    pairs = Context(DataConfig(), (64, 64), 0, mesh, text_length=16)
    data = DataConfig(source="texts", path=str(folder))
    judge = ValidationLoss(print, ValidationLossConfig(), of_texts(pairs, data))
    judge.check()
    said = judge.protocol()["texts"]
    assert (said["n"], said["of"], said["pieces"]) == (2, 2, 16)
    assert said["source"].endswith("/test")


def test_captions_that_are_all_empty_are_none():
    class Silent:
        name = "silence"

        def captions(self):
            return iter(["", ""])

    with pytest.raises(UserError, match="silence has no captions"):
        CaptionSource(Silent())
