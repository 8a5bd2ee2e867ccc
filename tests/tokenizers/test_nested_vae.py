"""A nested VAE: its skips by an independent statement, levels that stand alone, routes, mistakes.

The statement is NumPy's: a level is an encoder cut off at its stride, whose output goes through a
1 x 1 convolution to the blocks next to the latents, and back into the decoder at the same place.
"""

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
from babeldraw.tokenizers.base import identity
from babeldraw.tokenizers.convolutional import ConvolutionalConfig
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.nested_vae import NestedVAEConfig
from tests.tokenizers import convolutions as numpy_layers

GROUPS = 2
NETWORK = ConvolutionalConfig(
    channels=4,
    multipliers=(1, 1, 2, 3),
    encoder_blocks=1,
    decoder_blocks=1,
    middle_blocks=1,
    latent_channels=3,
    shortcut="input",
    bias=True,
    groups=GROUPS,
)
# A picture wider than high: 4 x 8, 2 x 4 and 1 x 2 codes, at 4, 8 and 12 channels.
CONFIG = NestedVAEConfig(NETWORK, (2, 4, 8), (8, 16))
TOKENIZER = make_tokenizer(CONFIG)
IMAGES = np.random.default_rng(0).random((3, 8, 16, 3), np.float32)
KEY = jax.random.key(1)
LEVELS = {level: TOKENIZER.at(level) for level in TOKENIZER.levels}
encode = {level: jax.jit(it.encode) for level, it in LEVELS.items()}
decode = {level: jax.jit(it.decode) for level, it in LEVELS.items()}
# Without a key each level by itself; with one, the first trains all of them.
forward = {level: jax.jit(it.forward) for level, it in LEVELS.items()}


@pytest.fixture(scope="module")
def params():
    return random_params(TOKENIZER)


def random_params(tokenizer):
    """Random everywhere, of a size that keeps values."""
    abstract = jax.eval_shape(lambda key: nn.unbox(tokenizer.init(key)), KEY)
    rng = np.random.default_rng(3)

    def drawn(path, leaf):
        scale = 0.3 if len(leaf.shape) == 1 else np.prod(leaf.shape[:-1]) ** -0.5
        offset = 1.0 if path[-1].key == "scale" else 0.0
        return jnp.asarray(rng.normal(offset, scale, leaf.shape), leaf.dtype)

    return jax.tree_util.tree_map_with_path(drawn, abstract)


# ------------------------------------------------------------------ the same in NumPy


def stated(params):
    """Our parameters by the statement's names: kernels [out, in, h, w], norms weight and bias."""
    state = {}
    for name, leaf in flatten(params).items():
        array, name = np.asarray(leaf), name.replace("/", ".")
        name = (
            name.replace("norm_1", "norm1").replace("norm_2", "norm2").replace(".scale", ".weight")
        )
        name = name.replace("conv_1", "conv1").replace("conv_2", "conv2")
        state[name] = array.transpose(3, 2, 0, 1) if array.ndim == 4 else array
    return state


def block(x, state, name):
    y = numpy_layers.branch(x, state, name, GROUPS)
    shortcut = f"{name}.shortcut"
    wide = f"{shortcut}.weight" in state
    return y + (numpy_layers.conv(x, state, shortcut) if wide else x)


def to_latents(images, stride, state):
    """Means and log-variances of a level."""
    x = numpy_layers.conv(2.0 * images - 1, state, "encoder.first")
    for level in range(stride.bit_length()):
        x = numpy_layers.mean_pool(x) if level else x
        x = block(x, state, f"encoder.level_{level}.block_0")
    if stride < 8:
        x = numpy_layers.conv(x, state, f"encoder.match_{stride}")
    x = block(x, state, "encoder.to_latents.middle.block_0")
    x = numpy_layers.silu(numpy_layers.norm(x, state, "encoder.to_latents.norm", GROUPS))
    return np.split(numpy_layers.conv(x, state, "encoder.to_latents.last"), 2, axis=-1)


def to_pictures(codes, stride, state):
    x = numpy_layers.conv(codes, state, "decoder.from_latents.first")
    x = block(x, state, "decoder.from_latents.middle.block_0")
    if stride == 2:
        x = numpy_layers.conv(x, state, "decoder.match_2")
    for level in reversed(range(stride.bit_length())):
        x = block(x, state, f"decoder.level_{level}.block_0")
        if level:
            x = numpy_layers.conv(numpy_layers.twice(x), state, f"decoder.up_{level}")
    x = numpy_layers.silu(numpy_layers.norm(x, state, "decoder.norm", GROUPS))
    return (numpy_layers.conv(x, state, "decoder.last") + 1) / 2


