"""Discriminators: shapes, sizes, order of the batch, equalized weights, the minibatch deviation."""

import functools

import flax.linen as nn
import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from babeldraw.errors import UserError
from babeldraw.judges.discriminators import (
    PatchGAN,
    StyleGANDiscriminator,
    leaky_relu,
    minibatch_deviation,
)
from babeldraw.layers.norms import BatchNorm

IMAGES = np.random.default_rng(0).random((8, 32, 24, 3), np.float32)
STYLEGAN = StyleGANDiscriminator(4, 8)
PATCHGAN = PatchGAN(4, 8)


@functools.cache
def compiled(network):
    params = nn.unbox(jax.jit(network.init)(jax.random.key(0), IMAGES))
    return functools.partial(jax.jit(network.apply), params), params


def logits(network, images):
    return np.asarray(compiled(network)[0](images))


@pytest.mark.slow
def test_a_logit_per_picture_and_a_logit_per_patch():
    assert logits(STYLEGAN, IMAGES).shape == (8,)
    assert logits(PATCHGAN, IMAGES).shape == (8, 2, 1)
    assert logits(STYLEGAN, IMAGES).dtype == np.float32


def test_a_patch_sees_seventy_pixels():
    network = PatchGAN(2, 4)
    image = np.random.default_rng(1).random((1, 160, 160, 3), np.float32)
    params = jax.jit(network.init)(jax.random.key(0), image)

    def one(image):
        # Without the norms, which look at the whole picture.
        x = (2 * image - 1) * 100
        return network.apply(params, x / 200 + 0.5)[0, 9, 9]

    def without_norms(image):
        with nn.intercept_methods(
            lambda call, args, kwargs, context: (
                args[0] if type(context.module).__name__ == "GroupNorm" else call(*args, **kwargs)
            )
        ):
            return one(image)

    seen = np.abs(np.asarray(jax.grad(without_norms)(image))).sum((0, 3)) > 0
    rows, columns = np.flatnonzero(seen.any(1)), np.flatnonzero(seen.any(0))
    assert rows[-1] - rows[0] + 1 == 70 and columns[-1] - columns[0] + 1 == 70


@pytest.mark.parametrize("group", [1, 4])
def test_the_order_of_the_batch_does_not_matter_but_for_groups(group):
    network = StyleGANDiscriminator(4, 8, group)
    rng = np.random.default_rng(2)
    # Pictures within their groups of four, and the groups.
    order = np.concatenate([4 * g + rng.permutation(4) for g in rng.permutation(2)])
    if group == 1:
        order = rng.permutation(8)
    expected = logits(network, IMAGES)[order]
    np.testing.assert_allclose(logits(network, IMAGES[order]), expected, atol=1e-5)
    assert np.ptp(expected) > 1e-3


def test_pictures_of_a_group_are_judged_together_and_groups_apart():
    changed = IMAGES.copy()
    changed[1] = 0
    moved = np.abs(logits(STYLEGAN, changed) - logits(STYLEGAN, IMAGES))
    assert moved[[0, 2, 3]].min() > 1e-6
    np.testing.assert_allclose(moved[4:], 0, atol=1e-6)


def test_patches_are_judged_picture_by_picture():
    order = np.random.default_rng(3).permutation(8)
    expected = logits(PATCHGAN, IMAGES)[order]
    np.testing.assert_allclose(logits(PATCHGAN, IMAGES[order]), expected, atol=1e-5)
    for i in range(2):
        np.testing.assert_allclose(
            logits(PATCHGAN, IMAGES[i : i + 1]), logits(PATCHGAN, IMAGES)[i : i + 1], atol=1e-5
        )


@pytest.mark.parametrize(("batch", "group", "size"), [(8, 4, 4), (6, 4, 2), (3, 4, 1), (4, 2, 2)])
def test_the_minibatch_deviation_is_that_of_each_group(batch, group, size):
    x = np.random.default_rng(4).normal(size=(batch, 3, 2, 5)).astype(np.float32)
    found = np.asarray(minibatch_deviation(x, group))
    np.testing.assert_array_equal(found[..., :5], x)
    for start in range(0, batch, size):
        part = x[start : start + size].astype(np.float64)
        expected = np.sqrt(part.var(axis=0) + 1e-8).mean()
        np.testing.assert_allclose(found[start : start + size, ..., 5], expected, atol=1e-5)


