"""TiTok's discriminator: patches seen through blurred strides, as its published code has it."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.layers.convolution import Conv, blur
from babeldraw.layers.norms import GroupNorm

GROUPS = 32
SLOPE = 0.1


class BlurredPatches(nn.Module):
    """A logit for each of `places` x `places` patches.

    A convolution of 5 x 5; stages of a 3 x 3 one, the blur of StyleGAN2 with stride 2, a group norm
    and a leaky ReLU; then the largest of each patch.

    Attributes:
      channels: of the first convolution and the first stage, doubled by each next one.
      stages: how many.
      places: height and width of the logits.
    """

    channels: int = 128
    stages: int = 3
    places: int = 16

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> float32 [B, h, w]; large means real."""
        self.check(images.shape[1:3], self.stages)
        # As they are: TiTok does not centre pixels.
        x_BhwC = _leaky_relu(Conv(self.channels, (5, 5), name="first")(images))
        for i in range(self.stages):
            features = self.channels * 2**i
            x_BhwC = _halved(Conv(features, name=f"conv_{i}")(x_BhwC))
            norm = GroupNorm(math.gcd(GROUPS, features), 1e-5, name=f"norm_{i}")
            x_BhwC = _leaky_relu(norm(x_BhwC))
        x_BhwC = adaptive_max(adaptive_max(x_BhwC, 1, self.places), 2, self.places)
        x_BhwC = _leaky_relu(Conv(x_BhwC.shape[-1], (1, 1), name="last")(x_BhwC))
        return Conv(1, (5, 5), name="logit")(x_BhwC)[..., 0]

    @staticmethod
    def check(size: tuple[int, int], stages: int) -> None:
        """Raises `UserError` when pictures of `size` (height, width) leave no place."""
        least = 2**stages
        require(
            min(size) >= least,
            f"config.discriminator.kind is 'titok', whose {stages} stages need pictures of at "
            f"least {least} px on each side; they are {size}",
        )


def adaptive_max(x: jax.Array, axis: int, places: int) -> jax.Array:
    """The largest in each of so many equal parts of an axis, which overlap where they must."""
    size = x.shape[axis]
    if size % places == 0:
        shape = (*x.shape[:axis], places, size // places, *x.shape[axis + 1 :])
        return jnp.max(x.reshape(shape), axis=axis + 1)
    # From the whole number below where a part begins to that above where it ends, as torch has it.
    edges = [(i * size // places, -(-(i + 1) * size // places)) for i in range(places)]
    parts = [jax.lax.slice_in_dim(x, first, last, axis=axis) for first, last in edges]
    return jnp.stack([jnp.max(part, axis=axis) for part in parts], axis=axis)


def _halved(x_BhwC: jax.Array) -> jax.Array:
    # "SAME": an odd side has one zero more behind it, so that half of it, rounded up, is left.
    odd = tuple(side % 2 for side in x_BhwC.shape[1:3])
    x_BhwC = jnp.pad(x_BhwC, ((0, 0), (0, odd[0]), (0, odd[1]), (0, 0)))
    return blur(x_BhwC, stride=2, padding=(1, 1))


def _leaky_relu(x: jax.Array) -> jax.Array:
    return jax.nn.leaky_relu(x, SLOPE)
