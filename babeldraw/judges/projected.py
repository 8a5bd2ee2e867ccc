"""Projected GAN's discriminator: heads of several scales on the maps of a frozen network.

Sauer et al., "Projected GANs Converge Faster", 2021. There on EfficientNet, whose maps batch norms
keep alike; here on VGG16, so that each place's vector is brought to one length first. The spectral
norm has no state here: each step begins anew, with more iterations. Left out: differentiable
augmentation, which is for generators without a picture to reconstruct.
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.convolution import convolve
from babeldraw.layers.linear import l2_normalize
from babeldraw.layers.norms import GroupNorm

# How maps are mixed by random weights before the heads (section 3.2): not at all; across channels,
# by 1 x 1 convolutions; across scales too, from the smallest map to the largest.
MIXINGS = ("none", "ccm", "ccm_csm")
# Sides of the last map of a head, which has a logit for each place; the paper has 4 x 4 logits.
SMALLEST = 4
ITERATIONS = 8


class ProjectedHeads(nn.Module):
    """A head per map; all their logits side by side. Mixing weights are in the collection `fixed`.

    Attributes:
      channels: of each head at its map's size, doubled by each halving.
      max_channels: at most.
      stages: which of the five maps, counted from 1, the largest; the paper takes four.
      mixing: of `MIXINGS`.
    """

    channels: int = 64
    max_channels: int = 512
    stages: tuple[int, ...] = (2, 3, 4, 5)
    mixing: str = "ccm_csm"

    @nn.compact
    def __call__(self, maps: list[jax.Array]) -> jax.Array:
        """Five maps, float32 [B, h, w, C] -> float32 [B, n]; large means real.

        Of pictures whose sides 16 divides each head has as many logits, and so the same weight in
        a mean.
        """
        mixed = [_unit(maps[stage - 1]) for stage in self.stages]
        if self.mixing != "none":
            mixed = [self._fixed(x, x.shape[-1], 1, f"ccm_{s}") for s, x in self._by_stage(mixed)]
        if self.mixing == "ccm_csm":
            mixed = self._across_scales(mixed)
        # As many times as brings all of them to one size, about that of the smallest map.
        spare = halvings(min(mixed[-1].shape[1:3]))
        logits = [
            self._head(x, self.stages[-1] - stage + spare, f"head_{stage}")
            for stage, x in self._by_stage(mixed)
        ]
        return jnp.concatenate(logits, axis=-1)

    def _by_stage(self, maps: list[jax.Array]) -> list[tuple[int, jax.Array]]:
        return list(zip(self.stages, maps, strict=True))

    def _across_scales(self, maps: list[jax.Array]) -> list[jax.Array]:
        """To each map the mixture of the smaller ones, enlarged."""
        found = [maps[-1]]
        for stage, x_BhwC in reversed(self._by_stage(maps)[:-1]):
            b, h, w, c = x_BhwC.shape
            large = jax.image.resize(found[0], (b, h, w, found[0].shape[-1]), "linear")
            # Both have unit variance; so has their sum over sqrt(2).
            mixed = (x_BhwC + self._fixed(large, c, 3, f"csm_{stage}")) / math.sqrt(2)
            found.insert(0, mixed)
        return found

    def _fixed(self, x_BhwC: jax.Array, features: int, side: int, name: str) -> jax.Array:
        """A convolution by weights that are drawn once and never learn; it keeps the variance."""
        shape = (side, side, x_BhwC.shape[-1], features)

        def draw() -> Any:
            axes = (None, None, None, "embed")
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), axes)
            return init(self.make_rng("params"), shape)

        return convolve(x_BhwC, self.variable("fixed", name, draw).value)

    def _head(self, x_BhwC: jax.Array, halved: int, name: str) -> jax.Array:
        """[B, h, w, C] -> [B, n]: a convolution, then some that halve, then the logits."""
        x_BhwC = self._block(x_BhwC, self.channels, 3, 1, f"{name}_first")
        for i in range(1, halved + 1):
            width = min(self.channels * 2**i, self.max_channels)
            x_BhwC = self._block(x_BhwC, width, 4, 2, f"{name}_halving_{i}")
        logits = SpectralConv(1, 3, name=f"{name}_logit")(x_BhwC)
        return logits.reshape(logits.shape[0], -1)

    def _block(self, x_BhwC: jax.Array, width: int, side: int, stride: int, name: str):
        x_BhwC = SpectralConv(width, side, stride, name=name)(x_BhwC)
        norm = GroupNorm(width // math.gcd(16, width), name=f"{name}_norm")
        return jax.nn.leaky_relu(norm(x_BhwC), 0.2)


class SpectralConv(nn.Module):
    """A convolution whose weight is divided by its largest singular value (Miyato et al., 2018).

    float32 weight [side, side, C, features], of which the matrix [side * side * C, features].
    """

    features: int
    side: int
    stride: int = 1

    @nn.compact
    def __call__(self, x_BhwC: jax.Array) -> jax.Array:
        shape = (self.side, self.side, x_BhwC.shape[-1], self.features)
        init = nn.with_logical_partitioning(
            nn.initializers.lecun_normal(), (None, None, None, "embed")
        )
        weight = self.param("weight", init, shape)
        zeros = nn.with_logical_partitioning(nn.initializers.zeros, ("embed",))
        bias = self.param("bias", zeros, (self.features,))
        weight = weight / largest_singular(weight.reshape(-1, self.features))
        y_BhwF = convolve(x_BhwC, weight, self.stride)
        return y_BhwF + jnp.broadcast_to(bias, y_BhwF.shape)


def largest_singular(matrix_IF: jax.Array, iterations: int = ITERATIONS) -> jax.Array:
    """About the largest singular value, from below, by power iterations from a fixed vector.

    Its gradient is that of u W v with both vectors constant, as in the paper.
    """
    constant_IF = jax.lax.stop_gradient(matrix_IF)

    def iterate(_: int, v_F: jax.Array) -> jax.Array:
        return l2_normalize((constant_IF @ v_F) @ constant_IF)

    start_F = jax.random.normal(jax.random.key(0), matrix_IF.shape[1:])
    v_F = jax.lax.fori_loop(0, iterations, iterate, l2_normalize(start_F))
    u_I = l2_normalize(constant_IF @ v_F)
    return u_I @ (matrix_IF @ v_F)


def halvings(side: int) -> int:
    """How often a map of that side is halved, so as not to get under `SMALLEST`."""
    return max(0, int(math.log2(side / SMALLEST)))


def _unit(x_BhwC: jax.Array) -> jax.Array:
    """Each place's vector at mean square 1."""
    return l2_normalize(x_BhwC, 1e-10) * math.sqrt(x_BhwC.shape[-1])
