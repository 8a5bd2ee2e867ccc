"""A stack of equal blocks, their parameters stacked along a leading `layers` axis.

The stack is a pure function over one block's `apply` and a tree of parameters, so the same weights
can be scanned, written out, cut into pipeline stages or stepped through with a cache; and dropout
is a function of (key, layer), never of the order of calls.
"""

import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

POLICIES: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
}


class Stack(nn.Module):
    """Applies `num_layers` blocks one after another.

    Attributes:
      make_block: makes one unbound block; called with `deterministic=` and `parent=None`. A block
        is called with `(x, *context)` and returns the next x.
      num_layers: number of blocks.
      scan: loop over one compiled block, or write all blocks out.
      remat: name in `POLICIES`.
    """

    make_block: Callable[..., nn.Module]
    num_layers: int
    scan: bool = True
    remat: str = "none"

    @nn.compact
    def __call__(self, x: jax.Array, *context: Any, deterministic: bool = True) -> jax.Array:
        block = self.block(deterministic)
        stacked = self._parameters(block, x, *context)
        key = None if deterministic else self.make_rng("dropout")

        def apply(x, layer):
            params, index = layer
            rngs = None if key is None else {"dropout": jax.random.fold_in(key, index)}
            return block.apply({"params": params}, x, *context, rngs=rngs), None

        if self.remat != "none":
            apply = jax.checkpoint(apply, policy=POLICIES[self.remat], prevent_cse=not self.scan)
        if self.scan and not isinstance(stacked, tuple):
            return jax.lax.scan(apply, x, (stacked, jnp.arange(self.num_layers)))[0]
        for index, params in enumerate(per_layer(stacked, self.num_layers)):
            x, _ = apply(x, (params, index))
        return x

    def block(self, deterministic: bool = True) -> nn.Module:
        """One block, without parameters."""
        return self.make_block(deterministic=deterministic, parent=None)

    def layers(self) -> tuple[Any, ...]:
        """Parameters of each block."""
        return per_layer(self.get_variable("params", "blocks"), self.num_layers)

    def _parameters(self, block: nn.Module, *inputs: Any) -> Any:
        if self.has_variable("params", "blocks"):
            return self.get_variable("params", "blocks")

        def init(key):
            keys = jax.random.split(key, self.num_layers)
            stacked = jax.vmap(lambda k: block.init(k, *inputs)["params"])(keys)
            return jax.tree.map(
                lambda box: box.add_axis(0, {nn.PARTITION_NAME: "layers"}),
                stacked,
                is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
            )

        return nn.unbox(self.param("blocks", init))


def per_layer(blocks: Any, num_layers: int) -> tuple[Any, ...]:
    """Cuts stacked parameters into one tree per layer; already cut ones pass through."""
    if isinstance(blocks, tuple):
        return blocks
    return tuple(jax.tree.map(operator.itemgetter(i), blocks) for i in range(num_layers))


def unstack(params: Any) -> Any:
    """`params` with every stack's `blocks` cut into one tree per layer.

    A decode loop works on these: cutting inside the loop would copy all weights at each token.
    """
    if not isinstance(params, dict):
        return params

    def cut(name, value):
        if name != "blocks" or isinstance(value, tuple):
            return unstack(value)
        return per_layer(value, jax.tree.leaves(value)[0].shape[0])

    return {name: cut(name, value) for name, value in params.items()}
