"""The nearest code of a table: its losses, its gradient, and what moves codes that are idle."""

from collections.abc import Callable

import flax.struct
import jax
import jax.numpy as jnp

from babeldraw.tokenizers import streamed


@flax.struct.dataclass
class Quantized:
    """Attributes:
    codes: float32 [..., Q], the chosen codes, with the gradient passed straight through.
    ids: int32 [...], or [..., levels].
    latents: float32 [..., Q], as compared with the codes (normalised when they are), or
      [..., levels, Q].
    codebook_loss, commitment_loss: float32 scalars, the two terms of L_VQ without beta; None
      where a quantizer has no such term.
    more: further terms of the loss by name, those that were asked for.
    """

    codes: jax.Array
    ids: jax.Array
    latents: jax.Array
    codebook_loss: jax.Array | None
    commitment_loss: jax.Array | None
    more: dict[str, jax.Array] = flax.struct.field(default_factory=dict)

    @property
    def terms(self) -> dict[str, jax.Array]:
        """All terms of the loss by name, without weights."""
        own = {"codebook": self.codebook_loss, "commitment": self.commitment_loss}
        return {name: term for name, term in own.items() if term is not None} | self.more


def nearest(z: jax.Array, codes_VQ: jax.Array) -> jax.Array:
    """Index of the code at the least Euclidean distance. [..., Q] -> int32 [...]."""
    return jnp.argmax(closeness(z, codes_VQ), axis=-1)


def closeness(z: jax.Array, codes_VQ: jax.Array) -> jax.Array:
    """z.e - |e|^2 / 2: -|z - e|^2 / 2, but for what is the same for all codes; [..., V]."""
    half_norms_V = 0.5 * jnp.sum(jnp.square(codes_VQ), axis=-1)
    scores = jnp.einsum("...Q,VQ->...V", z, codes_VQ)
    return scores - jnp.broadcast_to(half_norms_V, scores.shape)


def entropy(z: jax.Array, codes_VQ: jax.Array, temperature: float) -> jax.Array:
    """H(p) of each latent, in the mean, less H of the mean p; p = softmax(-|z - e|^2 / T) over V.

    Low where each latent is sure of its code and all codes are used. Yu et al., "Language Model
    Beats Diffusion" (MAGVIT-v2), 2023, section 3.1; with distances as in MaskGIT and LlamaGen.
    """
    with jax.named_scope("entropy"):
        # 2 z.e - |e|^2 as one product: a further value of each code, and 1 in each latent.
        z_NQ = jnp.reshape(z, (-1, z.shape[-1])) * (2 / temperature)
        squares_V1 = jnp.sum(jnp.square(codes_VQ), axis=-1, keepdims=True) / -temperature
        ones_N1 = jnp.ones_like(z_NQ[:, :1])
        return streamed.entropy(
            jnp.concatenate([z_NQ, ones_N1], axis=1),
            jnp.concatenate([codes_VQ, squares_V1], axis=1),
        )


def quantize(z: jax.Array, codes_VQ: jax.Array) -> Quantized:
    """Replaces each vector by its nearest code, straight-through.

    L_VQ = |sg[z] - e|^2 + beta |z - sg[e]|^2, means over all elements (ViT-VQGAN, equation 1); beta
    is the caller's. The gradient with respect to the output goes to z unchanged.
    """
    with jax.named_scope("quantize"):
        ids = nearest(jax.lax.stop_gradient(z), jax.lax.stop_gradient(codes_VQ))
        chosen = jnp.take(codes_VQ, ids, axis=0)
        return Quantized(
            codes=z + jax.lax.stop_gradient(chosen - z),
            ids=ids.astype(jnp.int32),
            latents=z,
            codebook_loss=jnp.mean(jnp.square(jax.lax.stop_gradient(z) - chosen)),
            commitment_loss=jnp.mean(jnp.square(z - jax.lax.stop_gradient(chosen))),
        )


def straight_through(codes: jax.Array, z: jax.Array) -> jax.Array:
    """`codes`, to the last bit, with the gradient of z."""
    return jax.lax.stop_gradient(codes) + (z - jax.lax.stop_gradient(z))


def restart_idle(
    table_VQ: jax.Array, share_V: jax.Array, q: Quantized, below: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Moves idle codes to latents drawn with probability proportional to squared error.

    Args:
      table_VQ: the codebook.
      share_V: how much each code was used, in units of an equal share; remembers fifty batches.
      q: of this batch.
      below: the share under which a code is idle.
      key: of the draw.

    Returns:
      The codebook and the shares, those of moved codes 1.
    """
    size = table_VQ.shape[0]
    counts_V = jnp.zeros(size, jnp.float32).at[q.ids.reshape(-1)].add(1.0)
    share_V = 0.98 * share_V + 0.02 * counts_V * (size / q.ids.size)
    latents_NQ = jax.lax.stop_gradient(q.latents).reshape(-1, q.latents.shape[-1])
    chosen_NQ = jax.lax.stop_gradient(q.codes).reshape(latents_NQ.shape)
    error_N = jnp.sum(jnp.square(latents_NQ - chosen_NQ), axis=-1)
    # By the sums up to each latent: a number for each code, where Gumbel's way takes V times N.
    sums_N = jnp.cumsum(error_N + 1e-12)
    drawn_V = jnp.searchsorted(sums_N, jax.random.uniform(key, (size,)) * sums_N[-1])
    drawn_V = jnp.minimum(drawn_V, sums_N.size - 1)
    idle_V = share_V < below
    idle_VQ = jnp.broadcast_to(idle_V[:, None], table_VQ.shape)
    return jnp.where(idle_VQ, latents_NQ[drawn_V], table_VQ), jnp.where(idle_V, 1.0, share_V)


def restart_clustered(
    table_VQ: jax.Array, share_V: jax.Array, q: Quantized, below: float, key: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Moves each code a part of the way, exp(-share / below), to the latent that is closest to it.

    Zheng and Vedaldi, "Online Clustered Codebook" (CVQ-VAE), 2023, equations 4 to 6, with the
    closest latent as in TA-TiTok; `below` is their (1 - 0.99) / 10 = 0.001. A code in use does not
    move. Idle codes that lie together, as where they begin near 0, move to one and the same latent:
    of them the first is in use from then on and stays, and the others go on with later batches.
    Shares begin at 1 and not, as theirs, at 0: codes drawn first are given the time to be used.

    Args and returns are those of `restart_idle`; the shares remember a hundred batches, moved
    codes keep theirs, and nothing is drawn.
    """
    del key
    size, latents_NQ = table_VQ.shape[0], jax.lax.stop_gradient(q.latents)
    latents_NQ = latents_NQ.reshape(-1, table_VQ.shape[1])
    counts_V = jnp.zeros(size, jnp.float32).at[q.ids.reshape(-1)].add(1.0)
    share_V = 0.99 * share_V + 0.01 * counts_V * (size / q.ids.size)
    # The roles of the two are exchanged.
    closest_VQ = latents_NQ[nearest(table_VQ, latents_NQ)]
    # Never all of the way: 0.001 is theirs.
    part_VQ = jnp.broadcast_to(jnp.exp(-share_V / below - 1e-3)[:, None], table_VQ.shape)
    return (1 - part_VQ) * table_VQ + part_VQ * closest_VQ, share_V


RESTARTS: dict[str, Callable] = {"idle": restart_idle, "clustered": restart_clustered}
