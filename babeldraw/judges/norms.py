"""Norms of feature maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp

# What PatchGAN normalises by. `group`: 16 channels a group where Isola's code has `batch`; a logit
# then does not depend on the other pictures of its batch.
NORMS = ("group", "batch", "none")


class GroupNorm(nn.Module):
    """Wu and He, 2018: mean 0 and variance 1 over places and the channels of a group."""

    groups: int
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        b, h, w, c = x_BhwC.shape
        x_BhwGC = x_BhwC.reshape(b, h, w, self.groups, c // self.groups)
        y_BhwC = _standardized(x_BhwGC, (1, 2, 4), self.epsilon).reshape(x_BhwC.shape)
        return _scaled(self, y_BhwC)


class BatchNorm(nn.Module):
    """Ioffe and Szegedy, 2015: mean 0 and variance 1 of each channel over places and pictures.

    By the statistics of the batch that it is given, as Isola's code in training, and no others:
    there are no running ones, for a discriminator judges nothing after training. Real pictures and
    reconstructions are given apart, as there. The batch is the whole one, over all devices: how it
    is split changes no number. Torch's layer without `SyncBatchNorm`, which IBQ and taming's VQGAN
    train with, has the statistics of each device's part instead, of some four pictures.
    """

    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        return _scaled(self, _standardized(x_BhwC, (0, 1, 2), self.epsilon))


def _standardized(x: jax.Array, axes: tuple[int, ...], epsilon: float) -> jax.Array:
    """Mean 0 and variance 1 over `axes`."""
    x = x - jnp.mean(x, axis=axes, keepdims=True)
    variance = jnp.mean(jnp.square(x), axis=axes, keepdims=True)
    return x * jax.lax.rsqrt(variance + epsilon)


def _scaled(norm: nn.Module, y_BhwC: jax.Array) -> jax.Array:
    """Times a learned scale, plus a learned bias, of each channel; parameters of `norm`."""
    ones, zeros = (
        nn.with_logical_partitioning(init, ("embed",))
        for init in (nn.initializers.ones, nn.initializers.zeros)
    )
    channels = y_BhwC.shape[-1:]
    scale, bias = norm.param("scale", ones, channels), norm.param("bias", zeros, channels)
    return y_BhwC * jnp.broadcast_to(scale, y_BhwC.shape) + jnp.broadcast_to(bias, y_BhwC.shape)
