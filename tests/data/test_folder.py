"""Folders: three kinds of captions, a stable split, and hostile files that never crash a run."""

import json
import logging

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.folder import FolderSource
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError


def paint(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((2, 3, 3), value, np.uint8)).save(path)


def by_value(source):
    return {
        int(record.image[0, 0, 0]): record for record in map(source.__getitem__, range(len(source)))
    }


@pytest.fixture
def two(tmp_path):
    paint(tmp_path / "a.png", 10)
    paint(tmp_path / "sub" / "b.BMP", 20)
    return tmp_path


def test_captions_beside_the_pictures(two):
    (two / "a.txt").write_text(" a wall \n", encoding="utf-8")
    (two / "sub" / "b.txt").write_text("\ufeffun mur à midi", encoding="utf-8")
    source = FolderSource(two, "all")
    assert {v: r.caption for v, r in by_value(source).items()} == {
        10: "a wall",
        20: "un mur à midi",
    }
    assert list(source.captions()) == ["a wall", "un mur à midi"]


@pytest.mark.parametrize("keys", [("file", "caption"), ("file_name", "text")])
@pytest.mark.parametrize("kind", ["jsonl", "csv"])
def test_captions_in_a_list(two, kind, keys):
    rows = [("a.png", 'one, "quoted"', 4), ("sub/b.BMP", "zwei\nZeilen", 0)]
    if kind == "jsonl":
        lines = [json.dumps({keys[0]: f, keys[1]: c, "label": n}) for f, c, n in rows]
    else:
        lines = [",".join((*keys, "label"))]
        lines += [f'{f},"{c.replace(chr(34), chr(34) * 2)}",{n}' for f, c, n in rows]
    (two / f"list.{kind}").write_text("\n".join(lines), encoding="utf-8")
    records = by_value(FolderSource(two, "all"))
    assert (records[10].caption, records[10].label) == ('one, "quoted"', 4)
    assert (records[20].caption, records[20].label) == ("zwei\nZeilen", 0)


def test_a_text_file_goes_before_a_list(two):
    (two / "a.txt").write_text("beside", encoding="utf-8")
    line = json.dumps({"file": "./a.png", "caption": "listed", "label": 3})
    (two / "list.jsonl").write_text(line, encoding="utf-8")
    (record,) = by_value(FolderSource(two, "all")).values()
    assert (record.caption, record.label) == ("beside", 3)


def test_pictures_without_caption_are_counted_once_and_left_out(two, caplog):
    (two / "a.txt").write_text("a wall", encoding="utf-8")
    with caplog.at_level(logging.WARNING):
        assert len(FolderSource(two, "all")) == 1
    (message,) = caplog.messages
    assert "1 of 2 pictures have no caption" in message
    assert len(FolderSource(two, "all", require_captions=False)) == 2


def test_damaged_lists_lose_only_the_damaged_lines(two, caplog):
    lines = [
        b'{"file": "a.png", "caption": "good"}',
        b'{"file": "a.png", "caption": "caf\xe9"}',
        b"not json",
        b'["a.png", "good"]',
        b'{"file": "a.png"}',
        b'{"file": 3, "caption": "x"}',
        b'{"file": "a.png", "caption": "x", "label": "cat"}',
        b"[" * 100_000,
        b'{"file": "../../secret.png", "caption": "outside"}',
    ]
    (two / "list.jsonl").write_bytes(b"\n".join(lines))
    (two / "more.csv").write_bytes(b"file,caption\nsub/b.BMP,caf\xe9\nsub/b.BMP,fine\nsub/b.BMP\n")
    with caplog.at_level(logging.WARNING):
        records = by_value(FolderSource(two, "all"))
    # What is no label costs the label alone; a second caption is used in its turn.
    assert {v: r.caption for v, r in records.items()} == {10: "good\nx", 20: "fine"}
    json_line, label_line, csv_line, missing = caplog.messages
    assert "1 labels are left out" in label_line and "list.jsonl:7: the label 'cat'" in label_line
    assert "6 lines" in json_line and "list.jsonl:2" in json_line
    assert "2 lines" in csv_line and "more.csv:2" in csv_line
    assert "1 listed files do not exist" in missing and "secret.png" in missing


def test_damaged_files_are_bad_records(two):
    for name in ("a", "sub/b"):
        (two / f"{name}.txt").write_text("fine", encoding="utf-8")
    (two / "c.png").write_bytes((two / "a.png").read_bytes()[:40])
    (two / "c.txt").write_text("torn", encoding="utf-8")
    paint(two / "d.png")
    (two / "d.txt").write_bytes(b"caf\xe9")
    (two / "e.png").mkdir()
    source = FolderSource(two, "all")
    assert len(source) == 4  # Sorted: a, c, d, sub/b.
    for index, where in ((1, "c.png"), (2, r"d\.txt.*UTF-8")):
        with pytest.raises(BadRecord, match=where):
            source[index]
    assert list(source.captions()) == ["fine", "torn", "fine"]
    (two / "a.png").unlink()
    (two / "a.txt").unlink()
    with pytest.raises(BadRecord, match=r"a\.txt"):
        source[0]


