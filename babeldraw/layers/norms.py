"""Norms of feature maps."""

import flax.linen as nn
import jax
import jax.numpy as jnp


class GroupNorm(nn.Module):
    """Wu and He, 2018: mean 0 and variance 1 over places and the channels of a group.

    In float32, and so returned.

    Attributes:
      groups: of neighbouring channels.
      epsilon: added to the variance.
      affine: whether a learned scale and bias of each channel follow.
    """

    groups: int
    epsilon: float = 1e-6
    affine: bool = True

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        x_BhwC = x_BhwC.astype(jnp.float32)
        x_BhwC = x_BhwC - self._mean(x_BhwC)
        variance_BhwC = self._mean(jnp.square(x_BhwC))
        y_BhwC = x_BhwC * jax.lax.rsqrt(variance_BhwC + self.epsilon)
        return _scaled(self, y_BhwC) if self.affine else y_BhwC

    def _mean(self, x_BhwC: jax.Array) -> jax.Array:
        """Over places and channels of a group, for each channel and place."""
        # First over places: a TPU pads a last dimension of few channels to 128.
        mean_BC = jnp.mean(x_BhwC, axis=(1, 2))
        mean_BGC = mean_BC.reshape(mean_BC.shape[0], self.groups, -1)
        mean_BGC = jnp.broadcast_to(jnp.mean(mean_BGC, axis=2, keepdims=True), mean_BGC.shape)
        return jnp.broadcast_to(mean_BGC.reshape(mean_BC.shape)[:, None, None], x_BhwC.shape)


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
        x_BhwC = x_BhwC - jnp.mean(x_BhwC, axis=(0, 1, 2), keepdims=True)
        variance = jnp.mean(jnp.square(x_BhwC), axis=(0, 1, 2), keepdims=True)
        return _scaled(self, x_BhwC * jax.lax.rsqrt(variance + self.epsilon))


def _scaled(norm: nn.Module, y_BhwC: jax.Array) -> jax.Array:
    """Times a learned scale, plus a learned bias, of each channel; parameters of `norm`."""
    ones, zeros = (
        nn.with_logical_partitioning(init, ("embed",))
        for init in (nn.initializers.ones, nn.initializers.zeros)
    )
    channels = y_BhwC.shape[-1:]
    scale, bias = norm.param("scale", ones, channels), norm.param("bias", zeros, channels)
    return y_BhwC * jnp.broadcast_to(scale, y_BhwC.shape) + jnp.broadcast_to(bias, y_BhwC.shape)
