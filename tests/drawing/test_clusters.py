"""The clusters of a run's codes as its file: written and read, of others too, and what is none."""

import types

import numpy as np
import pytest

from babeldraw.drawing.clusters import check_clustered, read_clusters, write_clusters
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder


@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_what_is_written_is_read_as_int32(tmp_path, dtype):
    folder, labels = RunFolder.of(str(tmp_path)), np.array([0, 2, 1, 0], dtype)
    assert read_clusters(folder, (4,)) is None
    write_clusters(folder, labels)
    found = read_clusters(folder, (4,))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)


@pytest.mark.parametrize("labels", [np.zeros(3, np.int32), np.zeros(4), np.array([0, 0, 9, 1])])
def test_clusters_of_other_codes_are_one_line(tmp_path, labels):
    folder = RunFolder.of(str(tmp_path))
    write_clusters(folder, labels)
    with pytest.raises(UserError, match=r"does not hold the clusters of the run's \(4,\) codes; m"):
        read_clusters(folder, (4,))


def test_codes_that_are_drawn_in_factors_have_no_clusters():
    whole, factors = (types.SimpleNamespace(factors=sizes) for sizes in ((256,), (4, 64)))
    check_clustered(whole, "clusters is 4")
    with pytest.raises(UserError, match="^clusters is 4 and .* in 2 factors, of 4, 64"):
        check_clustered(factors, "clusters is 4")
