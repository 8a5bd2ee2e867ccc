"""What a quantizer is, and those by the nearest vector of a table: plain and residual."""

import dataclasses
import math
from collections.abc import Callable, Iterable
from typing import Any, Self

import flax.linen as nn
import jax
import jax.numpy as jnp

from babeldraw.config import require, to_dict
from babeldraw.layers.linear import l2_normalize
from babeldraw.tokenizers.lookup import (
    RESTARTS,
    Quantized,
    entropy,
    quantize,
    straight_through,
)


class Quantizer:
    """What a tokenizer asks of its section `quantizer`, a frozen dataclass that extends this.

    Attributes:
      kind: the section's name in `QUANTIZERS`.
      code_dim: Q, of what is quantized.
      optional_terms: of the loss, which are computed only where asked for.
      training_fields: those that make no codes.
      learned: whether the module has parameters.
      mixes: whether a mean of codes is one, of a table `codes()` of the module.
      beta_term: the term of the loss that `config.loss.commitment`, beta, weighs.
    """

    kind: str
    code_dim: int
    optional_terms: tuple[str, ...] = ()
    training_fields: tuple[str, ...] = ()
    learned: bool = True
    mixes: bool = False
    beta_term: str = "commitment"

    @property
    def vocab(self) -> tuple[int, ...]:
        """Values of each factor of a code."""
        raise NotImplementedError

    @property
    def latent_dim(self) -> int:
        """Values of what comes in, of each place."""
        return self.code_dim

    @property
    def code_fields(self) -> dict[str, Any]:
        """The fields that make codes and are not as by default, for the identity of codes."""
        fields = to_dict(self, defaults=False)
        found = {name: fields[name] for name in fields if name not in self.training_fields}
        # The first kind has no name there, nor had it in runs from before there were others.
        return found if self.kind == "vq" else {**found, "kind": self.kind}

    def make(self) -> nn.Module:
        """A module from float32 [..., Q], and whether entropy is wanted, to `Quantized`.

        It has `lookup`, from ids to float32 [..., Q].
        """
        raise NotImplementedError

    def follow(self, params: Any, q: Quantized) -> Any:
        """Parameters after a step that moves them by what was quantized, not by gradients.

        Args:
          params: of the module, before the step.
          q: of the step's batch.
        """
        raise NotImplementedError

    def follows(self) -> bool:
        """Whether the kind has `follow`."""
        return type(self).follow is not Quantizer.follow

    def restart(
        self, params: Any, share: jax.Array, q: Quantized, below: float, key: jax.Array
    ) -> tuple[Any, jax.Array]:
        """Moves codes that are hardly used; see `Tokenizer.restart`. `params`: of the module."""
        raise NotImplementedError

    def restarts(self) -> bool:
        """Whether the kind has `restart`."""
        return type(self).restart is not Quantizer.restart

    def check_new(self) -> None:
        """Raises `UserError`: trained anew it would hardly learn."""

    def check_split(self, devices: int) -> None:
        """Raises `UserError`: a codebook cannot be split over so many devices of `model`."""

    def _check_choice(self, name: str, choices: Iterable[str]) -> None:
        value = getattr(self, name)
        require(
            value in choices,
            f"tokenizer.quantizer.{name} is {value!r}; the choices are {', '.join(choices)}",
        )

    def _check(self, *sizes: str) -> None:
        path = "tokenizer.quantizer"
        for name in sizes:
            value = getattr(self, name)
            require(value >= 1, f"{path}.{name} is {value}; at least 1 is needed")
        require(
            self.codebook_size < 2**31,
            f"{path}.codebook_size is {self.codebook_size}; ids are int32, so below {2**31}",
        )
        require(
            self.entropy_temperature > 0,
            f"{path}.entropy_temperature is {self.entropy_temperature}; more than 0 is needed",
        )


# Which of the two terms beta weighs: the latents' in the papers; the codes' in taming's code, whose
# authors call it a slip, and in IBQ's.
BETA_ON = ("commitment", "codebook")


def _uniform(bound: float) -> Callable:
    """Initializer: uniform from -bound to bound."""
    return lambda key, shape: jax.random.uniform(key, shape, jnp.float32, -bound, bound)


def _on_sphere(key: jax.Array, shape: tuple[int, int]) -> jax.Array:
    """Initializer: rows of length 1, uniform before they are normalised."""
    return l2_normalize(_uniform(1.0)(key, shape))


# What a codebook of V codes is drawn from: a standard normal (IBQ, ViT-VQGAN); uniform with the
# bound 1 / V (taming, TiTok), the same with rows of length 1 (LlamaGen: a table that is normalised
# when it is looked up, and is short, turns with each step of Adam), or sqrt(3 / V), of variance
# 1 / V (MaskGIT).
INITS: dict[str, Callable[[int], Callable]] = {
    "sphere": lambda size: _on_sphere,
    "normal": lambda size: nn.initializers.normal(1.0),
    "uniform": lambda size: _uniform(1 / size),
    "fan_in": lambda size: _uniform(math.sqrt(3 / size)),
}


