"""Vision transformers that end in their class row: of CLIP and of DINOv2.

Dosovitskiy et al., "An Image is Worth 16x16 Words", 2021; blocks are pre-norm with all biases.
"""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.judges.pillow import SIDE, keys
from babeldraw.layers.block import ComputeConfig, TransformerConfig, encoder_parts, make_stack
from babeldraw.layers.convolution import Conv
from babeldraw.layers.linear import LayerNorm
from babeldraw.layers.positions import LearnedPositions

# What judges compute in: everywhere the same.
PLAIN = ComputeConfig(kernel="plain")
# torch's cubic filter, and what DINOv2's code adds to the size of the grid that it wants.
TORCH_SLOPE, OFFSET = -0.75, 0.1


@dataclasses.dataclass(frozen=True)
class ViTConfig:
    """Attributes:
    stack: the blocks.
    patch_size: side of the square patches.
    epsilon: of all norms.
    before: whether a norm stands before the blocks, and patches have no bias (CLIP).
    scaled: whether what each part of a block gives is scaled, channel by channel (LayerScale).
    trained_side: height and width of the pictures that its table of positions is of.
    side: those of the pictures that it sees.
    """

    stack: TransformerConfig
    patch_size: int
    epsilon: float
    before: bool = False
    scaled: bool = False
    trained_side: int = SIDE
    side: int = SIDE


class LayerScale(nn.Module):
    """Touvron et al., "Going deeper with Image Transformers", 2021: times a learned vector."""

    @nn.compact
    def __call__(self, x_BTD: jax.Array) -> jax.Array:
        init = nn.with_logical_partitioning(nn.initializers.ones, ("embed",))
        return x_BTD * jnp.broadcast_to(self.param("scale", init, x_BTD.shape[-1:]), x_BTD.shape)


class ViT(nn.Module):
    """A picture to the class row behind the last norm."""

    config: ViTConfig

    @nn.compact
    def __call__(self, images: jax.Array) -> jax.Array:
        """float32 [B, side, side, 3], standardized -> float32 [B, D]."""
        config, dim, side = self.config, self.config.stack.dim, self.config.patch_size
        norm = functools.partial(LayerNorm, config.epsilon)
        patches = Conv(dim, (side, side), side, "VALID", bias=not config.before, name="patches")
        x_BhwD = patches(images)
        x_BTD = x_BhwD.reshape(x_BhwD.shape[0], -1, dim)
        row_1D = LearnedPositions(1, dim, name="class_row")()
        row_B1D = jnp.broadcast_to(row_1D[None], (x_BTD.shape[0], 1, dim))
        x_BTD = jnp.concatenate([row_B1D, x_BTD], axis=1)
        x_BTD = x_BTD + jnp.broadcast_to(self._positions()[None], x_BTD.shape)
        if config.before:
            x_BTD = norm(name="norm_before")(x_BTD)
        after = LayerScale if config.scaled else None
        parts = encoder_parts(config.stack, norm=norm, after=after, bias=True)
        x_BTD = make_stack(parts, config.stack, "stack")(x_BTD)
        return norm(name="norm")(x_BTD[:, 0])

    def _positions(self) -> jax.Array:
        """float32 [1 + T, D]: of the class row, then of the grid, brought to the picture's size."""
        config, dim = self.config, self.config.stack.dim
        trained, wanted = (side // config.patch_size for side in (config.trained_side, config.side))
        table_TD = LearnedPositions(1 + trained**2, dim, name="positions")()
        if trained == wanted:
            return table_TD
        grid_hwD = table_TD[1:].reshape(trained, trained, dim)
        along = jnp.asarray(torch_bicubic(trained, wanted), jnp.float32)
        grid_hwD = jnp.einsum("rh,cw,hwD->rcD", along, along, grid_hwD)
        return jnp.concatenate([table_TD[:1], grid_hwD.reshape(-1, dim)])


def torch_bicubic(size: int, wanted: int) -> np.ndarray:
    """float64 [wanted, size]: torch's bicubic interpolation along an axis, as DINOv2 calls it.

    `interpolate(scale_factor=(wanted + 0.1) / size, mode="bicubic")`: cells lie by that factor and
    not by the sizes, nothing is averaged where the grid shrinks, and the last cell is repeated.
    """
    at = (np.arange(wanted) + 0.5) * size / (wanted + OFFSET) - 0.5
    taps = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    found = np.zeros((wanted, size))
    rows = np.broadcast_to(np.arange(wanted)[:, None], taps.shape)
    weights = keys(taps - at[:, None], TORCH_SLOPE)
    np.add.at(found, (rows, np.clip(taps, 0, size - 1)), weights)
    return found
