"""The mesh: every device once, and sizes that do not multiply are told."""

import jax
import pytest

from babeldraw.errors import UserError
from babeldraw.sharding.mesh import AXES, MeshConfig, make_mesh


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
    assert f"data {config.data} x stage 1 x model {config.model}" in message
    assert "there are 8" in message and "\n" not in message


@pytest.mark.parametrize("bad", [{"data": 0}, {"data": -2}, {"stage": 0}, {"model": -1}], ids=str)
def test_sizes_that_are_none_are_told(bad):
    ((name, value),) = bad.items()
    with pytest.raises(UserError, match=f"config.mesh has .*{name}={value}.*at least 1"):
        make_mesh(MeshConfig(**bad))