@pytest.mark.parametrize("level", LEVELS)
def test_a_level_is_the_network_with_its_skips(params, level):
    state, stride = stated(params), int(level)
    means, log_variance = to_latents(IMAGES.astype(np.float64), stride, state)
    assert means.shape == (3, 8 // stride, 16 // stride, 3)
    np.testing.assert_allclose(encode[level](params, IMAGES), means, atol=1e-4)
    out = forward[level](params, IMAGES)
    np.testing.assert_allclose(out.codes, means, atol=1e-4)
    np.testing.assert_allclose(out.images, to_pictures(means, stride, state), atol=1e-4)
    divergence = 0.5 * (means**2 + np.exp(log_variance) - 1 - log_variance)
    np.testing.assert_allclose(out.terms["kl"], divergence.sum() / 3, rtol=1e-4)


def squares(images, side):
    """Each square of pixels as one place: its channels are of (row, column, colour)."""
    corners = [(row, column) for row in range(side) for column in range(side)]
    return np.concatenate([images[:, row::side, column::side] for row, column in corners], -1)


def test_with_squares_of_pixels_it_is_the_network_of_their_places():
    """Twice the size: 2 x 2 pixels to a place of the first level."""
    network = dataclasses.replace(NETWORK, patch_size=2)
    config = NestedVAEConfig(network, (4, 8, 16), (16, 32))
    tokenizer = make_tokenizer(config).at("16")
    images = np.random.default_rng(4).random((2, 16, 32, 3), np.float32)
    params = random_params(tokenizer)
    state = stated(params)
    means, _ = to_latents(squares(images.astype(np.float64), 2), 8, state)
    np.testing.assert_allclose(jax.jit(tokenizer.encode)(params, images), means, atol=1e-4)
    drawn = jax.jit(tokenizer.forward)(params, images).images
    np.testing.assert_allclose(squares(drawn, 2), to_pictures(means, 8, state), atol=1e-4)
    assert tokenizer.codes.shape == (1, 2)


@pytest.mark.parametrize("level", LEVELS)
def test_the_linear_shortcut_stands_beside_the_network(params, level):
    """Its product of a code's pixels is in the means, and one of the codes in the picture."""
    tokenizer = make_tokenizer(dataclasses.replace(CONFIG, linear_shortcut=True)).at(level)
    state, stride, own = stated(params), int(level), random_params(tokenizer)
    ways = {
        side: {name: own[side][name] for name in own[side] if name.startswith("linear_")}
        for side in own
    }
    assert [sorted(ways[side]) for side in ways] == [[f"linear_{s}" for s in (2, 4, 8)]] * 2
    whole = {side: {**params[side], **ways[side]} for side in params}
    there = np.asarray(ways["encoder"][f"linear_{level}"]["weight"])[0, 0]
    back = {name: np.asarray(a) for name, a in ways["decoder"][f"linear_{level}"].items()}
    means, _ = to_latents(IMAGES.astype(np.float64), stride, state)
    means = means + squares(2.0 * IMAGES - 1, stride) @ there
    np.testing.assert_allclose(jax.jit(tokenizer.encode)(whole, IMAGES), means, atol=1e-4)
    drawn = squares(to_pictures(means, stride, state), stride)
    drawn = drawn + 0.5 * (means @ back["weight"][0, 0] + back["bias"])
    out = jax.jit(tokenizer.forward)(whole, IMAGES)
    np.testing.assert_allclose(squares(out.images, stride), drawn, atol=1e-4)
    # Trained, each picture has that of its own level alone.
    alone = {
        name: np.asarray(jax.jit(tokenizer.at(name).forward)(certain(whole), IMAGES).raw)
        for name in LEVELS
    }
    routed = jax.jit(tokenizer.at("2").forward)(certain(whole), IMAGES, KEY)
    for index, picture in enumerate(np.asarray(routed.raw)):
        away = sorted(np.abs(raw[index] - picture).max() for raw in alone.values())
        assert away[0] < 1e-4 < away[1]
    assert identity(tokenizer, whole) != identity(LEVELS[level], params)


def test_every_parameter_is_of_a_part_and_skips_match_where_widths_differ(params):
    assert sorted(params) == ["decoder", "encoder"]
    found = {name.rsplit("/", 1)[0] for name in flatten(params) if "/match_" in name}
    # The other skips are as wide as what they lead to.
    assert found == {"encoder/match_2", "encoder/match_4", "decoder/match_2"}


# ------------------------------------------------------------------ levels


def test_levels_have_their_shapes_and_one_set_of_weights(params):
    assert TOKENIZER.levels == ("2", "4", "8") and TOKENIZER.level == "2"
    for level, it in LEVELS.items():
        shape = (8 // int(level), 16 // int(level))
        assert (it.codes.shape, it.codes.channels, it.codes.vocab) == (shape, 3, ())
        codes = encode[level](params, IMAGES)
        assert codes.shape == (3, *it.codes.each) and codes.dtype == it.codes.dtype
        images = decode[level](params, codes)
        assert images.shape == IMAGES.shape
        same = jnp.clip(forward[level](params, IMAGES).images, 0, 1)
        np.testing.assert_allclose(images, same, atol=1e-5)
    assert len({identity(it, params) for it in LEVELS.values()}) == 3


def test_a_level_hangs_on_nothing_that_lies_deeper(params):
    other = {side: dict(params[side]) for side in params}
    for side, name in [("encoder", "level_3"), ("decoder", "level_3"), ("decoder", "up_3")]:
        other[side][name] = jax.tree.map(lambda leaf: leaf + 1, other[side][name])
    for level, hangs in {"2": False, "4": False, "8": True}.items():
        one, two = (forward[level](tree, IMAGES).raw for tree in (params, other))
        assert bool(np.any(one != two)) == hangs


def test_codes_are_drawn_around_their_means(params):
    sampled = jax.jit(LEVELS["4"].sampled)
    draws = np.stack([sampled(params, IMAGES, jax.random.key(seed)) for seed in range(100)])
    means, log_variance = to_latents(IMAGES.astype(np.float64), 4, stated(params))
    away = (draws - means) / np.exp(0.5 * log_variance)
    # 7,200 draws of a standard normal.
    np.testing.assert_allclose((away.mean(), away.std()), (0, 1), atol=0.06)


# ------------------------------------------------------------------ training


@pytest.fixture(scope="module")
def sure(params):
    return certain(params)


def certain(params):
    """The same parameters with log-variances of which a draw is its mean."""
    last = params["encoder"]["to_latents"]["last"]
    still = {
        "weight": last["weight"].at[..., 3:].set(0.0),
        "bias": last["bias"].at[3:].set(-30.0),
    }
    return {
        **params,
        "encoder": {
            **params["encoder"],
            "to_latents": {**params["encoder"]["to_latents"], "last": still},
        },
    }


def divergence_of(level, params):
    """Of each picture."""
    means, log_variance = to_latents(IMAGES.astype(np.float64), int(level), stated(params))
    return (0.5 * (means**2 + np.exp(log_variance) - 1 - log_variance)).sum((1, 2, 3))


def test_training_draws_each_picture_through_one_level_alone(sure):
    """Pictures and divergence are those of the level that was drawn, the others are not seen."""
    alone = {level: np.asarray(forward[level](sure, IMAGES).raw) for level in LEVELS}
    divergence, found = {level: divergence_of(level, sure) for level in LEVELS}, set()
    for seed in range(5):
        out, route = forward["2"](sure, IMAGES, jax.random.key(seed)), []
        for index, picture in enumerate(np.asarray(out.raw)):
            away = {level: np.abs(alone[level][index] - picture).max() for level in LEVELS}
            route.append(min(away, key=away.get))
            assert away[route[-1]] < 1e-4 < max(away.values())
        expected = np.mean([divergence[level][index] for index, level in enumerate(route)])
        np.testing.assert_allclose(out.terms["kl"], expected, rtol=1e-4)
        np.testing.assert_allclose(out.codes, encode["2"](sure, IMAGES), atol=1e-5)
        found |= {*route}
    assert found == {*LEVELS}


def test_training_takes_each_picture_through_the_level_that_the_data_name(sure):
    """One without a level has it drawn, as all have where nobody reads the data's."""
    tokenizer = make_tokenizer(dataclasses.replace(CONFIG, routing="data"))
    assert tokenizer.reads_levels and not TOKENIZER.reads_levels
    assert identity(tokenizer, sure) == identity(TOKENIZER, sure)
    alone = {level: np.asarray(forward[level](sure, IMAGES).raw) for level in LEVELS}
    told, drawn = jax.jit(tokenizer.forward), set()
    for seed in range(6):
        key = jax.random.key(seed)
        out = told(sure, IMAGES, key, levels=jnp.int32([4, -1, 8]))
        for index, level in (0, "4"), (2, "8"):
            np.testing.assert_allclose(out.raw[index], alone[level][index], atol=1e-4)
        as_drawn = forward["2"](sure, IMAGES, key)
        np.testing.assert_allclose(out.raw[1], as_drawn.raw[1], atol=1e-4)
        away = {level: np.abs(alone[level][1] - out.raw[1]).max() for level in LEVELS}
        drawn.add(min(away, key=away.get))
    assert len(drawn) > 1


def test_the_objective_hands_the_data_s_levels_on(params):
    """A step's loss is that of the levels in the batch."""
    objective = ImageTokenizerObjective(
        tokenizer=dataclasses.replace(CONFIG, routing="data"),
        optimizer=OptimizerConfig(ScheduleConfig(1e-3, 0, 0, 1, kind="constant"), "adamw"),
        loss=TokenizerLossConfig(),
        batch_size=len(IMAGES),
    )
    assert objective.batch_spec()["level"].shape == (len(IMAGES),)
    state = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(objective.init, KEY)
    ).replace(params=certain(params))
    loss = jax.jit(objective.forward)
    for level in LEVELS:
        batch = {"image": IMAGES, "level": jnp.full(len(IMAGES), int(level))}
        error = np.square(forward[level](certain(params), IMAGES).images - IMAGES).mean()
        np.testing.assert_allclose(loss(state, batch, KEY)["l2"], error, rtol=1e-3)


def test_another_level_trains_itself_alone(sure):
    out = forward["4"](sure, IMAGES, KEY)
    np.testing.assert_allclose(out.raw, forward["4"](sure, IMAGES).raw, atol=1e-4)


@pytest.mark.slow
@pytest.mark.budget(15)
def test_a_few_steps_lower_the_loss_at_every_level(params):
    objective = ImageTokenizerObjective(
        tokenizer=CONFIG,
        optimizer=OptimizerConfig(ScheduleConfig(3e-3, 0, 0, 1, kind="constant"), "adamw"),
        loss=TokenizerLossConfig(kl=1e-6),
        batch_size=len(IMAGES),
    )
    # An optimizer that has seen nothing holds zeros.
    state = jax.tree.map(
        lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), jax.eval_shape(objective.init, KEY)
    ).replace(params=params)
    update, metrics, error = jax.jit(objective.update), {}, {}
    for moment in ("before", "after"):
        error[moment] = {
            level: float(jnp.mean(jnp.square(forward[level](state.params, IMAGES).images - IMAGES)))
            for level in LEVELS
        }
        for step in range(40):
            state, metrics = update(state, {"image": IMAGES}, jax.random.key(step))
    assert {"l2", "kl", "psnr_db"} <= {*metrics}
    for level in LEVELS:
        assert error["after"][level] < 0.5 * error["before"][level]


