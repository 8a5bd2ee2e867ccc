"""Inputs: every kind gives its records in order, and says what it cannot read, and where."""

import http.server
import io
import json
import struct
import tarfile
import threading
import time

import pytest
from PIL import Image

from babeldraw.data.prepare.examples import Raw, Rejected
from babeldraw.data.prepare.fetch import Fetch, fetch
from babeldraw.data.prepare.inputs import open_input
from babeldraw.data.prepare.records import masked_crc
from babeldraw.data.shards import WRITER_OPTIONS, array_record
from babeldraw.errors import UserError

LIMIT = 1_000_000


def jpeg(shade):
    file = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, 10, 20)).save(file, "JPEG")
    return file.getvalue()


def read(kind, path, size=4, **options):
    source = open_input(kind, str(path), **options)
    pieces = json.loads(json.dumps(source.pieces(size)))
    return [list(source.read(piece, LIMIT)) for piece in pieces]


def flat(pieces):
    return [record for piece in pieces for record in piece]


# ------------------------------------------------------------------ folder


def test_a_folder_in_pieces(tmp_path):
    for index in range(6):
        (tmp_path / f"{index}.jpg").write_bytes(jpeg(index))
        (tmp_path / f"{index}.txt").write_bytes(f"caption {index}".encode())
    (tmp_path / "5.txt").unlink()
    (tmp_path / "huge.jpg").write_bytes(bytes(LIMIT + 1))
    pieces = read("folder", tmp_path)
    assert [len(piece) for piece in pieces] == [4, 3]
    records = flat(pieces)
    assert records[:5] == [Raw(f"{i}.jpg", jpeg(i), f"caption {i}".encode()) for i in range(5)]
    assert records[5] == Raw("5.jpg", jpeg(5), "")
    assert records[6].reason == "too many bytes"


def test_sub_folders_are_classes(tmp_path):
    for name, shade in (("dogs", 1), ("cats", 2)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpg").write_bytes(jpeg(shade))
    assert open_input("folder", str(tmp_path)).classes == ("cats", "dogs")
    assert [r.label for r in flat(read("folder", tmp_path))] == [0, 1]


# ------------------------------------------------------------------ WebDataset


def write_tar(path, members):
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))


MEMBERS = [
    ("a/0.jpg", jpeg(0)),
    ("a/0.txt", b"a cat"),
    ("1.json", b'{"caption": "a dog"}'),
    ("1.png", jpeg(1)),
    ("1.cls", b"7"),
    ("2.txt", b"no picture"),
    ("3.jpg", jpeg(3)),
    ("3.json", b"{"),
]


def test_tar_files(tmp_path):
    write_tar(tmp_path / "x.tar", MEMBERS)
    one, two, three, four = flat(read("webdataset", tmp_path))
    assert one == Raw("x.tar:a/0@0", jpeg(0), b"a cat")
    assert (two.image, two.caption, two.label) == (jpeg(1), "a dog", 7)
    assert (three.reason, four.reason) == ("no picture", "unreadable caption")


@pytest.mark.parametrize("cut", [700, 1600, 4000])
def test_a_tar_file_cut_off_gives_what_is_whole_and_says_where_it_ends(tmp_path, cut):
    write_tar(tmp_path / "x.tar", MEMBERS)
    whole = (tmp_path / "x.tar").read_bytes()
    (tmp_path / "x.tar").write_bytes(whole[:cut])
    *records, damage = flat(read("webdataset", tmp_path))
    assert damage.reason == "damaged input" and damage.where.startswith("x.tar@")
    assert int(damage.where.partition("@")[2]) <= cut
    assert all(isinstance(record, Raw) for record in records)
    assert len(records) == {700: 0, 1600: 0, 4000: 1}[cut]


def test_a_tar_file_with_a_damaged_header(tmp_path):
    write_tar(tmp_path / "x.tar", MEMBERS)
    data = bytearray((tmp_path / "x.tar").read_bytes())
    data[data.index(b"1.json") + 2] ^= 255
    (tmp_path / "x.tar").write_bytes(data)
    (damage,) = flat(read("webdataset", tmp_path))
    # The record before has not been seen to end.
    assert (damage.where, damage.reason) == ("x.tar@2560", "damaged input")


# ------------------------------------------------------------------ records


# Every other record has two.
CAPTIONS = [b"caption %d", "caption %d\ne\u0301 over".encode()]