class TableConfig(Quantizer):
    """What quantizers by a table of `codebook_size` vectors of `code_dim` values share."""

    def tiny(self) -> Self:
        """The same for a first run."""
        return dataclasses.replace(self, codebook_size=64, code_dim=8)

    @property
    def vocab(self) -> tuple[int, ...]:
        return (self.codebook_size,)

    @property
    def beta_term(self) -> str:
        return self.beta_on


@dataclasses.dataclass(frozen=True)
class VQConfig(TableConfig):
    """The nearest of a table of vectors; see `Codebook`.

    Attributes:
      codebook_size: V, 8192 in ViT-VQGAN.
      code_dim: Q of the factorized lookup, 32 in ViT-VQGAN.
      l2_normalized: normalise latents and codes before the lookup.
      straight_through: what the codes' gradient is that of: the latent as compared with them
        (`normalized`), or as it comes (`raw`), past the normalisation.
      entropy_temperature: T of `entropy`, 0.01 in MAGVIT-v2, MaskGIT and LlamaGen; its weight is
        `config.loss.entropy`.
      restart_how: of `RESTARTS`, what `config.loss.restart_below` does.
      code_init: of `INITS`, what codes are drawn from.
      beta_on: of `BETA_ON`, the term that beta, `config.loss.commitment`, weighs.
    """

    codebook_size: int = 8192
    code_dim: int = 32
    l2_normalized: bool = True
    straight_through: str = "normalized"
    entropy_temperature: float = 0.01
    restart_how: str = "idle"
    code_init: str = "normal"
    beta_on: str = "commitment"
    kind: str = "vq"

    optional_terms = ("entropy",)
    training_fields = (
        "straight_through",
        "entropy_temperature",
        "restart_how",
        "code_init",
        "beta_on",
    )
    mixes = True

    def __post_init__(self):
        self._check("codebook_size", "code_dim")
        self._check_choice("straight_through", ("normalized", "raw"))
        self._check_choice("beta_on", BETA_ON)
        self._check_choice("restart_how", RESTARTS)
        self._check_choice("code_init", INITS)

    def make(self) -> "Codebook":
        return Codebook(
            self.codebook_size,
            self.code_dim,
            self.l2_normalized,
            self.straight_through == "raw",
            self.entropy_temperature,
            self.code_init,
        )

    def restart(
        self, params: Any, share: jax.Array, q: Quantized, below: float, key: jax.Array
    ) -> tuple[Any, jax.Array]:
        table = params["table"]
        if self.l2_normalized and self.restart_how == "clustered":
            # A part of the way lies between two directions only where both are of one length.
            table = l2_normalize(table)
        table, share = RESTARTS[self.restart_how](table, share, q, below, key)
        return {"table": table}, share


class Codebook(nn.Module):
    """V codes of Q dimensions; lookup on the unit sphere.

    With l2-normalised codes and latents, Euclidean distance is cosine similarity (ViT-VQGAN,
    section 3.1).

    Attributes:
      size, dim: V and Q.
      l2_normalized: normalise both sides before the lookup.
      raw: the gradient goes straight through to what was given, not to what was normalised.
      temperature: of `entropy`.
      code_init: of `INITS`.
    """

    size: int
    dim: int
    l2_normalized: bool = True
    raw: bool = False
    temperature: float = 0.01
    code_init: str = "normal"

    def setup(self):
        drawn = INITS[self.code_init](self.size)
        init = nn.with_logical_partitioning(drawn, ("vocab", "code_dim"))
        self.table = self.param("table", init, (self.size, self.dim))

    def codes(self) -> jax.Array:
        """float32 [V, Q], as they are looked up."""
        return l2_normalize(self.table) if self.l2_normalized else self.table

    def __call__(self, z: jax.Array, with_entropy: bool = False) -> Quantized:
        """Quantizes float32 [..., Q]."""
        latents, codes_VQ = l2_normalize(z) if self.l2_normalized else z, self.codes()
        found = quantize(latents, codes_VQ)
        if self.raw:
            found = found.replace(codes=straight_through(found.codes, z))
        if with_entropy:
            found = found.replace(more={"entropy": entropy(latents, codes_VQ, self.temperature)})
        return found

    def lookup(self, ids: jax.Array) -> jax.Array:
        """int32 [...] -> float32 [..., Q]."""
        return jnp.take(self.codes(), ids, axis=0, mode="clip")


