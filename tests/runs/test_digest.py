"""A number per array that any mesh agrees on and any damage changes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from babeldraw.runs.digest import digest_on_host, digests
from babeldraw.runs.writing import packed, unpacked

RNG = np.random.default_rng(0)
ARRAYS = {
    "float32": RNG.normal(size=(8, 3, 5)).astype(np.float32),
    "bfloat16": jnp.asarray(RNG.normal(size=(7,)), jnp.bfloat16),
    "int8": RNG.integers(-128, 128, (8, 4)).astype(np.int8),
    "bool": np.array([True, False]),
    "scalar": np.int32(3),
    "nan": np.array([np.nan, -0.0, np.inf], np.float32),
}


@pytest.fixture(scope="module")
def on_devices():
    return [int(number) for number in digests(ARRAYS)]


def test_the_host_counts_as_the_devices_do(on_devices):
    leaves = jax.tree.leaves(ARRAYS)
    assert [digest_on_host(np.asarray(leaf)) for leaf in leaves] == on_devices


def test_the_mesh_does_not_matter(on_devices):
    mesh = Mesh(np.asarray(jax.devices()).reshape(4, 2), ("a", "b"))
    split = dict(ARRAYS)
    for name, spec in (("float32", ("a", None, None)), ("int8", ("b", "a"))):
        split[name] = jax.device_put(ARRAYS[name], NamedSharding(mesh, PartitionSpec(*spec)))
    assert [int(number) for number in digests(split)] == on_devices


def test_each_bit_and_each_place_counts():
    x = ARRAYS["float32"]
    whole = digest_on_host(x)
    for byte in range(0, x.nbytes, 7):
        for bit in range(8):
            damaged = bytearray(x.tobytes())
            damaged[byte] ^= 1 << bit
            assert digest_on_host(np.frombuffer(damaged, np.float32).reshape(x.shape)) != whole
    assert digest_on_host(-x) != whole
    swapped = x.copy()
    swapped[0, 0, 0], swapped[1, 0, 0] = x[1, 0, 0], x[0, 0, 0]
    assert digest_on_host(swapped) != whole


def test_a_checkpoint_of_an_earlier_version_has_its_digests_one_by_one():
    numbers = {"['a']": 3, "['b'][0]": 2**32 - 1}
    assert unpacked(packed(numbers)) == unpacked(numbers) == numbers