# ------------------------------------------------------------------ mistakes


def test_a_level_that_is_not_there_is_told():
    with pytest.raises(UserError, match="level is '16'; tokenizer.kind=nested_vae has 2, 4, 8"):
        TOKENIZER.at("16")


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"image_size": (8, 12)}, r"image_size is \(8, 12\), which the last of strides, 8, does"),
        ({"strides": (2,)}, r"strides is \(2,\); ascending ones of \[1, 2, 4, 8\] are needed, the"),
        ({"strides": (4, 2, 8)}, r"strides is \(4, 2, 8\); ascending ones of \[1, 2, 4, 8\]"),
        (
            {"network": dataclasses.replace(NETWORK, patch_size=4)},
            r"strides is \(2, 4, 8\); ascending ones of \[4, 8, 16, 32\] are needed, the last of "
            "them 32, by the 4 levels of tokenizer.network.multipliers and its patch_size of 4",
        ),
        ({"strides": (3, 8)}, r"strides is \(3, 8\); ascending ones of \[1, 2, 4, 8\]"),
        ({"strides": ()}, r"strides is \(\); ascending ones"),
        (
            {"network": dataclasses.replace(NETWORK, multipliers=(1, 1, 3, 2))},
            r"is \(1, 1, 3, 2\): \[4, 12, 8\] channels at strides \(2, 4, 8\) do not nest; choose",
        ),
        ({"routing": "caption"}, "routing is 'caption'; choose one of drawn, data"),
        ({"network": dataclasses.replace(NETWORK, adaptive=True)}, "network.adaptive is True, no"),
    ],
)
def test_a_mistake_is_one_line(fields, line):
    with pytest.raises(UserError, match=line):
        dataclasses.replace(CONFIG, **fields)
