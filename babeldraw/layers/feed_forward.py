"""The position-wise networks: the block's feed-forward and the tanh head of ViT-VQGAN."""

import functools
from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

from babeldraw.layers.inputs import Inputs
from babeldraw.layers.linear import Einsum, products
from babeldraw.sharding.constraint import constrain

ACTIVATIONS: dict[str, Callable] = {
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    # With the error function itself, not its approximation by tanh.
    "gelu_exact": functools.partial(jax.nn.gelu, approximate=False),
    # Of OpenAI's CLIP (Hendrycks and Gimpel, "Gaussian Error Linear Units", 2016, section 2).
    "gelu_quick": lambda x: x * jax.nn.sigmoid(1.702 * x),
    "silu": jax.nn.silu,
    "tanh": jnp.tanh,
}


class FeedForward(nn.Module):
    """Linear D to F, activation, linear F to D.

    A call may give `drop`, the dropout of what lies between: a function of [B, T, F].

    Attributes:
      dim, hidden: D and F.
      activation, bias, dtype: of the products and between them.
      gated: the activation is multiplied by another product of the input (Shazeer, 2020: SwiGLU,
        with silu).
    """

    dim: int
    hidden: int
    activation: str = "relu"
    bias: bool = False
    dtype: jnp.dtype = jnp.float32
    gated: bool = False

    @nn.compact
    def __call__(
        self, x_BTD: jax.Array, drop: Callable[[jax.Array], jax.Array] | None = None
    ) -> jax.Array:
        with jax.named_scope("ffn"):
            wide = functools.partial(
                Einsum,
                "BTD,DF->BTF",
                (self.dim, self.hidden),
                ("embed", "mlp"),
                bias=self.bias,
                dtype=self.dtype,
            )
            up = wide(name="up")
            down = Einsum(
                "BTF,FD->BTD",
                (self.hidden, self.dim),
                ("mlp", "embed"),
                bias=self.bias,
                dtype=self.dtype,
                name="down",
            )
            # Kept before the activation, whose own backward pass needs that.
            if self.gated:
                gate = wide(name="gate")
                hidden_BTF, gate_BTF = products(x_BTD, up, gate)
                hidden_BTF = checkpoint_name(hidden_BTF, "hidden")
                gate_BTF = checkpoint_name(gate_BTF, "hidden")
                hidden_BTF = ACTIVATIONS[self.activation](gate_BTF) * hidden_BTF
            else:
                hidden_BTF = checkpoint_name(up(x_BTD), "hidden")
                hidden_BTF = ACTIVATIONS[self.activation](hidden_BTF)
            hidden_BTF = constrain(hidden_BTF, ("batch", "length", "activation_mlp"))
            if drop is not None:
                hidden_BTF = drop(hidden_BTF)
            out_BTD = constrain(down(hidden_BTF), ("batch", "length", "activation_embed"))
            return checkpoint_name(out_BTD, "output")

    def whole(self, x_BTD: jax.Array, inputs: Inputs) -> jax.Array:
        """As a part of a block."""
        return self(x_BTD, inputs.drop)

    def start(self, inputs: Inputs, rows: int, length: int) -> tuple[()]:
        """It keeps nothing between steps."""
        del inputs, rows, length
        return ()

    def step(
        self, x_B1D: jax.Array, cache: tuple[()], index: jax.Array, inputs: Inputs
    ) -> tuple[jax.Array, tuple[()]]:
        """One slot."""
        del index, inputs
        return self(x_B1D), cache

    def fill(
        self, x_BPD: jax.Array, cache: tuple[()], inputs: Inputs
    ) -> tuple[jax.Array, tuple[()]]:
        """The first P slots."""
        del inputs
        return self(x_BPD), cache
