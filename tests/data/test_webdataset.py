"""WebDataset files read where they lie: members of one name make a record."""

import io
import logging
import tarfile

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.config import DataConfig
from babeldraw.data.records import BadRecord
from babeldraw.data.sources import open_source
from babeldraw.data.webdataset import WebDatasetSource
from babeldraw.errors import UserError


def png(shade):
    file = io.BytesIO()
    Image.new("RGB", (6, 5), (shade, 1, 2)).save(file, "PNG")
    return file.getvalue()


def write(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


@pytest.fixture
def folder(tmp_path):
    for file in range(3):
        members = []
        for row in range(10):
            number = 10 * file + row
            members += [(f"{number:03d}.png", png(number)), (f"{number:03d}.cls", b"%d" % number)]
            members += [(f"{number:03d}.txt", f"number {number}\n".encode())]
        write(tmp_path / f"{file}.tar", members)
    return tmp_path


def test_records_of_all_files_in_order_and_their_splits(folder):
    source = open_source(DataConfig(source="webdataset", path=str(folder)), "all", 0, 0)
    assert len(source) == 30 and source.classes == tuple(str(i) for i in range(30))
    for index in (29, 0, 10, 9):
        record = source[index]
        assert (record.caption, record.label) == (f"number {index}", index)
        np.testing.assert_array_equal(record.image[0, 0], [index, 1, 2])
    assert list(source.captions()) == [f"number {i}" for i in range(30)]
    assert [r.label for r in WebDatasetSource(folder, "test")] == [0, 20]
    assert len(WebDatasetSource(folder, "train")) == 28
    assert len(WebDatasetSource(str(folder / "[01].tar"), "all")) == 20
    assert WebDatasetSource(folder, "all").name != WebDatasetSource(folder, "train").name


def test_bad_records_say_where_they_lie(folder):
    members = [("a.jpg", png(0)[:30]), ("a.txt", b"x"), ("b.jpg", png(1)), ("b.txt", b"caf\xe9")]
    write(folder / "0.tar", [*members, ("c.jpg", png(2)), ("c.cls", b"seven")])
    source = WebDatasetSource(folder / "0.tar", "all")
    for index, line in enumerate([r"0.tar:a@0", r"0.tar:b@2048: .*UTF-8"]):
        with pytest.raises(BadRecord, match=line):
            source[index]
    assert source[2].label == -1 and source.classes == ()


def test_a_file_cut_off_is_told_and_gives_what_comes_before(folder, caplog):
    path = folder / "1.tar"
    path.write_bytes(path.read_bytes()[:5000])
    with caplog.at_level(logging.WARNING):
        source = WebDatasetSource(folder, "all")
    (message,) = caplog.messages
    assert "1.tar at" in message
    assert len(source) == 21 and source[10].caption == "number 10" and source[11].label == 20


def test_no_tar_files_and_no_such_split_are_told(tmp_path, folder):
    with pytest.raises(UserError, match="holds no tar files"):
        WebDatasetSource(folder / "none", "all")
    with pytest.raises(UserError, match="'val'"):
        WebDatasetSource(folder, "val")


def boxes(names):
    for number, name in enumerate(names):
        yield f"{name}.png", png(number)
        yield f"{name}.txt", f"box {number}".encode()


def captions(path):
    source = WebDatasetSource(path, "all")
    return [(source[i].image[0, 0, 0], source[i].caption) for i in range(len(source))]


def by_kind(members):
    return sorted(members, key=lambda member: member[0][-3:])


def reversed_pairs(members):
    return list(members)[::-1]


@pytest.mark.parametrize("order", [list, by_kind, reversed_pairs])
@pytest.mark.parametrize("name", ["{:03d}", "v1.5_{:03d}", "a.b/{}.c d", "x/v{}.", "Zürich {}"])
def test_members_of_one_name_belong_together_wherever_they_stand(tmp_path, order, name):
    names = [name.format(number) for number in range(12)]
    write(tmp_path / "a.tar", order(boxes(names)))
    found = captions(tmp_path)
    assert sorted(found) == [(number, f"box {number}") for number in range(12)]


def test_half_of_the_names_hold_a_dot(tmp_path):
    names = [f"{'v1.5_' if i % 2 else 'v1_'}{i:03d}" for i in range(40)]
    write(tmp_path / "a.tar", boxes(names))
    assert captions(tmp_path) == [(i, f"box {i}") for i in range(40)]


def test_hidden_members_are_passed_over(tmp_path, caplog):
    hidden = [("._a.png", b"mac"), ("__MACOSX/._a.txt", b"mac"), (".cache/b.png", png(9))]
    write(tmp_path / "a.tar", [*hidden, *boxes(["./a"])])
    (tmp_path / "._a.tar").write_bytes(b"mac")
    assert captions(tmp_path) == [(0, "box 0")]
    assert not caplog.messages


def test_further_members_of_a_record_are_no_records(tmp_path, caplog):
    write(tmp_path / "a.tar", [*boxes(["a"]), ("a.left.png", png(7)), ("a.seg.png", png(8))])
    assert captions(tmp_path) == [(0, "box 0")]
    (line,) = caplog.messages
    assert "2 members are further ones of other records and are left out, first: " in line
    assert line.endswith("a.tar:a.left")


def test_captions_in_json_may_be_several_and_carry_the_label(tmp_path):
    members = [("a.png", png(0)), ("a.json", b'{"Caption": ["one", "two\\nlines"], "label": 3.0}')]
    members += [("b.png", png(1)), ("b.json", b'{"text": "b"}'), ("b.cls", b"2.0\n")]
    members += [("c.png", png(2)), ("c.txt", b"own"), ("c.json", b"not json")]
    write(tmp_path / "a.tar", members)
    source = WebDatasetSource(tmp_path, "all")
    found = [(source[i].caption, source[i].label) for i in range(3)]
    assert found == [("one\ntwo lines", 3), ("b", 2), ("own", -1)]
    assert (source.classes, source.unlabelled) == (("0", "1", "2", "3"), 1)


def test_what_has_no_partner_is_counted_and_named(tmp_path, caplog):
    members = [*boxes(["a", "b"]), ("c.png", png(2)), ("d.txt", b"lonely"), ("e.txt", b"too")]
    write(tmp_path / "a.tar", members)
    with caplog.at_level(logging.WARNING):
        assert len(WebDatasetSource(tmp_path, "all")) == 3
    silent, lone = caplog.messages
    assert "1 pictures have no caption, first: c" in silent
    assert "2 captions or labels have no picture" in lone and "a.tar:d" in lone


@pytest.mark.parametrize("name", ["exp[v2]", "a*b", "it's", "back\\slash", "(1) $x"])
def test_a_folder_of_any_name_is_a_path(tmp_path, name):
    (tmp_path / name).mkdir()
    write(tmp_path / name / "[0].tar", boxes(["a"]))
    assert captions(tmp_path / name) == captions(tmp_path / name / "[0].tar") == [(0, "box 0")]


def test_numbers_that_are_ids_are_no_classes(tmp_path, caplog):
    members = [*boxes(["a"]), ("a.cls", b"3000000001")]
    write(tmp_path / "a.tar", members)
    source = WebDatasetSource(tmp_path, "all")
    assert source.classes == () and source[0].label == -1
