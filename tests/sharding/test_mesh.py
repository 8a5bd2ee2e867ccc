"""The mesh: every device once, and sizes that do not multiply are told."""

import dataclasses
import itertools

import jax
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.sharding import mesh as meshes
from babeldraw.sharding.mesh import AXES, MeshConfig, abstract_mesh, make_mesh


@pytest.mark.parametrize(
    ("config", "shape"),
    [
        (MeshConfig(), (8, 1, 1)),
        (MeshConfig(model=2), (4, 1, 2)),
        (MeshConfig(stage=2, model=2), (2, 2, 2)),
        (MeshConfig(data=1, stage=8), (1, 8, 1)),
        (MeshConfig(data=2, model=4), (2, 1, 4)),
    ],
    ids=str,
)
def test_every_device_has_one_place(config, shape):
    mesh = make_mesh(config)
    assert mesh.axis_names == AXES == ("data", "stage", "model")
    assert mesh.devices.shape == shape
    assert sorted(d.id for d in mesh.devices.flat) == sorted(d.id for d in jax.devices())


def test_it_may_have_some_of_the_devices():
    some = jax.devices()[2:6]
    mesh = make_mesh(MeshConfig(model=2), some)
    assert mesh.devices.shape == (2, 1, 2) and set(mesh.devices.flat) == set(some)
    assert make_mesh(MeshConfig(), some[:1]).devices.shape == (1, 1, 1)


def test_axes_take_constraints_as_hints():
    # Explicit axes would turn a sharding constraint into an assertion that fails.
    mesh = make_mesh(MeshConfig())
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}


@pytest.mark.parametrize(
    "config",
    [MeshConfig(data=3), MeshConfig(model=3), MeshConfig(data=4, model=4), MeshConfig(model=16)],
    ids=str,
)
def test_sizes_that_do_not_multiply_to_the_devices_are_told(config):
    with pytest.raises(UserError) as caught:
        make_mesh(config)
    message = str(caught.value)
    data = config.data if config.data > 0 else max(8 // config.model, 1)
    assert f"data {data} x stage 1 x model {config.model} = {data * config.model} dev" in message
    assert "there are 8" in message and "\n" not in message


@pytest.mark.parametrize("bad", [{"data": 0}, {"data": -2}, {"stage": 0}, {"model": -1}], ids=str)
def test_sizes_that_are_none_are_told(bad):
    ((name, value),) = bad.items()
    with pytest.raises(UserError, match=f"config.mesh has .*{name}={value}.*at least 1"):
        make_mesh(MeshConfig(**bad))


# ------------------------------------------------------------------ devices that are not here


@dataclasses.dataclass(frozen=True)
class Chip:
    """As much of a TPU as the order of a mesh looks at."""

    id: int
    slice_index: int
    coords: tuple[int, int, int]
    process_index: int = 0
    core_on_chip: int = 0
    platform: str = "tpu"
    device_kind: str = "TPU v4"


def chips(slices, side=2):
    """Slices of side x side chips."""
    places = itertools.product(range(slices), range(side), range(side))
    return [Chip(n, where, (x, y, 0), where) for n, (where, y, x) in enumerate(places)]


def ordered(config, devices):
    """The mesh's devices as an array; `jax.sharding.Mesh` itself takes real ones only."""
    return meshes._ordered(meshes.mesh_shape(config, len(devices)), devices)


@pytest.mark.parametrize("slices", [2, 4])
@pytest.mark.parametrize("fields", [{}, {"model": 2}, {"stage": 2}, {"stage": 2, "model": 2}])
def test_slices_lie_along_data_and_stages_and_models_within_a_slice(slices, fields):
    found = ordered(MeshConfig(**fields), chips(slices))
    of_slice = np.vectorize(lambda chip: chip.slice_index)(found)
    assert sorted(chip.id for chip in found.flat) == list(range(4 * slices))
    for group in of_slice:
        assert len(np.unique(group)) == 1
    # Each slice is one stretch of `data`.
    assert np.all(np.diff(of_slice[:, 0, 0]) >= 0)


def test_slices_that_do_not_divide_data_are_told():
    with pytest.raises(UserError, match="config.mesh.data is 3, which the 2 slices do not divide"):
        ordered(MeshConfig(data=3, model=2), chips(2)[:6])


def test_a_mesh_of_devices_that_need_not_exist():
    mesh = abstract_mesh(MeshConfig(stage=16, model=4), 1024)
    assert mesh.axis_names == AXES and mesh.axis_sizes == (16, 16, 4)
    assert set(mesh.axis_types) == {jax.sharding.AxisType.Auto}
    with pytest.raises(UserError, match="data 15 x stage 16 x model 4 = 960 devices but .* 1023"):
        abstract_mesh(MeshConfig(stage=16, model=4), 1023)
