"""More weight on a text's columns of attention."""

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.inputs import Inputs


class TextWeight(nn.Module):
    """CogView2's attention upweighting, as what attention adds to its logits; no parameters.

    The context's `text_weight`, float32 [], is added at slots of one role: their weights are
    exp(text_weight) times as large before these are normalised. Of a context without it nothing is
    added, so that training keeps its kernels.

    Attributes:
      role: of the context's `roles`, int32 [B, L].
    """

    role: int

    def __call__(self, inputs: Inputs, queries: jax.Array, keys: jax.Array) -> jax.Array | None:
        """float32 [B, 1, 1, S] for keys, int32 slots [S] or [B, S]; None: nothing is added."""
        del queries
        weight = inputs.named("text_weight")
        if weight is None:
            return None
        roles_BL = inputs.context["roles"]
        slots = keys if keys.ndim == 2 else keys[None]
        # In a ring of whole sequences a slot that is not written yet counts from below 0.
        slots_BS = jnp.broadcast_to(slots % roles_BL.shape[1], (roles_BL.shape[0], slots.shape[1]))
        roles_BS = jnp.take_along_axis(roles_BL, slots_BS, axis=1)
        return jnp.where(roles_BS == self.role, weight, 0.0)[:, None, None]
