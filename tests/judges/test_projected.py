"""Projected GAN's heads: logits, mixing by weights that never learn, the spectral norm."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from babeldraw.errors import UserError
from babeldraw.judges.discriminators import ProjectedConfig
from babeldraw.judges.projected import MIXINGS, ProjectedHeads, SpectralConv, largest_singular

WIDTHS = (2, 3, 4, 5, 6)


def maps(side, seed=0, height=None):
    """As VGG16 makes them of pictures of that side."""
    rng = np.random.default_rng(seed)
    sizes = [((height or side) >> i, side >> i) for i in range(5)]
    return [rng.random((2, *size, w), np.float32) for size, w in zip(sizes, WIDTHS, strict=True)]


@functools.cache
def made(mixing="ccm_csm", stages=(2, 3, 4, 5), side=48):
    network = ProjectedHeads(4, 8, stages, mixing)
    variables = nn.unbox(jax.jit(network.init)(jax.random.key(0), maps(side)))
    return network, variables, jax.jit(network.apply)


@pytest.mark.parametrize(
    ("side", "stages", "places"),
    [(48, (2, 3, 4, 5), 3 * 3), (64, (3, 5), 4 * 4), (128, (2, 3, 4), 4 * 4), (256, (5,), 4 * 4)],
)
def test_each_head_has_as_many_logits(side, stages, places):
    network = ProjectedHeads(4, 8, stages)
    given = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in maps(side)]
    logits, _ = jax.eval_shape(network.init_with_output, jax.random.key(0), given)
    assert logits.shape == (2, len(stages) * places)


@pytest.mark.slow
def test_pictures_are_judged_one_by_one():
    _, variables, apply = made()
    given, other = maps(48), maps(48, seed=1)
    mixed = [np.stack([x[0], y[1]]) for x, y in zip(given, other, strict=True)]
    whole, part = apply(variables, given), apply(variables, mixed)
    np.testing.assert_allclose(part[0], whole[0], atol=1e-5)
    assert np.abs(part[1] - whole[1]).max() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("mixing", MIXINGS)
def test_what_a_head_sees(mixing):
    _, variables, apply = made(mixing)
    given = maps(48)

    def heads(given):
        return jnp.abs(apply(variables, given)[0].reshape(4, 9)).sum(1)

    slopes = jax.jacrev(heads)(given)
    # By head of stages 2 to 5 and by map 1 to 5.
    felt = np.array([np.abs(np.asarray(slope)).max((1, 2, 3, 4)) > 1e-7 for slope in slopes]).T
    own = np.eye(5, dtype=bool)[1:]
    across = np.triu(np.ones((5, 5), bool))[1:]
    np.testing.assert_array_equal(felt, across if mixing == "ccm_csm" else own)
    fixed = [] if mixing == "none" else [f"ccm_{stage}" for stage in (2, 3, 4, 5)]
    fixed += [f"csm_{stage}" for stage in (2, 3, 4)] if mixing == "ccm_csm" else []
    assert sorted(variables.get("fixed", {})) == fixed


def test_a_brighter_map_says_no_more_than_a_dim_one():
    _, variables, apply = made()
    found = [apply(variables, [scale * x for x in maps(48)]) for scale in (1.0, 100.0)]
    np.testing.assert_allclose(*found, atol=1e-4)


def test_the_largest_singular_value_and_its_gradient():
    rng = np.random.default_rng(0)
    u, _, v = np.linalg.svd(rng.normal(size=(12, 7)), full_matrices=False)
    matrix = ((u * np.array([3, 1, 0.5, 0.2, 0.1, 0, 0])) @ v).astype(np.float32)
    value, gradient = jax.value_and_grad(largest_singular)(matrix)
    assert value == pytest.approx(3, rel=1e-5)
    np.testing.assert_allclose(gradient, np.outer(u[:, 0], v[0]), atol=1e-4)
    # Never above it, and near it where the next ones are near too.
    plain = rng.normal(size=(300, 64)).astype(np.float32)
    true = np.linalg.norm(plain, ord=2)
    assert 0.93 * true < float(largest_singular(plain)) <= true * (1 + 1e-6)


def test_a_convolution_s_size_does_not_hang_on_its_weights():
    conv, x = SpectralConv(4, 3), maps(48)[1]
    variables = nn.unbox(conv.init(jax.random.key(0), x))
    double = jax.tree.map(lambda leaf: 2 * leaf, variables)
    np.testing.assert_allclose(conv.apply(variables, x), conv.apply(double, x), atol=1e-5)


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"mixing": "all"}, "discriminator.mixing is 'all'; the choices are none, ccm, ccm_csm"),
        ({"stages": (3, 2)}, r"discriminator.stages is \(3, 2\); some of 1 to 5, in order and on"),
        ({"stages": ()}, r"discriminator.stages is \(\); some of 1 to 5"),
        ({"channels": 0}, "discriminator.channels is 0; at least 1 is needed"),
    ],
)
def test_a_bad_section_is_named(fields, line):
    with pytest.raises(UserError, match=f"^config.{line}"):
        ProjectedConfig(**fields)