@dataclasses.dataclass(frozen=True)
class ResidualVQConfig(Quantizer):
    """Several codes for each place, each of what those before it left; see `ResidualCodebook`.

    Attributes:
      codebook_size, code_dim: V of each level and Q; RQ-VAE's.
      levels: codes of a place, 4 in RQ-VAE.
      shared: one table for all levels (RQ-VAE), or one for each.
      entropy_temperature, restart_how: as in `VQConfig`; of the levels the mean.
    """

    codebook_size: int = 16384
    code_dim: int = 256
    levels: int = 4
    shared: bool = True
    entropy_temperature: float = 0.01
    restart_how: str = "idle"
    kind: str = "residual_vq"

    optional_terms = ("entropy",)
    training_fields = ("entropy_temperature", "restart_how")

    def __post_init__(self):
        self._check("codebook_size", "code_dim")
        self._check_choice("restart_how", RESTARTS)
        require(
            self.levels >= 2,
            f"tokenizer.quantizer.levels is {self.levels}; at least 2 are needed, kind=vq has one",
        )

    def tiny(self) -> "ResidualVQConfig":
        """The same for a first run."""
        return dataclasses.replace(self, codebook_size=64, code_dim=8)

    @property
    def vocab(self) -> tuple[int, ...]:
        return (self.codebook_size,) * self.levels

    def make(self) -> "ResidualCodebook":
        return ResidualCodebook(
            self.codebook_size, self.code_dim, self.levels, self.shared, self.entropy_temperature
        )

    def restart(
        self, params: Any, share: jax.Array, q: Quantized, below: float, key: jax.Array
    ) -> tuple[Any, jax.Array]:
        """A shared table has one share for each of its codes, that of all levels."""
        move, table = RESTARTS[self.restart_how], params["table"]
        share_LV = share.reshape(self.levels, self.codebook_size)
        if self.shared:
            whole = q.replace(codes=jnp.take(table, q.ids, axis=0))
            table, share_V = move(table, share_LV[0], whole, below, key)
            return {"table": table}, jnp.tile(share_V, self.levels)
        found = []
        for level, own in enumerate(jax.random.split(key, self.levels)):
            ids, latents = q.ids[..., level], q.latents[..., level, :]
            part = q.replace(ids=ids, latents=latents, codes=jnp.take(table[level], ids, axis=0))
            found.append(move(table[level], share_LV[level], part, below, own))
        tables, shares = zip(*found, strict=True)
        return {"table": jnp.stack(tables)}, jnp.concatenate(shares)


class ResidualCodebook(nn.Module):
    """Residual quantization: each level takes the code nearest to what the former left.

    Lee et al., "Autoregressive Image Generation using Residual Quantization" (RQ-VAE), 2022,
    section 3.1. Both losses are the mean over levels, as in their code (the paper's sum it), the
    commitment that of the latent to the sum of codes up to each level (equation 7). Their codes
    move by running means; here by the codebook's loss, as VQ's. Codes are drawn from a standard
    normal, as theirs, which few latents are near at first: use `config.loss.restart_below`.

    Attributes:
      size, dim, levels: V, Q and the codes of a place.
      shared: one table for all levels.
      temperature: of `entropy`.
    """

    size: int
    dim: int
    levels: int
    shared: bool = True
    temperature: float = 0.01

    def setup(self):
        shape, axes = (self.size, self.dim), ("vocab", "code_dim")
        if not self.shared:
            shape, axes = (self.levels, *shape), (None, *axes)
        init = nn.with_logical_partitioning(nn.initializers.normal(1.0), axes)
        self.table = self.param("table", init, shape)

    def codes(self, level: int) -> jax.Array:
        """float32 [V, Q], of a level."""
        return self.table if self.shared else self.table[level]

    def __call__(self, z: jax.Array, with_entropy: bool = False) -> Quantized:
        """Quantizes float32 [..., Q] to ids [..., levels]; `latents` are what each level takes."""
        left, levels, entropies = z, [], []
        for level in range(self.levels):
            codes_VQ = self.codes(level)
            levels.append(quantize(left, codes_VQ))
            if with_entropy:
                entropies.append(entropy(left, codes_VQ, self.temperature))
            left = left - jax.lax.stop_gradient(levels[-1].codes)
        ids = jnp.stack([q.ids for q in levels], axis=-1)
        return Quantized(
            codes=straight_through(self.lookup(ids), z),
            ids=ids,
            latents=jnp.stack([q.latents for q in levels], axis=-2),
            codebook_loss=sum(q.codebook_loss for q in levels) / self.levels,
            commitment_loss=sum(q.commitment_loss for q in levels) / self.levels,
            more={"entropy": sum(entropies) / self.levels} if with_entropy else {},
        )

    def lookup(self, ids: jax.Array) -> jax.Array:
        """int32 [..., levels] -> float32 [..., Q], the sum of the levels' codes."""
        chosen = [
            jnp.take(self.codes(level), ids[..., level], axis=0, mode="clip")
            for level in range(self.levels)
        ]
        return sum(chosen[1:], chosen[0])
