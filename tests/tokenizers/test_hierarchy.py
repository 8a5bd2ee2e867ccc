"""A hierarchy: one codebook of running means at all rates, levels by rate and size, mistakes."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.runs.weights import flatten
from babeldraw.sharding.layout import make_layout, use
from babeldraw.sharding.mesh import MeshConfig, make_mesh
from babeldraw.tokenizers.base import identity
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.hierarchy import HierarchyConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.running_mean import RunningMeanConfig
from babeldraw.train.experiment import parse
from babeldraw.train.presets import load_config

NETWORK = ConvolutionalConfig(
    channels=4,
    multipliers=(1, 2, 2),
    encoder_blocks=1,
    decoder_blocks=0,
    middle_blocks=1,
    latent_channels=3,
    shortcut="input",
    bias=True,
    groups=2,
)
QUANTIZER = RunningMeanConfig(16, 3, decay=0.9)
CONFIG = HierarchyConfig(NETWORK, ((1, 2), (1, 1, 2)), (8, 8), ((2, 1), (4, 1), (2, 3)), QUANTIZER)
TOKENIZER = make_tokenizer(CONFIG)
LEVELS = {level: TOKENIZER.at(level) for level in TOKENIZER.levels}
IMAGES = np.random.default_rng(0).random((8, 8, 8, 3), np.float32)
KEY = jax.random.key(1)
OBJECTIVE = ImageTokenizerObjective(
    tokenizer=CONFIG,
    optimizer=OptimizerConfig(ScheduleConfig(1e-2, 0, 0, 1, kind="constant"), "adamw"),
    loss=TokenizerLossConfig(l1=1.0),
    batch_size=len(IMAGES),
)


@pytest.fixture(scope="module")
def state():
    return jax.jit(OBJECTIVE.init)(jax.random.key(2))


@pytest.fixture(scope="module")
def params(state):
    return state.params


@pytest.fixture(scope="module")
def updated(state):
    return jax.jit(OBJECTIVE.update)(state, {"image": IMAGES}, KEY)


# ------------------------------------------------------------------ levels


def test_levels_have_their_names_sizes_and_grids(params):
    assert TOKENIZER.levels == ("2", "4", "2x3")
    grids = {"2": (4, 4), "4": (2, 2), "2x3": (12, 12)}
    for level, it in LEVELS.items():
        assert (it.codes.shape, it.codes.vocab) == (grids[level], (16,))
        images = jnp.ones((2, *it.image_size, 3)) / 2
        codes = jax.jit(it.encode)(params, images)
        assert codes.shape == (2, *it.codes.each) and codes.dtype == it.codes.dtype
        assert jax.jit(it.decode)(params, codes).shape == images.shape
    assert len({identity(it, params) for it in LEVELS.values()}) == 3


def test_all_levels_look_up_one_codebook(params):
    """Latents of each rate, by hand, at the nearest of the only table there is."""
    tables = [name for name in flatten(params) if name.startswith("codebook/")]
    assert sorted(tables) == ["codebook/count", "codebook/table"]
    encode = jax.jit(
        lambda p, x: TOKENIZER.network.apply({"params": p}, x, (2, 4), method="latents")
    )
    table = params["codebook"]["table"]
    for level, z_BhwQ in zip(("2", "4"), encode(params, IMAGES), strict=True):
        flat = np.asarray(z_BhwQ).reshape(len(IMAGES), -1, 1, 3)
        expected = np.argmin(np.square(flat - np.asarray(table)).sum(-1), axis=-1)
        found = jax.jit(LEVELS[level].encode)(params, IMAGES)
        np.testing.assert_array_equal(found, expected)


def test_a_level_hangs_on_nothing_that_lies_deeper(params):
    deeper = {**params["encoder"]}
    deeper["level_2"] = jax.tree.map(lambda leaf: leaf + 1, deeper["level_2"])
    other = {**params, "encoder": deeper}
    for level, hangs in {"2": False, "4": True}.items():
        forward = jax.jit(LEVELS[level].forward)
        one, two = (forward(tree, IMAGES).quantized.latents for tree in (params, other))
        assert bool(jnp.any(one != two)) == hangs


def test_training_draws_every_picture_at_all_rates(params):
    out = jax.jit(TOKENIZER.forward)(params, IMAGES, KEY)
    assert out.raw.shape == (2 * len(IMAGES), 8, 8, 3)
    assert out.codes.shape == (len(IMAGES), 16 + 4)
    for rate, level in enumerate(("2", "4")):
        alone = jax.jit(LEVELS[level].forward)(params, IMAGES)
        np.testing.assert_allclose(out.raw[rate::2], alone.raw, atol=1e-5)
    # Another level trains itself alone.
    assert jax.jit(LEVELS["4"].forward)(params, IMAGES, KEY).raw.shape == IMAGES.shape


# ------------------------------------------------------------------ the codebook


def test_a_code_is_the_running_mean_of_what_chose_it():
    """Three steps of the published statement, N and m apart, in NumPy."""
    rng, decay = np.random.default_rng(1), QUANTIZER.decay
    table = rng.normal(size=(16, 3)).astype(np.float32)
    count, total = np.ones(16), table.astype(np.float64)
    params = {"table": jnp.asarray(table), "count": jnp.ones(16)}
    module, follow = QUANTIZER.make(), jax.jit(QUANTIZER.follow)
    for _ in range(3):
        z = rng.normal(size=(5, 4, 3)).astype(np.float32)
        codes = (total / count[:, None])[:, None, None]
        ids = np.argmin(np.square(codes - z).sum(-1), axis=0)
        q = module.apply({"params": params}, z)
        np.testing.assert_array_equal(q.ids, ids)
        chosen = np.eye(16)[ids.reshape(-1)]
        count = decay * count + (1 - decay) * chosen.sum(0)
        total = decay * total + (1 - decay) * chosen.T @ z.reshape(-1, 3)
        params = follow(params, q)
        np.testing.assert_allclose(params["table"], total / count[:, None], atol=1e-5)
        np.testing.assert_allclose(params["count"], count, atol=1e-5)


def test_an_idle_code_stays_and_one_with_nothing_left_goes_to_its_latents():
    table = jnp.asarray([[0.0, 0, 0], [5, 5, 5]])
    module, config = RunningMeanConfig(2, 3).make(), RunningMeanConfig(2, 3)
    params = {"table": table, "count": jnp.zeros(2)}
    q = module.apply({"params": params}, jnp.asarray([[1.0, 0, 0], [0, 1.0, 0]]))
    found = config.follow(params, q)
    np.testing.assert_allclose(found["table"][0], [0.5, 0.5, 0], atol=1e-6)
    np.testing.assert_array_equal(found["table"][1], table[1])


def test_the_codebook_is_moved_by_means_alone_and_the_gradient_passes_it(state, updated):
    after, metrics = updated
    out = jax.jit(TOKENIZER.forward)(state.params, IMAGES, jax.random.split(KEY)[0])
    expected = QUANTIZER.follow(state.params["codebook"], out.quantized)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), after.params["codebook"], expected
    )
    assert set(out.terms) == {"commitment"} and metrics["commitment"] > 0
    moved = [
        np.abs(np.asarray(a - b)).max() > 0
        for a, b in zip(
            jax.tree.leaves(after.params["encoder"]),
            jax.tree.leaves(state.params["encoder"]),
            strict=True,
        )
    ]
    assert all(moved)


def test_a_moved_code_begins_anew(state):
    q = jax.jit(TOKENIZER.forward)(state.params, IMAGES, KEY).quantized
    share = jnp.where(jnp.arange(16) < 3, 0.0, 1.0)
    book, after = QUANTIZER.restart(state.params["codebook"], share, q, 0.1, KEY)
    moved = np.any(book["table"] != state.params["codebook"]["table"], axis=1)
    assert moved.sum() >= 1 and not moved[3:].any()
    np.testing.assert_allclose(np.asarray(book["count"])[moved], q.ids.size / 16)
    assert after.shape == share.shape


@pytest.mark.slow
def test_over_devices_a_step_is_the_same(state, updated):
    expected, metrics = updated
    config = MeshConfig(data=4, model=2, rules="in_layer")
    with use(make_layout(config, make_mesh(config))):
        found, of_devices = jax.jit(OBJECTIVE.update)(state, {"image": IMAGES}, KEY)
    np.testing.assert_allclose(of_devices["loss"], metrics["loss"], rtol=1e-5)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5),
        found.params["codebook"],
        expected.params["codebook"],
    )


# ------------------------------------------------------------------ mistakes


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"levels": ()}, r"tokenizer.levels is \(\); the first of them is that of training"),
        ({"levels": ((2, 3),)}, r"tokenizer.levels is \(\(2, 3\),\); the first of them"),
        ({"levels": ((8, 1),)}, "has one of 8 pixels to a code; tokenizer.decoders has 2, 4"),
        ({"levels": ((2, 1), (2, 0))}, "has pictures 0 times as large; at least 1"),
        ({"image_size": (8, 6)}, r"image_size is \(8, 6\), which 4 pixels to a code do not divide"),
        ({"decoders": ((1, 2),)}, r"are for codes of \(2,\) pixels; ascending ones are needed"),
        ({"decoders": ((1, 1, 2), (1, 2))}, r"are for codes of \(4, 2\) pixels; ascending"),
        (
            {"quantizer": RunningMeanConfig(16, 4)},
            "quantizer.code_dim is 4 and tokenizer.network.latent_channels 3; they are the same",
        ),
        ({"network": dataclasses.replace(NETWORK, adaptive=True)}, "network.adaptive is True"),
        (
            {"network": dataclasses.replace(NETWORK, patch_size=2)},
            "network.patch_size is 2; a hierarchy has a level for each stride",
        ),
        ({"coarser": "no"}, "tokenizer.coarser is 'no'; the choices are levels, halved"),
        (
            {"coarser": "halved"},
            r"pixels; ascending ones are needed, the first of them 4, by the 3",
        ),
        (
            {"coarser": "halved", "decoders": ((1, 1, 2), (1, 1, 1, 1, 2)), "levels": ((4, 1),)},
            r"is 'halved' and tokenizer.decoders are for codes of \(4, 16\) pixels; each must be",
        ),
        (
            {"attends": (8,)},
            "tokenizer.attends has 8 pixels to a code; tokenizer.decoders has 2, 4",
        ),
        ({"mean": (0.5,)}, r"tokenizer.mean is \(0.5,\) and tokenizer.deviation .*; each is of 3"),
        ({"deviation": (1.0, 0.0, 1.0)}, "and deviations are more than 0"),
    ],
)
def test_a_wrong_field_is_named(changes, message):
    with pytest.raises(UserError, match=message):
        dataclasses.replace(CONFIG, **changes)


def test_a_level_that_is_not_there_is_told():
    with pytest.raises(UserError, match="level is '8'; tokenizer.kind=hierarchy has 2, 4, 2x3"):
        TOKENIZER.at("8")


def test_a_tokenizer_that_is_older_than_its_fields_keeps_the_identity_of_its_codes():
    """What the network reads and how coarser rates are made is said only where it is not ours."""
    assert not {"coarser", "mean", "deviation"} & set(TOKENIZER.code_fields)
    other = make_tokenizer(dataclasses.replace(CONFIG, mean=(0.5, 0.5, 0.4)))
    assert other.code_fields["mean"] == [0.5, 0.5, 0.4]


def test_a_share_out_of_range_is_told():
    with pytest.raises(UserError, match="tokenizer.quantizer.decay is 1.0; a share"):
        RunningMeanConfig(decay=1.0)


def test_the_published_network_has_its_codes():
    """icetk: 20,000 x 256 codes for all rates; 160 and 480 px are 400 and 3,600 of them."""
    config = load_config("configs/cogview2/tokenizer.py", "pyproject.toml")
    tokenizer = make_tokenizer(parse(config).tokenizer)
    assert [tokenizer.at(level).codes.length for level in tokenizer.levels] == [400, 3600]
    shapes = jax.eval_shape(lambda key: nn.unbox(tokenizer.init(key)), KEY)
    assert shapes["codebook"]["table"].shape == (20000, 256)
    assert {name for name in shapes if name.startswith("decoders")} == {
        "decoders_4",
        "decoders_8",
        "decoders_16",
    }