def examples(count):
    tf = pytest.importorskip("tensorflow")

    def feature(value):
        if isinstance(value, int):
            return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
        values = value if isinstance(value, list) else [value]
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=values))

    for i in range(count):
        captions = [f"caption {i}".encode(), "e\u0301\nover".encode()]
        fields = {"image": jpeg(i), "caption": captions[: 1 + i % 2], "label": i}
        features = {name: feature(value) for name, value in fields.items()}
        yield tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def framed(data):
    head = struct.pack("<Q", len(data))
    crcs = [struct.pack("<I", masked_crc(part)) for part in (head, data)]
    return head + crcs[0] + data + crcs[1]


def test_tfrecords_as_tensorflow_writes_them_and_damage_in_them(tmp_path):
    pytest.importorskip("google_crc32c")
    tf = pytest.importorskip("tensorflow")
    records = list(examples(4))
    path = tmp_path / "x.tfrecord-00000-of-00001"
    with tf.io.TFRecordWriter(str(path)) as writer:
        for record in records:
            writer.write(record)
    assert path.read_bytes() == b"".join(map(framed, records))
    expected = [(jpeg(i), CAPTIONS[i % 2] % i, i) for i in range(4)]
    found = flat(read("tfrecord", tmp_path))
    assert [(r.image, r.caption, r.label) for r in found] == expected
    # One byte of the second record: it alone is lost.
    first = len(framed(records[0]))
    data = bytearray(path.read_bytes())
    data[first + 40] ^= 1
    path.write_bytes(data)
    found = flat(read("tfrecord", tmp_path))
    assert [type(r) for r in found] == [Raw, Rejected, Raw, Raw]
    assert (found[1].where, found[1].detail) == (f"{path.name}@{first}", "the checksum is wrong")
    # A wrong length: what follows cannot be found.
    data[first] ^= 1
    path.write_bytes(data)
    found = flat(read("tfrecord", tmp_path))
    assert [type(r) for r in found] == [Raw, Rejected] and "length" in found[1].detail
    path.write_bytes(b"".join(map(framed, records))[:-10])
    assert [type(r) for r in flat(read("tfrecord", tmp_path))] == [Raw] * 3 + [Rejected]
    path.write_bytes(framed(b"junk"))
    assert flat(read("tfrecord", tmp_path))[0].detail.startswith("no tf.train.Example")


