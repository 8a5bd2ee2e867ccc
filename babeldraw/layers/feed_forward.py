"""The position-wise networks: the block's feed-forward and the tanh head of ViT-VQGAN."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from babeldraw.layers.linear import Einsum
from babeldraw.sharding.constraint import constrain

ACTIVATIONS: dict[str, Callable] = {"relu": jax.nn.relu, "gelu": jax.nn.gelu, "tanh": jnp.tanh}


class FeedForward(nn.Module):
    """Linear D to F, activation, linear F to D.

    A call may give `drop`, the dropout of what lies between: a function of [B, T, F].
    """

    dim: int
    hidden: int
    activation: str = "relu"
    bias: bool = False
    dtype: jnp.dtype = jnp.float32

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, drop: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        with jax.named_scope("ffn"):
            up = Einsum(
                "BTD,DF->BTF",
                (self.dim, self.hidden),
                ("embed", "mlp"),
                bias=self.bias,
                dtype=self.dtype,
                name="up",
            )
            down = Einsum(
                "BTF,FD->BTD",
                (self.hidden, self.dim),
                ("mlp", "embed"),
                bias=self.bias,
                dtype=self.dtype,
                name="down",
            )
            # Kept before the activation, whose own backward pass needs that.
            hidden_BTF = checkpoint_name(up(x_BTD), "hidden")
            hidden_BTF = ACTIVATIONS[self.activation](hidden_BTF)
            hidden_BTF = constrain(hidden_BTF, ("batch", "length", "activation_mlp"))
            if drop is not None:
                hidden_BTF = drop(hidden_BTF)
            out_BTD = constrain(down(hidden_BTF), ("batch", "length", "activation_embed"))
            return checkpoint_name(out_BTD, "output")