def test_hidden_files_and_folders_are_passed_over(two):
    paint(two / ".cache" / "x.png")
    (two / "._a.png").write_bytes(b"not a picture")
    assert len(FolderSource(two, "all", require_captions=False)) == 2


def test_the_split_is_a_partition_and_stays_when_pictures_come(tmp_path):
    for index in range(300):
        (tmp_path / f"{index}.png").touch()
    train, test, both = (
        FolderSource(tmp_path, split, require_captions=False) for split in ("train", "test", "all")
    )
    assert sorted(train._names + test._names) == both._names == sorted(both._names)
    assert 5 <= len(test) <= 30
    for index in range(300, 350):
        (tmp_path / f"{index}.png").touch()
    grown = FolderSource(tmp_path, "test", require_captions=False)
    assert set(test._names) <= set(grown._names)
    assert {n for n in grown._names if int(n[:-4]) < 300} == set(test._names)
    assert len({train.name, test.name, both.name, grown.name}) == 4


@pytest.mark.parametrize("count", [2, 3, 4])
def test_small_folders_have_both_splits(tmp_path, count):
    for start in range(0, 40, count):
        folder = tmp_path / str(start)
        folder.mkdir()
        for index in range(start, start + count):
            (folder / f"{index}.png").touch()
        sizes = [len(FolderSource(folder, s, require_captions=False)) for s in ("train", "test")]
        assert min(sizes) >= 1 and sum(sizes) == count


def test_the_name_tells_of_changed_captions(two):
    names = []
    for caption in ("one", "two"):
        line = json.dumps({"file": "a.png", "caption": caption})
        (two / "list.jsonl").write_text(line, encoding="utf-8")
        names.append(FolderSource(two, "all").name)
    assert names[0] != names[1]


def test_a_missing_or_empty_folder_is_named(tmp_path):
    for path in (tmp_path / "gone", ""):
        with pytest.raises(UserError, match=r"data\.path=.*is not a folder"):
            FolderSource(path, "all")
    (tmp_path / "notes.txt").touch()
    with pytest.raises(UserError, match="no pictures"):
        FolderSource(tmp_path, "all")


def test_missing_captions_are_told_with_the_three_ways_to_give_them(two):
    with pytest.raises(UserError, match=r"2 pictures but no captions.*\.txt.*\.jsonl.*\.csv"):
        FolderSource(two, "all")


def test_a_list_of_files_that_are_all_missing_is_named(two):
    (two / "list.csv").write_text("file,caption\nimages/a.png,x\n", encoding="utf-8")
    with pytest.raises(UserError, match=r"none of the 1 files listed.*images/a\.png"):
        FolderSource(two, "all", require_captions=False)


def test_an_unknown_or_empty_split_is_named(tmp_path):
    paint(tmp_path / "a.png")
    with pytest.raises(UserError, match=r"data\.split='val'.*train, test, all"):
        FolderSource(tmp_path, "val", require_captions=False)
    with pytest.raises(UserError, match="none of them in split 'test'"):
        FolderSource(tmp_path, "test", require_captions=False)


def test_a_sub_folder_is_a_split_of_its_own(tmp_path):
    for value, name in enumerate(("train/a", "train/deep/b", "test/c", "training/d", "e")):
        paint(tmp_path / f"{name}.png", value)
    train, test = (FolderSource(tmp_path, s, require_captions=False) for s in ("train/", "test/"))
    assert (set(by_value(train)), set(by_value(test))) == ({0, 1}, {2})
    assert train.name != test.name
    with pytest.raises(UserError, match="split='other/': there are no pictures in a sub"):
        FolderSource(tmp_path, "other/", require_captions=False)


def test_the_folder_that_holds_a_picture_is_its_class(tmp_path):
    for value, name in enumerate(("cat/a.png", "cat/b.png", "cow/c.png", "d.png")):
        paint(tmp_path / "train" / name, value)
    paint(tmp_path / "val" / "bee" / "e.png", 9)
    train, val = (FolderSource(tmp_path, split, False) for split in ("train/", "val/"))
    # The classes of all splits, so that a number means the same in each.
    assert train.classes == val.classes == ("bee", "cat", "cow")
    assert {v: r.label for v, r in by_value(train).items()} == {0: 1, 1: 1, 2: 2, 3: -1}
    assert val[0].label == 0
    whole = FolderSource(tmp_path, "all", False)
    assert whole.classes == ("bee", "cat", "cow", "train")


def test_labels_of_a_list_are_the_classes(two):
    (two / "list.csv").write_text("file,caption,label\nsub/b.BMP,x,3\n")
    source = FolderSource(two, "all", False)
    assert source.classes == ("0", "1", "2", "3")
    assert {v: r.label for v, r in by_value(source).items()} == {10: -1, 20: 3}
