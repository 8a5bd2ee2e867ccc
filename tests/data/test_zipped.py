"""A .zip is the folder it was packed from; what is no picture's member is left out and told."""

import io
import json
import logging
import stat
import struct
import tracemalloc
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from babeldraw.data import zipped
from babeldraw.data.folder import FolderSource
from babeldraw.data.prepare.inputs import open_input
from babeldraw.data.records import BadRecord
from babeldraw.errors import UserError


def png(value=0, size=(6, 4)):
    file = io.BytesIO()
    Image.new("RGB", size, (value, 100, 200)).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def folder(tmp_path):
    """Forty pictures in two classes and two parts, with captions of every kind."""
    root = tmp_path / "pictures"
    for number in range(40):
        name = f"{'train' if number % 4 else 'val'}/{'cats' if number % 2 else 'Kühe'}/{number}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / f"{name}.PNG").write_bytes(png(number))
        if number % 3:
            (root / f"{name}.txt").write_text(f"number {number}\nno {number}", encoding="utf-8")
    rows = [{"file_name": "train/cats/3.PNG", "text": "listed"}]
    (root / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return root


def packed(folder, where, top=""):
    """The folder as a .zip, its files in an order of their own."""
    with zipfile.ZipFile(where, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*"), key=lambda path: path.name):
            archive.write(path, top + path.relative_to(folder).as_posix())
    return where


@pytest.mark.parametrize("top", ["", "my pictures/"])
@pytest.mark.parametrize("split", ["train", "test", "all", "train/"])
def test_it_is_the_folder_that_was_packed(folder, tmp_path, split, top):
    archive = packed(folder, tmp_path / "pictures.zip", top)
    for captions in (True, False):
        one, other = (FolderSource(path, split, captions) for path in (folder, archive))
        assert (one.identity, one.name, one.classes) == (other.identity, other.name, other.classes)
        assert list(one.entries()) == list(other.entries()) and len(one) > 0
        assert list(one.captions()) == list(other.captions())
        for index in range(len(one)):
            np.testing.assert_array_equal(one[index].image, other[index].image)
            assert (one[index].caption, one[index].label) == (
                other[index].caption,
                other[index].label,
            )


def test_it_is_prepared_as_the_folder_is(folder, tmp_path):
    archive = packed(folder, tmp_path / "pictures.zip")
    found = []
    for path in (folder, archive):
        source = open_input("folder", str(path))
        found.append([raw for piece in source.pieces(7) for raw in source.read(piece, 10**6)])
    assert found[0] == found[1] and len(found[0]) == 40


def test_it_is_read_by_threads(folder, tmp_path):
    source = FolderSource(packed(folder, tmp_path / "pictures.zip"), "all", False)
    expected = [source[index].image[0, 0, 0] for index in range(40)]
    with ThreadPoolExecutor(16) as pool:
        found = list(pool.map(lambda i: source[i % 40].image[0, 0, 0], range(1600)))
    assert found == expected * 40


# ------------------------------------------------------------------ members that are left out


def written(path, *members):
    """A .zip of a captioned picture and further members, each (ZipInfo or name, data)."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for info, data in (("a.png", png(7)), ("a.txt", b"a box"), *members):
            archive.writestr(info, data)
    return path


def info(name, mode=0o644 | stat.S_IFREG, method=zipfile.ZIP_DEFLATED, system=3):
    made = zipfile.ZipInfo(name)
    made.external_attr, made.compress_type, made.create_system = mode << 16, method, system
    return made


MEMBERS = {
    "link": ((info("b.png", 0o777 | stat.S_IFLNK), b"a.png"), "1 members are links"),
    "device": ((info("b.png", 0o600 | stat.S_IFIFO), b""), "1 members are links or devices"),
    "absolute": ((info("/b.png"), png()), "1 members have absolute names"),
    "drive": ((info("C:\\b.png", system=0), png()), "1 members have absolute names"),
    "above": ((info("x/../../b.png"), png()), "1 members have names that lead elsewhere"),
    "backslashes": ((info("..\\b.png", system=0), png()), "have names that lead elsewhere"),
    "control": ((info("b\x1b[2J\n.png"), png()), "1 members have control characters in"),
    "method": ((info("b.png", method=zipfile.ZIP_BZIP2), png()), "otherwise than by deflate"),
    "bomb": ((info("b.bmp"), bytes(zipped.LARGE + 1)), "unpack to more than 200 times"),
    "nested": ((info("b.zip"), b"PK"), "read by nobody here are left out: 1 .zip"),
}


@pytest.mark.parametrize(("member", "line"), MEMBERS.values(), ids=MEMBERS)
def test_what_is_no_file_of_a_picture_is_left_out_and_told_once(tmp_path, caplog, member, line):
    with caplog.at_level(logging.WARNING):
        source = FolderSource(written(tmp_path / "p.zip", member), "all")
    (said,) = caplog.messages
    assert line in said and "\n" not in said
    assert [r.caption for r in map(source.__getitem__, range(len(source)))] == ["a box"]


def test_what_macs_pack_beside_each_file_is_passed_over(tmp_path, caplog):
    members = [("__MACOSX/._a.png", b"x"), ("__MACOSX/b.png", png()), (".DS_Store", b"x")]
    with caplog.at_level(logging.WARNING):
        assert len(FolderSource(written(tmp_path / "p.zip", *members), "all", False)) == 1
    assert not caplog.messages


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_of_two_members_of_one_name_the_last_is_taken_as_unpacking_does(tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        source = FolderSource(written(tmp_path / "p.zip", ("a.png", png(9))), "all")
    assert source[0].image[0, 0, 0] == 9 and len(source) == 1
    assert "1 members have later ones of their name" in caplog.text


def changed(path, name, offset, format, value):
    """One field of a member's entry in the archive's directory, as PKWARE's 4.3.12 has it."""
    data = bytearray(path.read_bytes())
    at = data.rindex(b"PK\1\2", 0, data.rindex(name))
    struct.pack_into(format, data, at + offset, value)
    path.write_bytes(data)


FLAGS, UNPACKED = (8, "<H"), (24, "<I")


def test_encrypted_members_are_left_out(tmp_path, caplog):
    archive = written(tmp_path / "p.zip", ("b.png", png()))
    changed(archive, b"b.png", *FLAGS, 1)
    with caplog.at_level(logging.WARNING):
        assert len(FolderSource(archive, "all", False)) == 1
    assert "1 members are encrypted and are left out, first: 'b.png'" in caplog.text


def test_a_member_that_claims_too_much_is_not_opened(tmp_path, caplog):
    archive = written(tmp_path / "p.zip", ("b.png", png()))
    changed(archive, b"b.png", *UNPACKED, zipped.MAX_BYTES + 1)
    with caplog.at_level(logging.WARNING):
        assert len(FolderSource(archive, "all", False)) == 1
    assert "267,000,000 bytes unpacked" in caplog.text


def test_a_member_that_claims_too_little_is_not_unpacked_further(tmp_path):
    archive = written(tmp_path / "p.zip", ("b.bmp", bytes(64 << 20)))
    changed(archive, b"b.bmp", *UNPACKED, 1000)
    source = FolderSource(archive, "all", False)
    tracemalloc.start()
    with pytest.raises(BadRecord, match=r"p\.zip:b\.bmp"):
        source[1]
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 << 20


def test_members_that_share_their_bytes_are_a_bomb(tmp_path, monkeypatch):
    monkeypatch.setattr(zipped, "LARGE_ARCHIVE", 1 << 20)
    archive = written(tmp_path / "p.zip", ("b.bmp", bytes(8 << 20)))
    with pytest.raises(UserError, match=r"would unpack to 8,388,.* than 200 times as many"):
        FolderSource(archive, "all")


# ------------------------------------------------------------------ damage


def test_a_damaged_member_is_a_bad_record_that_says_where(tmp_path):
    archive = written(tmp_path / "p.zip", ("b.png", png()))
    data = bytearray(archive.read_bytes())
    data[data.index(b"b.png") + 12] ^= 0x55
    archive.write_bytes(data)
    source = FolderSource(archive, "all", False)
    with pytest.raises(BadRecord, match=r"p\.zip:b\.png: "):
        source[1]
    assert source[0].image[0, 0, 0] == 7


def test_what_is_no_whole_archive_is_told_in_a_line(tmp_path):
    archive = written(tmp_path / "p.zip")
    archive.write_bytes(archive.read_bytes()[:-30])
    for path, line in (
        (archive, "no whole .zip file either"),
        (tmp_path / "gone.zip", "is not a folder"),
        ("gs://bucket/p.zip", "mount that bucket, or copy"),
    ):
        with pytest.raises(UserError, match=rf"data\.path=.*{line}"):
            FolderSource(path, "all")


def test_a_list_that_cannot_be_read_is_named(tmp_path):
    archive = written(tmp_path / "p.zip", (info("list.csv"), b"file,caption\na.png,x\n" * 9))
    data = bytearray(archive.read_bytes())
    data[data.index(b"list.csv") + 9] ^= 0x55
    archive.write_bytes(data)
    with pytest.raises(UserError, match=r"the list .*p\.zip:list\.csv: .*mend the file"):
        FolderSource(archive, "all")


# ------------------------------------------------------------------ names


def test_names_are_those_that_unpacking_gives(tmp_path):
    archive = written(
        tmp_path / "p.zip",
        ("Zuerich.png", png(1)),
        (info("sub\\b.png", system=0), png(2)),
        (info("odd\\c.png"), png(3)),
    )
    # A Mac's archive: UTF-8 that does not say so.
    data = archive.read_bytes().replace(b"Zuerich.png", "Zürich.png".encode())
    archive.write_bytes(data)
    names = [entry[0] for entry in FolderSource(archive, "all", False).entries()]
    assert names == ["Zürich.png", "a.png", "odd\\c.png", "sub/b.png"]
