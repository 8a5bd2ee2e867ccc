"""A pickle of arrays, read without unpickling: what it holds, and all that is refused."""

import io
import pickle
import pickletools
import tarfile

import numpy as np
import pytest

from babeldraw.convert.files import read_arrays
from babeldraw.convert.pickled import read_pickled
from babeldraw.errors import UserError

RNG = np.random.default_rng(0)
HELD = {
    "Net_0": {
        "Conv_0": {"kernel": RNG.standard_normal((3, 3, 2, 4), np.float32), "bias": np.ones(4)},
        "half": np.asfortranarray(RNG.standard_normal((2, 3)).astype(np.float16)),
    },
    "count": np.arange(6, dtype=">i4").reshape(2, 3),
}
NAMES = {"Net_0/Conv_0/kernel", "Net_0/Conv_0/bias", "Net_0/half", "count"}


def pickled(value=HELD, protocol=3):
    return pickle.dumps(value, protocol)


def as_numpy_1_writes(data):
    """With the name that NumPy 1 gave, of another length, which protocol 3 writes by lines."""
    return data.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize("written", [as_numpy_1_writes, lambda data: data])
def test_dicts_of_arrays_are_read_whatever_numpy_wrote_them(protocol, written):
    found = read_pickled(written(pickled(protocol=protocol)))
    assert found.keys() == NAMES
    for name, array in found.items():
        expected = HELD
        for part in name.split("/"):
            expected = expected[part]
        np.testing.assert_array_equal(array, expected)
        assert array.dtype == expected.dtype


def test_an_array_held_twice_is_read_twice():
    array = np.arange(3.0)
    found = read_pickled(pickled({"a": array, "b": array}))
    np.testing.assert_array_equal(found["a"], array)
    np.testing.assert_array_equal(found["b"], array)


class Calls:
    """What a hostile file would run."""

    ran = False

    def __init__(self, function, *given):
        self.called = function, given

    def __reduce__(self):
        return self.called


def run():
    Calls.ran = True


def in_itself():
    held = {}
    held["a"] = held
    return held


def shared_many_times():
    held = {"x": np.ones(1)}
    for _ in range(12):
        held = {str(i): held for i in range(10)}
    return held


@pytest.mark.parametrize(
    ("value", "line"),
    [
        ({"a": Calls(run)}, "it holds the name .*test_pickled.run, which is none of an array's"),
        ({"a": Calls(print, "x")}, "it holds the name builtins.print"),
        ({"a": Calls(np.zeros, 10**12)}, "it holds the name numpy.zeros"),
        ({"a": Calls(np.dtype, "O")}, "it holds a, which is neither an array nor a dict"),
        ({"a": np.array([print], object)}, "it holds arrays of type 'O8', which are no numbers"),
        ({"a": np.zeros(2, "f4,i4")}, "it holds arrays of type 'V8', which are no numbers"),
        ({"a": np.array(["x"])}, "it holds arrays of type 'U1', which are no numbers"),
        ({"a": [1, 2]}, "it holds the operation EMPTY_LIST, of which arrays have no need"),
        ({"a": 1}, "it holds a, which is neither an array nor a dict of its own"),
        ({3: np.ones(1)}, "it holds a dict with a key of type int, no name"),
        (np.ones(1), "it holds the whole, which is neither"),
        (in_itself(), "it holds a, which is neither an array nor a dict of its own"),
        (shared_many_times(), "which is neither an array nor a dict of its own"),
    ],
)
def test_whatever_is_no_array_is_refused_and_nothing_runs(value, line, tmp_path):
    (tmp_path / "a.ckpt").write_bytes(pickled(value))
    with pytest.raises(UserError, match=f"^--x=.*a.ckpt is no pickle of arrays alone: .*({line})"):
        read_arrays(str(tmp_path / "a.ckpt"), "--x")
    assert not Calls.ran


def test_a_state_that_lies_about_its_array_is_refused():
    data = pickled({"a": np.arange(300, dtype=np.float32)}, 3)
    # The shape's 300 is two bytes, and another size for as many numbers is a lie.
    assert data.count(b"M\x2c\x01") == 1
    with pytest.raises(ValueError, match="it holds 1200 bytes for an array of shape \\(301,\\)"):
        read_pickled(data.replace(b"M\x2c\x01", b"M\x2d\x01"))
    with pytest.raises(ValueError, match="it holds 1200 bytes for an array of shape \\(300,\\)"):
        read_pickled(data.replace(b"f4", b"f8"))
    with pytest.raises(ValueError, match="it holds arrays of type 'O4', which are no numbers"):
        read_pickled(data.replace(b"f4", b"O4"))


def test_a_file_cut_anywhere_or_of_operations_in_any_order_is_one_error():
    data = pickled()
    for end in range(len(data) - 1):
        with pytest.raises(ValueError):
            read_pickled(data[:end])
    rng, steps = np.random.default_rng(1), [pos for _, _, pos in pickletools.genops(data)]
    for _ in range(300):
        begin, end = sorted(rng.choice(steps, 2, replace=False))
        try:
            read_pickled(data[:begin] + data[end:])
        except ValueError as error:
            assert "\n" not in str(error)


# ------------------------------------------------------------------ in a .tar.gz


def packed(path, members):
    with tarfile.open(path, "w:gz") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return str(path)


def test_a_member_is_read_without_unpacking(tmp_path):
    members = {"x-1/evil.ckpt": b"cos\nsystem\n", "x-1/x/weights/a.ckpt": pickled()}
    file = packed(tmp_path / "x.tar.gz", members)
    assert read_arrays(file, "--x", "weights/a.ckpt").keys() == NAMES
    assert [path.name for path in tmp_path.iterdir()] == ["x.tar.gz"]
    with pytest.raises(UserError, match=r"--x=.*x.tar.gz holds no weights/b.ckpt$"):
        read_arrays(file, "--x", "weights/b.ckpt")
    with pytest.raises(UserError, match=r"x-1/evil.ckpt, is no pickle .*the name os.system"):
        read_arrays(file, "--x", "evil.ckpt")


def test_a_broken_or_enormous_archive_is_one_line(tmp_path, monkeypatch):
    file = tmp_path / "x.tar.gz"
    packed(file, {"weights/a.ckpt": RNG.bytes(4000)})
    whole = file.read_bytes()
    for data in (whole[: len(whole) // 2], b"no archive", b""):
        file.write_bytes(data)
        with pytest.raises(UserError, match="--x=.*x.tar.gz is no whole .tar.gz file: "):
            read_arrays(str(file), "--x", "a.ckpt")
    file.write_bytes(whole)
    monkeypatch.setattr("babeldraw.convert.files.LARGEST_MEMBER", 3999)
    with pytest.raises(UserError, match="weights/a.ckpt has 4000 bytes, over 3999"):
        read_arrays(str(file), "--x", "a.ckpt")
