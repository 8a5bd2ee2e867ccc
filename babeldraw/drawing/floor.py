"""What a step of decoding cannot but read from memory."""

from typing import Any

import jax
import numpy as np


def bytes_per_token(params: Any, cache: Any) -> int:
    """Bytes of the weights and caches that one step reads, whatever the batch.

    Args:
      params: of a Babeldraw, as `Generator.for_decoding` gives them; abstract ones will do.
      cache: as `Generator.start` gives it. A ring is read whole.
    """
    decoder = params["image_decoder"]
    blocks = tuple(
        # The text's keys and values were made at the start.
        {name: part for name, part in block.items() if name != "cross_attention"}
        | {"cross_attention": {name: block["cross_attention"][name] for name in ("query", "out")}}
        for block in decoder["stack"]["blocks"]
    )
    read = (blocks, decoder["norm"], decoder["logits"], cache)
    return sum(
        int(np.prod(leaf.shape, dtype=np.int64)) * leaf.dtype.itemsize
        for leaf in jax.tree.leaves(read)
    )
