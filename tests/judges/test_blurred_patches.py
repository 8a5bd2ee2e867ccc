"""TiTok's discriminator against a NumPy statement of its layer order."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.convert.table import Ignored, Row, left_out, read, shapes
from babeldraw.errors import UserError
from babeldraw.judges.blurred_patches import BlurredPatches, adaptive_max
from babeldraw.judges.discriminators import BlurredPatchesConfig
from tests.tokenizers.convolutions import conv, norm

RNG = np.random.default_rng(0)
TAPS = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64


def table(stages):
    """Of the names in 1d-tokenizer's module."""
    pairs = {"first": "block_in.0", "last": "to_logits.0", "logit": "to_logits.2"}
    pairs |= {f"conv_{i}": f"blocks.{i}.0" for i in range(stages)}
    rows = []
    for ours, theirs in pairs.items():
        rows.append(Row(f"{ours}/weight", f"{theirs}.weight", "o i h w -> h w i o"))
        rows.append(Row(f"{ours}/bias", f"{theirs}.bias"))
    for i in range(stages):
        rows.append(Row(f"norm_{i}/scale", f"blocks.{i}.2.weight"))
        rows.append(Row(f"norm_{i}/bias", f"blocks.{i}.2.bias"))
    return (*rows, Ignored(r"blocks\.\d\.1\.kernel", "the blur's taps"))


def abstract(network, side):
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    return nn.unbox(jax.eval_shape(network.init, jax.random.key(0), images))["params"]


def blurred(x):
    """Half the size, rounded up; zeros as "SAME" has them."""
    behind = [1 + side % 2 for side in x.shape[1:3]]
    x = np.pad(x, ((0, 0), (1, behind[0]), (1, behind[1]), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(x, (4, 4), (1, 2))[:, ::2, ::2]
    return np.einsum("bhwcyx,yx->bhwc", windows, TAPS)


def leaky(x):
    return np.where(x > 0, x, 0.1 * x)


def pooled(x, places):
    """Each part from the floor of its beginning to the ceiling of its end (torch's)."""
    b, h, w, c = x.shape
    found = np.empty((b, places, places, c))
    for i, j in np.ndindex(places, places):
        rows = slice(i * h // places, -(-(i + 1) * h // places))
        columns = slice(j * w // places, -(-(j + 1) * w // places))
        found[:, i, j] = x[:, rows, columns].max((1, 2))
    return found


def logits(images, state, places, groups):
    """`groups` of each stage's norm; 32 in the published one."""
    x = leaky(conv(images.astype(np.float64), state, "block_in.0"))
    for i, count in enumerate(groups):
        x = blurred(conv(x, state, f"blocks.{i}.0"))
        x = leaky(norm(x, state, f"blocks.{i}.2", count, epsilon=1e-5))
    x = leaky(conv(pooled(x, places), state, "to_logits.0"))
    return conv(x, state, "to_logits.2")[..., 0]


@pytest.mark.parametrize("size", [(16, 16), (13, 18)])
def test_logits_are_those_of_the_published_layer_order(size):
    network, rows = BlurredPatches(channels=4, stages=2, places=3), table(2)
    params = abstract(network, 16)
    state = {
        name: RNG.normal(0, 0.5 if len(s) == 1 else np.prod(s[1:]) ** -0.5, s).astype(np.float32)
        for name, s in shapes(rows, params).items()
    }
    images = RNG.random((2, *size, 3), np.float32)
    found = jax.jit(network.apply)({"params": read(rows, state, params)}, images)
    assert found.shape == (2, 3, 3)
    # With fewer than 32 channels each is a group of its own.
    np.testing.assert_allclose(found, logits(images, state, 3, (4, 8)), atol=1e-4)


def test_the_published_one_has_its_tensors_and_1_9_million_parameters():
    params = abstract(BlurredPatchesConfig().make(), 256)
    found = shapes(table(3), params)
    assert sum(map(np.prod, found.values())) == 1_909_889 and len(found) == 18
    assert found["blocks.2.0.weight"] == (512, 256, 3, 3)
    assert found["to_logits.2.weight"] == (1, 512, 5, 5)
    kernels = {f"blocks.{i}.1.kernel": 0 for i in range(3)}
    assert left_out(table(3), found | kernels, params) == {"the blur's taps": [*kernels]}


@pytest.mark.parametrize(("size", "places"), [(32, 16), (7, 3), (3, 5)])
def test_the_largest_of_each_part(size, places):
    x = RNG.random((2, size, size, 3), np.float32)
    found = adaptive_max(adaptive_max(jnp.asarray(x), 1, places), 2, places)
    np.testing.assert_array_equal(found, pooled(x, places).astype(np.float32))


@pytest.mark.parametrize(
    ("act", "told"),
    [
        (lambda: BlurredPatchesConfig(stages=0), "stages is 0; at least 1"),
        (lambda: BlurredPatchesConfig().check((6, 8)), "kind is 'titok', whose 3 stages need"),
    ],
)
def test_a_wrong_field_is_named(act, told):
    with pytest.raises(UserError, match=f"^config.discriminator.{told}"):
        act()