def test_a_batch_is_normalised_as_a_whole_however_it_is_split():
    x = np.random.default_rng(6).normal(3, 2, size=(8, 3, 2, 5)).astype(np.float32)
    norm = BatchNorm()
    params = norm.init(jax.random.key(0), x)
    found = np.asarray(norm.apply(params, x))
    np.testing.assert_allclose(found.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(found.var((0, 1, 2)), 1, atol=1e-4)
    mesh = jax.make_mesh((8,), ("data",), axis_types=(jax.sharding.AxisType.Auto,))
    split = jax.device_put(x, NamedSharding(mesh, PartitionSpec("data")))
    np.testing.assert_allclose(jax.jit(norm.apply)(params, split), found, atol=1e-5)
    # Not each device by its own.
    assert np.abs(np.asarray(norm.apply(params, x[:1])) - found[:1]).max() > 0.1


@pytest.mark.parametrize("norm", ["group", "batch", "none"])
def test_patches_by_depth_and_norm(norm):
    network = PatchGAN(4, 8, layers=2, norm=norm)
    assert logits(network, IMAGES).shape == (8, 6, 4)
    names = {path[-2].key for path, _ in jax.tree_util.tree_leaves_with_path(compiled(network)[1])}
    assert ("norm_2" in names) == (norm != "none")
    alone = np.asarray(network.apply(compiled(network)[1], IMAGES[:1]))
    together = np.abs(alone - logits(network, IMAGES)[:1]).max()
    assert (together > 1e-3) == (norm == "batch")


def test_weights_are_drawn_alike_and_the_signal_keeps_its_size():
    params = compiled(StyleGANDiscriminator(16, 32))[1]
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        if path[-1].key == "weight" and leaf.size > 1000:
            assert np.std(leaf) == pytest.approx(1, abs=0.1), path
    assert 0.05 < np.std(logits(StyleGANDiscriminator(16, 32), IMAGES)) < 5


def test_leaky_relu_keeps_the_second_moment():
    x = np.random.default_rng(5).normal(size=100_000).astype(np.float32)
    # (1 + 0.2^2) / 2 of it, times 2.
    assert np.mean(leaky_relu(x) ** 2) == pytest.approx(1.04, abs=0.02)


@pytest.mark.parametrize(
    ("size", "count"),
    [((256, 256), 6), ((32, 24), 2), ((64, 96), 4), ((72, 72), 3), ((8, 8), 1), ((4, 16), 0)],
)
def test_pictures_are_halved_to_four_or_a_little_more(size, count):
    assert StyleGANDiscriminator.halvings(size) == count


@pytest.mark.parametrize("size", [(200, 200), (34, 34), (2, 2), (8, 256)])
def test_a_size_that_cannot_be_halved_is_named(size):
    with pytest.raises(UserError, match="kind is 'stylegan', which halves pictures of .* 4 to 16"):
        StyleGANDiscriminator.halvings(size)


def test_a_picture_too_small_for_patches_is_named():
    with pytest.raises(UserError, match="3 strides need pictures of at least 24 px"):
        jax.eval_shape(PATCHGAN.init, jax.random.key(0), np.zeros((1, 16, 32, 3), np.float32))


def test_the_published_size():
    network = StyleGANDiscriminator()
    images = jax.ShapeDtypeStruct((4, 256, 256, 3), np.float32)
    params = jax.eval_shape(network.init, jax.random.key(0), images)
    total = sum(leaf.size for leaf in jax.tree.leaves(nn.unbox(params)))
    # StyleGAN2's, by hand: from RGB; per block 9 c^2 + c, 9 c f + f and c f; the last three.
    widths = [128, 256, 512, 512, 512, 512, 512]
    expected = 4 * 128
    for c, f in zip(widths, widths[1:], strict=False):
        expected += 9 * c * c + c + 9 * c * f + f + c * f
    expected += 9 * 513 * 512 + 512 + 16 * 512 * 512 + 512 + 513
    assert total == expected
