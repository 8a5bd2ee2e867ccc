"""Readers of damaged files: no traceback, and no record lost that is not counted."""

import gc
import io
import json
import logging
import random
import tarfile
import tracemalloc
import zipfile

import numpy as np
import pytest
from PIL import Image

from babeldraw.data.folder import FolderSource
from babeldraw.data.image import decode
from babeldraw.data.prepare.examples import Raw, Rejected
from babeldraw.data.prepare.lists import ListInput
from babeldraw.data.records import BadRecord
from babeldraw.data.webdataset import WebDatasetSource
from babeldraw.drawing.prompts import read_prompts
from babeldraw.errors import UserError

MAX_BYTES = 1 << 20


def picture(kind, **options):
    file = io.BytesIO()
    image = Image.fromarray(np.arange(12 * 9 * 3, dtype=np.uint8).reshape(9, 12, 3))
    image.save(file, kind, **options)
    return file.getvalue()


def damaged(data, rng):
    """Some bytes changed, cut out, put in or doubled; or the end lost."""
    data = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5, 20))):
        at, size = rng.randrange(len(data) + 1), rng.choice((1, 1, 4, 30))
        how = rng.randrange(5)
        if how == 0:
            data[at : at + size] = rng.randbytes(min(size, len(data) - at))
        elif how == 1:
            del data[at : at + size]
        elif how == 2:
            data[at:at] = rng.randbytes(size)
        elif how == 3:
            data[at:at] = data[at : at + size]
        elif rng.random() < 0.2:
            del data[at:]
    return bytes(data)


def read_all(source):
    """Each record, or what is wrong with it."""
    for index in range(len(source)):
        try:
            record = source[index]
        except BadRecord:
            continue
        assert record.image.dtype == np.uint8 and record.image.shape[2] == 3
        record.caption.encode()
        assert record.label < max(1, len(source.classes))


def tar_bytes():
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as tar:
        members = [("a.png", picture("PNG")), ("a.txt", b"a"), ("b.cls", b"1"), ("b.txt", b"b")]
        members += [("b.jpg", picture("JPEG")), ("c.png", picture("PNG"))]
        for name, data in [*members, ("c.json", b'{"caption": ["c", "d"], "label": 1.0}')]:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file.getvalue()


def read_tar(data, folder):
    (folder / "a.tar").write_bytes(data)
    read_all(WebDatasetSource(folder / "a.tar", "all"))


def zip_bytes():
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        members = [("cat/a.png", picture("PNG")), ("cat/a.txt", b"a\nfr.utf8=b")]
        for name, data in [
            *members,
            ("b.jpg", picture("JPEG")),
            ("l.csv", b"file,text\nb.jpg,b\n"),
        ]:
            archive.writestr(name, data)
    return file.getvalue()


def read_zip(data, folder):
    (folder / "a.zip").write_bytes(data)
    read_all(FolderSource(folder / "a.zip", "all", require_captions=False))


def read_picture(data, folder):
    decode(data)


ROWS = [{"file": f"{i}.png", "caption": f"number {i}", "label": i % 2} for i in range(6)]
JSON = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
LINES = (b'%d.png,"no, %d",%d.0\n' % (i, i, i % 2) for i in range(6))
CSV = b"file,caption,label\n" + b"".join(LINES)


def read_folder(data, folder, name):
    for number in range(6):
        if not (folder / f"{number}.png").exists():
            (folder / f"{number}.png").write_bytes(picture("PNG"))
    (folder / name).write_bytes(data)
    source = FolderSource(folder, "all", require_captions=False)
    # A list never costs a picture.
    assert len(source) == 6
    read_all(source)


def read_list(data, folder, name):
    (folder / name).write_bytes(data)
    source = ListInput(str(folder / name))
    for piece in source.pieces(4):
        for found in source.read(json.loads(json.dumps(piece)), MAX_BYTES):
            assert isinstance(found, (Raw, Rejected))


def parquet_bytes():
    parquet, arrow = pytest.importorskip("pyarrow.parquet"), pytest.importorskip("pyarrow")
    file = io.BytesIO()
    rows = {"image": [picture("PNG")] * 6, "caption": [f"no {i}" for i in range(6)]}
    parquet.write_table(arrow.table(rows), file)
    return file.getvalue()


READERS = {
    "png": (lambda: picture("PNG"), read_picture),
    "jpeg": (lambda: picture("JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\0\0\0\0\0\0"), read_picture),
    "webp": (lambda: picture("WEBP"), read_picture),
    "tiff": (lambda: picture("TIFF"), read_picture),
    "gif": (lambda: picture("GIF"), read_picture),
    "tar": (tar_bytes, read_tar),
    "zip": (zip_bytes, read_zip),
    "folder_jsonl": (lambda: JSON, lambda data, folder: read_folder(data, folder, "list.jsonl")),
    "folder_csv": (lambda: CSV, lambda data, folder: read_folder(data, folder, "list.csv")),
    "list_jsonl": (lambda: JSON, lambda data, folder: read_list(data, folder, "list.jsonl")),
    "list_csv": (lambda: CSV, lambda data, folder: read_list(data, folder, "list.csv")),
    "list_parquet": (parquet_bytes, lambda data, folder: read_list(data, folder, "list.parquet")),
    "prompts_tsv": (
        lambda: b"Prompt\tCategory\na ring\tx\na box\ty\n",
        lambda data, folder: (
            (folder / "p.tsv").write_bytes(data),
            read_prompts(str(folder / "p.tsv")),
        ),
    ),
}
QUICK, MANY = 40, 5000


@pytest.fixture(autouse=True)
def without_log():
    """pytest would keep each line and send it between processes, which take no lone surrogate."""
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


def fuzz(name, count, folder):
    make, read = READERS[name]
    good, rng = make(), random.Random(name)
    read(good, folder)
    for _ in range(count):
        try:
            read(damaged(good, rng), folder)
        except (BadRecord, UserError) as error:
            # One line of a user's kind.
            assert "\n" not in str(error)


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_read_or_refused_in_a_line(name, tmp_path):
    fuzz(name, QUICK, tmp_path)


@pytest.mark.slow
@pytest.mark.budget(120)
@pytest.mark.parametrize("name", READERS)
def test_thousands_of_damaged_files_are_read_or_refused_in_flat_memory(name, tmp_path):
    fuzz(name, 200, tmp_path)
    tracemalloc.start()
    fuzz(name, MANY, tmp_path)
    # What waits for the collector is not kept.
    gc.collect()
    # pathlib interns the parts of each path; the interpreter's table of such strings, one for the
    # process, doubles now and then, though the strings themselves go.
    kept = tracemalloc.take_snapshot().filter_traces(
        [tracemalloc.Filter(False, "*/pathlib*"), tracemalloc.Filter(False, tracemalloc.__file__)]
    )
    tracemalloc.stop()
    assert sum(trace.size for trace in kept.traces) < 1_000_000
