"""Statistics in files: written, read, in others' layouts, and what is refused."""

import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.evaluation.arrays import read_arrays
from babeldraw.evaluation.distances import Gaussian
from babeldraw.evaluation.references import Reference, read_reference

MEAN, COVARIANCE = np.arange(3.0), np.diag([1.0, 2.0, 3.0])


def test_what_is_written_is_read(tmp_path):
    file = tmp_path / "new" / "shapes.npz"
    Reference("vgg16", Gaussian(MEAN, COVARIANCE, 50), Gaussian(MEAN + 1, COVARIANCE)).save(file)
    found = read_reference(file, "vgg16", 3)
    assert (found.network, found.pooled.num) == ("vgg16", 50)
    np.testing.assert_array_equal(found.pooled.mean_D, MEAN)
    np.testing.assert_array_equal(found.pooled.covariance_DD, COVARIANCE)
    np.testing.assert_array_equal(found.spatial.mean_D, MEAN + 1)
    # As pytorch-fid and ADM's evaluator read them.
    with np.load(file) as arrays:
        assert {"mu", "sigma", "mu_s", "sigma_s"} < set(arrays.files)


def test_others_files_are_read_with_a_word(tmp_path, capsys):
    np.savez(tmp_path / "adm.npz", mu=MEAN.astype(np.float32), sigma=COVARIANCE, arr_0=MEAN)
    found = read_reference(tmp_path / "adm.npz", "vgg16", 3)
    assert found.network == "" and found.spatial is None and found.pooled.mean_D.dtype == np.float64
    assert "names no network; its 3 features are taken for vgg16's" in "".join(capsys.readouterr())


class Trap:
    """Unpickled, it would end the test with another error."""

    def __reduce__(self):
        return (exec, ("raise SystemExit('unpickled')",))


NAN = np.array([0.0, np.nan, 1.0])
BAD = {
    "mu is an array of objects, which is not read": {"mu": np.array([Trap(), 1, 2], object)},
    "statistics of inception and those of vgg16 are needed": {"network": np.str_("inception")},
    "statistics of 2 features and vgg16 has 3": {"mu": MEAN[:2], "sigma": COVARIANCE[:2, :2]},
    r"the shapes \(3,\) and \(2, 2\)": {"sigma": COVARIANCE[:2, :2]},
    "mu and sigma hold values that are no finite numbers": {"mu": NAN},
    "no finite numbers": {"mu": np.array(["a", "b", "c"])},
    "it has an eigenvalue of -1": {"sigma": np.diag([1.0, -1.0, 1.0])},
    "are of 2 pictures, fewer than the 3 features": {"num": np.int64(2)},
    "is no covariance, it is not symmetric": {"sigma": np.triu(np.ones((3, 3)))},
}


@pytest.mark.parametrize("line", BAD)
def test_one_line_for_each_mistake(tmp_path, line):
    file = tmp_path / "bad.npz"
    np.savez(file, **({"mu": MEAN, "sigma": COVARIANCE} | BAD[line]))
    with pytest.raises(UserError, match=line) as raised:
        read_reference(file, "vgg16", 3)
    assert "\n" not in str(raised.value) and str(file) in str(raised.value)


def test_one_line_for_files_that_are_none(tmp_path):
    file = tmp_path / "bad.npz"
    with pytest.raises(UserError, match="is not there"):
        read_reference(file, "vgg16", 3)
    np.savez(file, arr_0=MEAN)
    with pytest.raises(UserError, match=r"holds \['arr_0'\] and mu, sigma is needed"):
        read_reference(file, "vgg16", 3)
    whole = file.read_bytes()
    for content in (b"", b"not a zip", whole[:-40], b"\x80\x04."):
        file.write_bytes(content)
        with pytest.raises(UserError, match="is no .npz file of arrays") as raised:
            read_arrays(file, ("arr_0",))
        assert "\n" not in str(raised.value)
    np.save(tmp_path / "one.npy", MEAN)
    with pytest.raises(UserError, match="is no .npz file of arrays"):
        read_arrays(tmp_path / "one.npy", ("mu",))
