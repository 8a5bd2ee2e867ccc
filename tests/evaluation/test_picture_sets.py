"""Pictures in .npz files and folders: read and written a batch at a time; what is refused."""

import numpy as np
import pytest

from babeldraw.data.image import save_png
from babeldraw.errors import UserError
from babeldraw.evaluation.picture_sets import PictureSet, PicturesWriter, arrays_in

IMAGES = np.random.default_rng(0).integers(0, 256, (7, 6, 5, 3), np.uint8)


@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_an_npz_is_read_a_batch_at_a_time(tmp_path, save):
    save(tmp_path / "a.npz", IMAGES, labels=np.arange(7))
    found = PictureSet.open(tmp_path / "a.npz")
    assert (found.num, found.size) == (7, (6, 5))
    parts = [*found.batches(3)]
    assert [len(part) for part in parts] == [3, 3, 1]
    np.testing.assert_array_equal(np.concatenate(parts), IMAGES)
    assert set(arrays_in(tmp_path / "a.npz")) == {"arr_0", "labels"}


def test_a_folder_is_read_in_the_order_of_names(tmp_path):
    for number, image in enumerate(IMAGES):
        save_png(tmp_path / f"{number}.png", image)
    (tmp_path / "notes.txt").write_text("no picture")
    found = PictureSet.open(tmp_path)
    np.testing.assert_array_equal(np.concatenate([*found.batches(4)]), IMAGES)
    save_png(tmp_path / "7.png", IMAGES[0, :4])
    with pytest.raises(UserError, match=r"7.png is of \(4, 5\) and 0.png of \(6, 5\); bring all"):
        PictureSet.open(tmp_path)  # Before any work.
    (tmp_path / "7.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="7.png.*every picture of a set counts") as raised:
        [*PictureSet.open(tmp_path).batches(4)]
    assert "\n" not in str(raised.value)


def test_what_is_written_is_read_as_others_do_and_goes_on(tmp_path):
    file = tmp_path / "new" / "drawn.npz"
    first = PicturesWriter(file, 7, (6, 5))
    assert not first.begun
    first.put(0, IMAGES[:4])
    assert not file.exists()
    # Killed here; another starts.
    again = PicturesWriter(file, 7, (6, 5))
    assert again.begun
    again.put(4, IMAGES[4:])
    again.finish()
    with np.load(file, allow_pickle=False) as arrays:
        np.testing.assert_array_equal(arrays["arr_0"], IMAGES)
    assert [path.name for path in file.parent.iterdir()] == ["drawn.npz"]
    # Of another number the beginning is none.
    PicturesWriter(file, 7, (6, 5)).put(0, IMAGES[:4])
    assert not PicturesWriter(file, 8, (6, 5)).begun


class Trap:
    """Unpickled, it would end the test with another error."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


MIXED = np.empty(2, object)
MIXED[:] = [IMAGES[0], Trap()]
BAD = {
    "arr_0 is an array of objects, such as pictures of mixed sizes": {"arr_0": MIXED},
    "arr_0 is float32 and uint8 of 0 to 255 is needed: floats .* NaN": {
        "arr_0": np.full((2, 4, 4, 3), np.nan, np.float32)
    },
    r"has the shape \(7, 6, 5\) and \[N, height, width, 3\]": {"arr_0": IMAGES[..., 0]},
    r"has the shape \(0, 6, 5, 3\)": {"arr_0": IMAGES[:0]},
    "holds no arr_0, which must be pictures": {"images": IMAGES},
}


@pytest.mark.parametrize("line", BAD)
def test_one_line_for_each_mistake(tmp_path, line):
    file = tmp_path / "bad.npz"
    np.savez(file, **BAD[line])
    with pytest.raises(UserError, match=line) as raised:
        PictureSet.open(file)
    assert "\n" not in str(raised.value) and str(file) in str(raised.value)


def test_one_line_for_files_that_are_none(tmp_path):
    file = tmp_path / "bad.npz"
    with pytest.raises(UserError, match="is not there; name an .npz of pictures or a folder"):
        PictureSet.open(file)
    np.savez(file, IMAGES)
    whole = file.read_bytes()
    for content in (b"", b"not a zip", whole[:-40], whole[:60] + bytes(80) + whole[140:]):
        file.write_bytes(content)
        with pytest.raises(UserError, match="is no whole .npz file of pictures") as raised:
            PictureSet.open(file)
        assert "\n" not in str(raised.value)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="empty holds no pictures"):
        PictureSet.open(tmp_path / "empty")
