"""The average of the weights: its recursion, in every layout, resumed, and who goes by it."""

import flax.linen as nn
import jax
import numpy as np
import pytest

from babeldraw.config import to_dict
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.conditions import ClassCondition
from babeldraw.models.vim import VIMConfig
from babeldraw.objectives.average import AverageConfig, Averaged
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig
from babeldraw.train.evaluation import TrainedRun, evaluate_run
from babeldraw.train.experiment import parse
from babeldraw.train.loop import train
from babeldraw.train.start import check_resume
from babeldraw.train.step import make_step, state_shardings
from tests import networks

# Steps of a generator, compiled for several layouts.
pytestmark = pytest.mark.budget(10)
STACK = TransformerConfig(blocks=2, heads=2, dim=16, hidden=32)
BATCH = {
    "tokens": np.random.default_rng(0).integers(0, 16, (16, 4)).astype(np.int32),
    "label": np.arange(16, dtype=np.int32) % 3,
}
OBJECTIVE = networks.generator_objective(
    VIMConfig(STACK),
    ClassCondition(3),
    ViTVQGANConfig(STACK, STACK, (8, 8), patch_size=4, quantizer=VQConfig(16, 4)),
    OptimizerConfig(ScheduleConfig(peak=0.1, warmup_steps=0), name="adamw"),
    16,
    stored_tokens=True,
)


def steps(config, mesh=None, count=20):
    """Parameters and average after each step."""
    objective = Averaged(OBJECTIVE, config)
    mesh = mesh or MeshConfig(data=1)
    devices = jax.devices()[: mesh.stage * mesh.model * max(mesh.data, 1)]
    layout = make_layout(mesh, make_mesh(mesh, devices))
    places = state_shardings(objective, layout)
    state = jax.jit(objective.init, out_shardings=places)(jax.random.key(0))
    step, found = make_step(objective, layout, places), []
    for _ in range(count):
        found.append(jax.device_get((state.params, state.ema)))
        state, _ = step(state, BATCH, jax.random.key(1))
    assert jax.tree.map(lambda a: a.sharding, state.ema) == places.params
    return [*found, jax.device_get((state.params, state.ema))]


@pytest.mark.slow
@pytest.mark.parametrize("config", [AverageConfig(0.9), AverageConfig(0.9, warmup=False)])
def test_it_is_the_recursion_of_its_definition(config):
    (first, begun), *after = steps(config)
    jax.tree.map(np.testing.assert_array_equal, begun, first)
    expected = jax.tree.map(lambda leaf: leaf.astype(np.float64), first)
    for done, (params, average) in enumerate(after):
        decay = (min(0.9, (1 + done) / (10 + done)) if done else 0.0) if config.warmup else 0.9
        expected = jax.tree.map(
            lambda old, new, decay=decay: decay * old + (1 - decay) * new, expected, params
        )
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-6), average, expected)
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), average, params)
    assert max(jax.tree.leaves(moved)) > 1e-2


@pytest.mark.slow
@pytest.mark.parametrize(
    "mesh",
    [
        pytest.param(MeshConfig(data=4, zero1=True), marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=2, stage=2, rules="fsdp"), marks=pytest.mark.slow),
        pytest.param(MeshConfig(data=2, model=2, rules="in_layer"), marks=pytest.mark.slow),
        pytest.param(
            MeshConfig(data=2, stage=2, rules="pipeline", zero1=True), marks=pytest.mark.slow
        ),
    ],
    ids=lambda mesh: mesh.rules + ("_zero1" if mesh.zero1 else ""),
)
def test_it_is_the_same_in_every_layout(mesh):
    (_, expected), (_, found) = (steps(AverageConfig(), m, 3)[-1] for m in (None, mesh))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=2e-4), found, expected)


@pytest.mark.slow
def test_what_does_not_move_stays_bit_for_bit():
    state = nn.unbox(jax.jit(Averaged(OBJECTIVE, AverageConfig()).init)(jax.random.key(0)))

    class Still:
        def update(self, state, batch, key):
            return state.replace(step=state.step + 1), {}

    after, _ = Averaged(Still(), AverageConfig(0.37, warmup=False)).update(state, None, None)
    jax.tree.map(np.testing.assert_array_equal, after.ema, state.params)


@pytest.fixture
def config(runlocal):
    config = runlocal("demo/tokenizer.py")
    config.train.ema = {"decay": 0.5, "warmup": False}
    return config


# Two runs, one of them in two parts.
@pytest.mark.slow
@pytest.mark.budget(35)
def test_a_run_resumes_with_it_and_is_used_and_judged_by_it(config, cli, tmp_path):
    figures = train(config, str(tmp_path / "whole"))
    for evaluator in config.evaluators:
        config.evaluators[evaluator] = None
    config.train.steps = 2
    train(config, str(tmp_path / "parts"))
    config.train.steps = 4
    train(config, str(tmp_path / "parts"))
    whole, parts = (TrainedRun.open(str(tmp_path / name)) for name in ("whole", "parts"))
    jax.tree.map(np.testing.assert_array_equal, whole.state.params, parts.state.params)
    plain = TrainedRun.open(str(tmp_path / "whole"), weights="params")
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), whole.state.params, plain.state.params)
    assert max(jax.tree.leaves(moved)) > 0
    # The tokenizer that others open is the average, and so is the one that was judged.
    params = TokenizerRun.open(str(tmp_path / "whole")).params
    jax.tree.map(np.testing.assert_array_equal, params, jax.device_get(whole.state.params))
    name = "reconstruction/psnr_db"
    again = evaluate_run(str(tmp_path / "whole"), ["reconstruction"])[name]
    assert again == pytest.approx(figures[name])


def test_a_run_begins_or_ends_with_one_as_it_began(config, tmp_path):
    folder = RunFolder.of(str(tmp_path / "run"))
    folder.write_config(to_dict(parse(config)))
    config.train.ema = None
    with pytest.raises(UserError, match=r"config.train.ema = \{'decay': 0.5, .* now it is None"):
        check_resume(folder, parse(config))


def test_an_average_that_is_not_kept_is_told(cli, generator_run, tmp_path):
    words = [f"--workdir={generator_run}", f"--out={tmp_path / 'out'}", "--prompt=a"]
    status, _, told = cli("sample", *words, "--weights=ema")
    assert status == 2 and "weights is 'ema' and the run keeps no average of its weights" in told
    status, _, told = cli("sample", *words, "--weights=mean")
    assert status == 2 and "weights is 'mean'; ema or params is needed" in told
    assert weights_in({"train": {"ema": None}}) == weights_in({"train": {}}) == "params"
    assert weights_in({"train": {"ema": {}}}) == "ema"
    with pytest.raises(UserError, match="ema.decay is 1.0; a share in"):
        AverageConfig(1.0)
