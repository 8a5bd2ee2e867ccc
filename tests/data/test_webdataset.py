"""WebDataset files read where they lie: members of one name make a record."""

import io
import logging
import tarfile

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.sources import BadRecord, DataConfig, open_source
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
    assert len(source) == 30
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
    for index, line in enumerate([r"0.tar:a@0", r"0.tar:b@2048: .*UTF-8", r"0.tar:c@4096"]):
        with pytest.raises(BadRecord, match=line):
            source[index]


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