def test_array_records_are_cut_into_pieces_and_damage_costs_one_record(tmp_path):
    path = tmp_path / "x.array_record"
    writer = array_record().ArrayRecordWriter(str(path), WRITER_OPTIONS)
    for record in examples(6):
        writer.write(record)
    writer.close()
    pieces = read("array_record", tmp_path)
    assert [len(piece) for piece in pieces] == [4, 2]
    assert [record.label for record in flat(pieces)] == list(range(6))
    whole = path.read_bytes()
    data = bytearray(whole)
    data[whole.index(b"caption 2")] ^= 1
    path.write_bytes(data)
    kinds = [type(record) for record in flat(read("array_record", tmp_path))]
    assert kinds == [Raw, Raw, Rejected, Raw, Raw, Raw]
    path.write_bytes(whole[: len(whole) // 2])
    (damage,) = flat(read("array_record", tmp_path))
    assert damage.reason == "damaged input"


# ------------------------------------------------------------------ lists


def write_parquet(path, rows):
    pytest.importorskip("pyarrow")
    import pyarrow as pa
    import pyarrow.parquet

    pyarrow.parquet.write_table(pa.Table.from_pylist(rows), path, row_group_size=3)


def test_lists_of_paths(tmp_path):
    rows = []
    for i in range(5):
        (tmp_path / f"{i}.jpg").write_bytes(jpeg(i))
        rows.append({"file": f"{i}.jpg", "caption": f"caption {i}", "label": i})
    rows[3]["file"] = "../../etc/passwd"
    rows[4]["file"] = "none.jpg"
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n{")
    (tmp_path / "b.csv").write_text(
        "file,caption\n" + "".join(f"{i}.jpg,say {i}\n" for i in (0, 1))
    )
    write_parquet(tmp_path / "c.parquet", rows * 2)
    pieces = read("list", tmp_path)
    assert [len(piece) for piece in pieces] == [4, 2, 2, 4, 4, 2]
    lines, table, parquet = flat(pieces[:2]), pieces[2], flat(pieces[3:])
    assert lines[0] == Raw("a.jsonl:1", jpeg(0), "caption 0", 0)
    assert [r.reason for r in lines[3:]] == ["no picture", "no picture", "unreadable caption"]
    assert "outside" in lines[3].detail
    assert [r.caption for r in table] == ["say 0", "say 1"]
    assert [getattr(r, "caption", "") for r in parquet] == [
        "caption 0",
        "caption 1",
        "caption 2",
        "",
        "",
    ] * 2
    assert parquet[5].where == "c.parquet:5" and parquet[5].image == jpeg(0)


def test_parquet_may_hold_the_pictures_themselves(tmp_path):
    rows = [{"image": {"bytes": jpeg(i), "path": None}, "text": f"say {i}"} for i in range(3)]
    write_parquet(tmp_path / "a.parquet", rows)
    found = flat(read("list", tmp_path / "a.parquet"))
    assert [(r.image, r.caption) for r in found] == [(jpeg(i), f"say {i}") for i in range(3)]


# ------------------------------------------------------------------ fetching


class Server(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", "/1.jpg")
            self.end_headers()
        elif self.path == "/round":
            self.send_response(302)
            self.send_header("Location", "/round")
            self.end_headers()
        elif self.path == "/away":
            self.send_response(302)
            self.send_header("Location", "http://localhost:1/x.jpg")
            self.end_headers()
        elif self.path == "/missing":
            self.send_error(404)
        elif self.path == "/slow":
            self.send_response(200)
            self.end_headers()
            try:
                for _ in range(100):
                    self.wfile.write(b"x")
                    time.sleep(0.05)
            except OSError:
                pass
        else:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(jpeg(1) if self.path == "/1.jpg" else bytes(5000))

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def site():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


HERE = Fetch(("127.0.0.1",), 0.5)


def test_fetching_follows_redirects_and_stops_at_the_limit(site):
    assert fetch(f"{site}/1.jpg", HERE, LIMIT) == jpeg(1)
    assert fetch(f"{site}/moved", HERE, LIMIT) == jpeg(1)
    assert len(fetch(f"{site}/large", HERE, 100)) == 101


@pytest.mark.parametrize(
    ("path", "limits", "line"),
    [
        ("/missing", HERE, "404"),
        ("/round", HERE, "redirects"),
        ("/away", HERE, "localhost is not among"),
        ("/1.jpg", Fetch(("example.org",)), "not among fetch.hosts"),
        ("/1.jpg", Fetch(("*",)), "private network"),
    ],
)
def test_what_is_not_fetched(site, path, limits, line):
    with pytest.raises((OSError, ValueError), match=line):
        fetch(site + path, limits, LIMIT)


def test_a_server_that_drips_is_left(site):
    began = time.monotonic()
    with pytest.raises(OSError):
        fetch(f"{site}/slow", HERE, LIMIT)
    assert time.monotonic() - began < 2


def test_other_schemes_are_refused():
    for url in ("file:///etc/passwd", "ftp://127.0.0.1/x", "nonsense", "http://"):
        with pytest.raises(ValueError, match="http"):
            fetch(url, HERE, LIMIT)


def test_a_list_of_urls_is_fetched_only_when_asked(tmp_path, site):
    rows = [{"url": f"{site}/{name}", "caption": "a cat"} for name in ("1.jpg", "missing")]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)))
    off = flat(read("list", tmp_path))
    assert [r.reason for r in off] == ["not fetched"] * 2 and "fetch is off" in off[0].detail
    one, two = flat(read("list", tmp_path, fetch=HERE))
    assert one.image == jpeg(1) and two.reason == "not fetched" and "404" in two.detail


def test_settings_that_do_not_go_together_are_told(tmp_path):
    for options, line in [
        ({"kind": "zip"}, "kind='zip'"),
        ({"kind": "tfrecord", "split": "train"}, "split=train"),
        ({"kind": "folder", "fetch": HERE}, "fetch"),
        ({"kind": "list", "data_dir": "x"}, "data_dir=x"),
    ]:
        with pytest.raises(UserError, match=line):
            open_input(path=str(tmp_path), **options)
    for kind in ("webdataset", "tfrecord", "array_record", "list"):
        with pytest.raises(UserError, match="holds no"):
            open_input(kind, str(tmp_path)).pieces(4)
    with pytest.raises(UserError, match="fetch.hosts is empty"):
        Fetch(())
