"""Files of weights: whole or not there, and what is read is what the network needs."""

import numpy as np
import pytest
from safetensors.numpy import save_file

from babeldraw.errors import UserError
from babeldraw.runs.weights import few, flatten, read_params, write_weights

PARAMS = {"a": {"weight": np.arange(6, dtype=np.float32).reshape(2, 3)}, "b": np.float32(2)}


def test_a_file_gives_back_its_tree(tmp_path):
    file = tmp_path / "x.safetensors"
    # Transposed: the memory does not lie as the indices go.
    turned = {"a": {"weight": PARAMS["a"]["weight"].T}, "b": PARAMS["b"]}
    write_weights(file, flatten(turned), {"kind": "toy"})
    found = read_params(str(file), "--weights", turned)
    assert found.keys() == turned.keys()
    np.testing.assert_array_equal(found["a"]["weight"], PARAMS["a"]["weight"].T)
    assert found["b"] == 2 and found["b"].dtype == np.float32
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_a_file_that_could_not_be_written_leaves_what_was_there(tmp_path):
    file = tmp_path / "x.safetensors"
    write_weights(file, flatten(PARAMS), {})
    before = file.read_bytes()
    with pytest.raises(Exception, match="object"):
        write_weights(file, {"a": np.array([object()])}, {})
    assert file.read_bytes() == before
    assert [path.name for path in tmp_path.iterdir()] == [file.name]


def test_half_precision_is_read_in_the_network_s_type(tmp_path):
    file = tmp_path / "x.safetensors"
    save_file({key: np.asarray(a, np.float16) for key, a in flatten(PARAMS).items()}, file)
    found = read_params(str(file), "--weights", PARAMS)
    assert found["a"]["weight"].dtype == np.float32
    np.testing.assert_array_equal(found["a"]["weight"], PARAMS["a"]["weight"])


def test_many_names_are_few():
    assert few(["a", "b", "c"]) == "a, b, c"
    assert few(list("abcdefg")) == "a, b, c and 4 more"


def test_arrays_of_another_network_are_named(tmp_path):
    file = tmp_path / "x.safetensors"
    write_weights(file, flatten(PARAMS) | {f"c{i}": np.ones(1) for i in range(5)}, {})
    with pytest.raises(UserError, match="^--weights=.* holds c0, c1, c2 and 2 more: of another"):
        read_params(str(file), "--weights", PARAMS)
