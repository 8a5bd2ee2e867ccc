"""What is said of sections before anything is compiled."""

import dataclasses

import pytest

from babeldraw.layers.block import ComputeConfig, TransformerConfig
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.train import requirements

STACK = TransformerConfig(1, 2, 16, 32, attention_dropout=0.1)
STACKS = {
    "config.model.stack": STACK,
    "config.model.encoder": dataclasses.replace(STACK, attention_dropout=0.0),
    "config.model.plain": dataclasses.replace(STACK, compute=ComputeConfig(kernel="plain")),
}


@pytest.mark.parametrize("device", ["cpu", "gpu", "tpu"])
def test_a_stack_that_loses_its_device_s_kernel_says_so(device, monkeypatch):
    monkeypatch.setattr(requirements, "platform", lambda: device)
    mesh = MeshConfig()
    lines = requirements.without_kernel(make_layout(mesh, make_mesh(mesh)), STACKS)
    if device == "cpu":
        assert lines == []
        return
    (line,) = lines
    assert line.startswith("config.model.stack.attention_dropout is 0.1, which no kernel has: ")
    assert line.endswith(f"0 gives the {device.upper()}'s kernel back")
