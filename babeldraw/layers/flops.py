"""Operations of a stack, by formula; see `train.model_flops`."""

from typing import Any


def blocks_forward(
    config: Any, length: int, causal: bool = False, context: int = 0, gated: bool = False
) -> int:
    """Operations of a stack for one example.

    Args:
      config: a `TransformerConfig`.
      length: positions T.
      causal: self-attention sees half of the square.
      context: positions S of a second source that every block attends to; 0: there is none.
      gated: the feed-forward has a third product (SwiGLU).
    """
    dim, hidden = config.dim, config.hidden
    projections = 2 * 4 * dim * dim * length
    attention = 4 * length * length * dim // (2 if causal else 1)
    feed_forward = 2 * (3 if gated else 2) * dim * hidden * length
    cross = 0
    if context:
        cross = 2 * 2 * dim * dim * (length + context) + 4 * length * context * dim
    return config.blocks * (projections + attention + feed_forward + cross)
