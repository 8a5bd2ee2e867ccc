"""A stack of equal blocks, their parameters stacked along a leading `layers` axis.

The stack is a pure function over one block's `apply` and a tree of parameters, so the same weights
can be scanned, written out, cut into pipeline stages or stepped through with a cache; and dropout
is a function of (key, layer), never of the order of calls.
"""

import functools
import operator
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.layers.dropout import fold
from babeldraw.sharding.constraint import constrain, divisible, is_names, logical_axes
from babeldraw.sharding.context import PerExample, arrays
from babeldraw.sharding.layout import current
from babeldraw.sharding.pipeline import pipeline
from babeldraw.sharding.rules import partition_spec

POLICIES: dict[str, Any] = {
    "none": None,
    "dots": jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    "full": jax.checkpoint_policies.nothing_saveable,
    # What attention gives before its projection: the backward pass need not attend again.
    "context": jax.checkpoint_policies.save_only_these_names("context"),
    # And what attention and feed-forward add to the residual stream.
    "outputs": jax.checkpoint_policies.save_only_these_names("context", "output"),
    # And the feed-forward's hidden values, its widest.
    "hidden": jax.checkpoint_policies.save_only_these_names("context", "output", "hidden"),
    # And what in-layer parallelism gathers for a product to read.
    "gathered": jax.checkpoint_policies.save_only_these_names(
        "context", "output", "hidden", "gathered"
    ),
}


class Stack(nn.Module):
    """Applies `num_layers` blocks one after another.

    Where the layout in force is a pipelined one, the blocks are its stages.

    Attributes:
      make_block: makes one block; called with `parent=None`. A block is called with
        `(x, context, keys=)`: the stack's context as arrays, and keys of dropout, one per example,
        or None; it returns the next x.
      num_layers: number of blocks.
      scan: loop over one compiled block, or write all blocks out.
      remat: name in `POLICIES`. A pipeline recomputes in full whatever this says.
      dtype: matrices are read, and x is handed from block to block, in this type.
      numbered: a block is also given `layer=`, its number, an int32 scalar.
    """

    make_block: Callable[..., nn.Module]
    num_layers: int
    scan: bool = True
    remat: str = "none"
    dtype: jnp.dtype = jnp.float32
    numbered: bool = False

    @nn.compact
    def __call__(
        self, x: jax.Array, context: Any = None, keys: jax.Array | None = None
    ) -> jax.Array:
        """All blocks, one after another.

        Args:
          x: float [B, ...].
          context: a tree of arrays that say whose they are, see `sharding.context`; None: none.
          keys: of dropout, [B], or None.
        """
        x, said = x.astype(self.dtype), context
        context = arrays(said)
        stacked = self._parameters(x, context)
        layout = current()
        if layout is not None and layout.pipelined and not self.is_initializing():
            return self._pipelined(stacked, x, said, keys, layout)
        if layout is not None and not isinstance(stacked, tuple):
            per_layer_axes = self._axes(x, context)
            if not layout.preset.gather_per_layer:
                stacked = _used(stacked, per_layer_axes, "layers")

        def apply(x, layer):
            params, index = layer
            if layout is not None and layout.preset.gather_per_layer:
                params = _used(params, self._axes(x, context))
            return self._apply(params, index, x, context, keys), None

        if self.remat != "none":
            apply = jax.checkpoint(apply, policy=POLICIES[self.remat], prevent_cse=not self.scan)
        if self.scan and not isinstance(stacked, tuple):
            return jax.lax.scan(apply, x, (stacked, jnp.arange(self.num_layers)))[0]
        for index, params in enumerate(per_layer(stacked, self.num_layers)):
            x, _ = apply(x, (params, index))
        return x

    @property
    def block(self) -> nn.Module:
        """One block, without parameters."""
        return self.make_block(parent=None)

    def layers(self) -> tuple[Any, ...]:
        """Parameters of each block."""
        return per_layer(self.get_variable("params", "blocks"), self.num_layers)

    def _apply(self, params, index, x, context, keys):
        number = {"layer": index} if self.numbered else {}
        return self.block.apply({"params": params}, x, context, keys=fold(keys, index), **number)

    def _pipelined(self, stacked, x, said, keys, layout):
        axes = self._axes(x, arrays(said))
        axes = jax.tree.map(lambda names: ("layers", *names), axes, is_leaf=is_names)
        specs = jax.tree.map(
            lambda names, leaf: divisible(
                partition_spec(names, layout.preset.stored), leaf.shape, layout.mesh
            ),
            axes,
            stacked,
            is_leaf=is_names,
        )

        def layer(params, index, x, context_and_keys):
            context, raw = context_and_keys
            keys = None if raw is None else jax.random.wrap_key_data(raw)
            return self._apply(params, index, x, context, keys)

        raw = None if keys is None else PerExample(jax.random.key_data(keys))
        return pipeline(layer, stacked, specs, x, (said, raw), layout, self.dtype)

    def _axes(self, *inputs: Any) -> Any:
        """Logical axes of one block's parameters."""
        return logical_axes(jax.eval_shape(self.block.init, jax.random.key(0), *inputs)["params"])

    def _parameters(self, *inputs: Any) -> Any:
        if self.has_variable("params", "blocks"):
            return self.get_variable("params", "blocks")

        def init(key):
            keys = jax.random.split(key, self.num_layers)
            stacked = jax.vmap(lambda k: self.block.init(k, *inputs)["params"])(keys)
            return jax.tree.map(
                lambda box: box.add_axis(0, {nn.PARTITION_NAME: "layers"}),
                stacked,
                is_leaf=lambda leaf: isinstance(leaf, nn.LogicallyPartitioned),
            )

        return nn.unbox(self.param("blocks", init))


def _used(params: Any, axes: Any, *leading: str) -> Any:
    """`params` laid out as a step reads them."""
    return jax.tree.map(
        lambda names, leaf: constrain(leaf, (*leading, *names)), axes, params, is_leaf=is_names
    )


def per_layer(blocks: Any, num_layers: int) -> tuple[Any, ...]:
    """Cuts stacked parameters into one tree per layer; already cut ones pass through."""
    return blocks if isinstance(blocks, tuple) else _cut(num_layers, blocks)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _cut(num_layers: int, blocks: Any) -> tuple[Any, ...]:
    return tuple(jax.tree.map(operator.itemgetter(i), blocks) for i in range(num_layers))


def _cut_forward(num_layers: int, blocks: Any) -> tuple[tuple[Any, ...], None]:
    return _cut(num_layers, blocks), None


def _cut_backward(num_layers: int, _: None, layers: tuple[Any, ...]) -> tuple[Any]:
    # Each layer's own gradient: that of taking one out is as large as all of them, and they are
    # summed.
    del num_layers
    return (jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers),)


_cut.defvjp(_cut_forward, _cut_backward)


def read_type(stack: Any, dtype: jnp.dtype) -> Any:
    """A stack's parameters with its matrices in the type that they are read in.

    For programs that only read them: a cast at every use would read the wider ones each time.
    """

    def cast(leaf, layers):
        # Norms and biases have one dimension, and one more where layers are stacked.
        return leaf.astype(dtype) if leaf.ndim > 1 + layers else leaf

    return {
        name: jax.tree.map(functools.partial(cast, layers=name == "blocks"), part)
        for name, part in stack.items()
    }


def recomputed(module: type[nn.Module], remat: str) -> type[nn.Module]:
    """The module with its values computed again in the backward pass, by a name in `POLICIES`."""
    return module if remat == "none" else nn.remat(module, policy=POLICIES[remat])


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
