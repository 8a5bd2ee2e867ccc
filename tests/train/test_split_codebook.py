"""A convolutional tokenizer with IBQ under layouts that split its codebook: one device's losses."""

import dataclasses
from pathlib import Path

import jax
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import MeshConfig, abstract_mesh, make_mesh
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.quantizers import IBQConfig
from babeldraw.tokenizers.vqgan import VQGANConfig
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config
from tests.train.parallel_case import B, Run

CONFIGS = Path(__file__).parents[2] / "configs"
NETWORK = ConvolutionalConfig(
    channels=8,
    groups=4,
    multipliers=(1, 2),
    encoder_blocks=1,
    decoder_blocks=1,
    latent_channels=6,
    attention=True,
    shortcut="input",
)
OBJECTIVE = ImageTokenizerObjective(
    VQGANConfig(NETWORK, (16, 16), IBQConfig(64, 6), projected=True, centred=True),
    OptimizerConfig(ScheduleConfig(1e-2, 0, 0, 1, kind="constant"), "adamw", b2=0.99),
    TokenizerLossConfig(entropy=0.05),
    batch_size=B,
)


@pytest.mark.slow
@pytest.mark.budget(40)  # A step of the network, compiled twice.
@pytest.mark.parametrize("mesh", [MeshConfig(2, 1, 4, "in_layer"), MeshConfig(2, 1, 4, "fsdp")])
def test_split_over_model_it_learns_as_on_one_device(mesh):
    one = Run(MeshConfig(1), OBJECTIVE, jax.devices()[:1]).losses(2)
    run = Run(mesh, OBJECTIVE)
    table = run.places.params["codebook"]["table"].shard_shape((64, 6))
    whole = run.places.params["encoder"]["first"]["weight"].shard_shape((3, 3, 3, 8))
    assert table[0] == 16 and whole[:3] == (3, 3, 3)
    np.testing.assert_allclose(run.losses(2), one, rtol=1e-4)


def test_a_codebook_that_model_does_not_divide_is_refused_before_anything_is_made():
    config = load_config("emoji/ibq.py", CONFIGS / "README", "ibq,1k").to_dict()
    config["tokenizer"]["quantizer"]["codebook_size"] = 1001
    mesh = {"data": 4, "model": 2, "rules": "in_layer"}
    experiment = parse(config | {"mesh": mesh})
    layout = make_layout(experiment.mesh, make_mesh(experiment.mesh))
    with pytest.raises(UserError, match="codebook_size is 1001, which config.mesh.model=2 does no"):
        experiment.check_layout(layout)


@pytest.mark.parametrize(
    ("argument", "mesh", "line"),
    [
        (
            "vq,1k",
            {"data": 2, "model": 3, "rules": "in_layer"},
            "1,024 codes are no multiple of it",
        ),
        ("fsq,1k", {"data": 2, "model": 2, "rules": "fsdp"}, "a codebook's table, and it has none"),
        (
            "ibq,1k",
            {"data": 2, "model": 4, "rules": "in_layer_serving"},
            "rules is in_layer_serving, w",
        ),
        (
            "lfq,1k",
            {"data": 2, "stage": 2, "rules": "pipeline"},
            "rules is pipeline, which",
        ),
    ],
)
def test_a_mesh_that_splits_nothing_of_convolutions_is_one_line(argument, mesh, line):
    experiment = parse(load_config("emoji/ibq.py", CONFIGS / "README", argument).to_dict())
    mesh = MeshConfig(**mesh)
    experiment = dataclasses.replace(experiment, mesh=mesh)
    devices = mesh.data * mesh.stage * mesh.model
    layout = make_layout(mesh, abstract_mesh(mesh, devices))
    with pytest.raises(UserError, match=line):
        experiment.check_layout(layout)


@pytest.mark.parametrize(
    ("argument", "change", "line"),
    [
        ("fsq,1k", {"commitment": 5.0}, "config.loss.commitment is 5.0 and the codes of config.to"),
        ("ibq,1k", {"kl": 5.0}, "config.loss.kl is 5.0 and the codes of .*quantizer.kind=ibq have"),
        ("fsq,1k", {"entropy": 0.1}, "entropy is 0.1 and the codes of .*kind=fsq have no such te"),
        ("ibq,1k", {"restart_below": 0.1}, "the codes of .*kind=ibq cannot be moved"),
    ],
)
def test_a_weight_of_a_term_that_codes_lack_is_one_line(argument, change, line):
    config = load_config("emoji/ibq.py", CONFIGS / "README", f"{argument},runlocal").to_dict()
    config["loss"] |= change
    with pytest.raises(UserError, match=line):
        parse(config).check_new()


def test_a_part_without_parameters_is_not_trained_alone():
    config = load_config("emoji/ibq.py", CONFIGS / "README", "lfq,1k,runlocal").to_dict()
    config |= {"train_groups": ("quantizer",), "tokenizer_run": "runs/lfq"}
    config["tokenizer"]["projected"] = False
    config["tokenizer"]["network"]["latent_channels"] = config["tokenizer"]["quantizer"]["bits"]
    with pytest.raises(UserError, match=r"train_groups is \('quantizer',\), and .*kind=lfq th"):
        parse(config).check_new()


def test_shares_of_codes_are_kept_where_they_move_codes():
    for argument, kept in {"vq": True, "ibq": False, "lfq": False, "fsq": False}.items():
        config = load_config("emoji/ibq.py", CONFIGS / "README", f"{argument},1k,runlocal")
        objective = parse(config.to_dict()).make_objective()
        state = jax.eval_shape(objective.init, jax.random.key(0))
        assert ("code_share" in state.extra) == ("code_share" in objective.axes().extra) == kept
