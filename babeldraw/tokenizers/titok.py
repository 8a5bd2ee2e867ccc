"""TiTok: a picture as a few latent tokens in one dimension; TA-TiTok: drawn beside its text.

Yu et al., "An Image is Worth 32 Tokens for Reconstruction and Generation", 2024; Kim et al.,
"Democratizing Text-to-Image Masked Generative Models with Compact Text-Aware One-Dimensional
Tokens" (TA-TiTok), 2025. Layers and their order are those of the published code.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax

from babeldraw.config import require, require_positive, to_dict
from babeldraw.errors import UserError
from babeldraw.layers.block import TransformerConfig, without_compute
from babeldraw.layers.linear import Einsum
from babeldraw.tokenizers.base import Codes, Reconstruction, Tokenizer
from babeldraw.tokenizers.gaussian import BottleneckConfig
from babeldraw.tokenizers.latent_tokens import CodeHead, LatentTransformer, PixelHead, vectors
from babeldraw.tokenizers.pixels import CHANNELS, to_patches
from babeldraw.tokenizers.proxies import ProxyConfig, make_proxy
from babeldraw.tokenizers.quantizers import QuantizingTokenizer, VQConfig

# The frozen network of the first stage, and what of it the second stage draws by.
PROXY, PIXELS = "proxy", "pixels"


@dataclasses.dataclass(frozen=True)
class GuidanceConfig:
    """A text by which the decoder draws, as states of a text encoder (TA-TiTok).

    Attributes:
      words: S, 77 in CLIP's.
      dim: of a word's state, 768 in OpenCLIP's ViT-L/14.
    """

    words: int = 77
    dim: int = 768

    def __post_init__(self):
        require_positive(self, "tokenizer.text")


@dataclasses.dataclass(frozen=True)
class TiTokConfig:
    """Attributes:
    encoder, decoder: the two stacks; any pair of sizes.
    tokens: K, latent tokens of a picture.
    image_size: (height, width) in pixels.
    patch_size: side of the square patches.
    quantizer: what makes codes of latents: 4096 x 12 in the paper; `gaussian` for continuous ones.
    proxy: the tokenizer whose codes the decoder predicts (the paper's first stage); None: it draws
      pixels itself.
    through_proxy: pictures are drawn through the proxy's decoder, a copy of which is then a part
      of this one's (the paper's second stage). Without it a run with a proxy gives no pictures.
    nested: numbers of tokens, ascending and up to `tokens`, each of which the decoder learns to
      draw from: it sees so many first ones of a picture. Each is a level. Empty: all always.
    scrambled: latents [K, D] are read as [D, K] before the last projection: a slip that the three
      checkpoints of the paper (L-32, B-64, S-128) were trained with.
    text: a text that guides the decoder; None: none.
    """

    encoder: TransformerConfig
    decoder: TransformerConfig
    tokens: int = 32
    image_size: tuple[int, int] = (256, 256)
    patch_size: int = 16
    quantizer: BottleneckConfig = VQConfig(4096, 12)
    proxy: ProxyConfig | None = None
    through_proxy: bool = False
    nested: tuple[int, ...] = ()
    scrambled: bool = False
    text: GuidanceConfig | None = None
    kind: str = "titok"

    def __post_init__(self):
        require_positive(self, "tokenizer", "tokens", "patch_size")
        require(
            min(self.image_size) > 0 and not any(s % self.patch_size for s in self.image_size),
            f"tokenizer.image_size is {self.image_size}, which patch_size={self.patch_size} does "
            f"not divide; choose multiples of {self.patch_size}",
        )
        ascending = list(self.nested) == sorted({*self.nested})
        require(
            not self.nested
            or (ascending and self.nested[0] >= 1 and self.nested[-1] == self.tokens),
            f"tokenizer.nested is {self.nested}; ascending numbers of tokens are needed, the last "
            f"of them tokens={self.tokens}",
        )
        require(
            self.proxy is not None or not self.through_proxy,
            "tokenizer.through_proxy is True and tokenizer.proxy is None; name the proxy's section",
        )
        if self.proxy is not None:
            self._check_proxy(make_proxy(self.proxy))

    def _check_proxy(self, proxy: Tokenizer) -> None:
        where = f"tokenizer.proxy.kind={self.proxy.kind}"
        require(
            proxy.image_size == self.image_size and proxy.codes.shape == self.grid,
            f"{where} makes {proxy.codes.shape} codes of {proxy.image_size} px, and "
            f"tokenizer.patch_size={self.patch_size} {self.grid} cells of {self.image_size}; the "
            "decoder predicts a code at each cell, so choose sizes that agree",
        )
        require(
            len(proxy.codes.vocab) == 1,
            f"{where} has the factors {proxy.codes.vocab} at each place; a proxy has one",
        )
        require(
            not self.through_proxy or proxy.mixes(),
            f"tokenizer.through_proxy is True and {where} cannot draw from a mean of its codes",
        )

    def tiny(self) -> "TiTokConfig":
        """The same network, small."""
        # Whole patches, at least the 32 px that the world of shapes needs.
        patch, proxy = self.patch_size, None if self.proxy is None else self.proxy.tiny()
        size = 2 * (-(-32 // patch) * patch,)
        if proxy is not None:
            size = proxy.image_size
            patch = size[0] // make_proxy(proxy).codes.shape[0]
        tokens = min(self.tokens, 16)
        nested = (*(n for n in self.nested if n < tokens), tokens) if self.nested else ()
        return dataclasses.replace(
            self,
            encoder=self.encoder.tiny(),
            decoder=self.decoder.tiny(),
            tokens=tokens,
            image_size=size,
            patch_size=patch,
            quantizer=self.quantizer.tiny(),
            proxy=proxy,
            nested=nested,
            # Those of the small encoder that a first run reads texts by.
            text=self.text and GuidanceConfig(16, 32),
        )

    @property
    def grid(self) -> tuple[int, int]:
        return self.image_size[0] // self.patch_size, self.image_size[1] // self.patch_size


class TiTok(nn.Module):
    """The network, but for the proxy's; `TiTokTokenizer` is what others see of it."""

    config: TiTokConfig

    def setup(self):
        config = self.config
        encoder, decoder, quantizer = config.encoder, config.decoder, config.quantizer
        cells = config.grid[0] * config.grid[1]
        pixels = config.patch_size**2 * CHANNELS
        self.patches = Einsum("BTP,PD->BTD", (pixels, encoder.dim), ("patch", "embed"), bias=True)
        self.latents = vectors(config.tokens, encoder.dim)
        self.encoder = LatentTransformer(encoder, cells, config.tokens)
        shape = (encoder.dim, quantizer.latent_dim)
        self.to_code = Einsum("BKD,DQ->BKQ", shape, ("embed", "code_dim"), bias=True)
        self.codebook = quantizer.make()
        shape = (quantizer.code_dim, decoder.dim)
        self.from_code = Einsum("BKQ,QD->BKD", shape, ("code_dim", "embed"), bias=True)
        self.mask = vectors(1, decoder.dim)
        words = 0
        if config.text is not None:
            words, shape = config.text.words, (config.text.dim, decoder.dim)
            self.from_text = Einsum("BSE,ED->BSD", shape, (None, "embed"), bias=True)
        self.decoder = LatentTransformer(decoder, cells, config.tokens, words, "cells")
        if config.proxy is None:
            self.head = PixelHead(decoder.dim, config.grid, config.patch_size)
        else:
            self.head = CodeHead(decoder.dim, make_proxy(config.proxy).codes.vocab_size)

    def __call__(
        self,
        images: jax.Array,
        text: jax.Array | None = None,
        tokens: int = 0,
        deterministic: bool = True,
        terms: tuple[str, ...] = (),
    ) -> tuple[Any, jax.Array]:
        """Pictures through the codes: what the quantizer gives, and what `drawn` does.

        Args:
          images: float32 [B, height, width, 3] in [0, 1].
          text: see `drawn`.
          tokens: how many of the codes are drawn from; 0: all, or a number of `nested` for each
            picture in training.
          deterministic: whether nothing is dropped.
          terms: those of the quantizer's that may be left out and are wanted.
        """
        found = self.codebook(self.encoded(images, deterministic), "entropy" in terms)
        codes_BKQ, kept_B = found.codes, None
        if tokens:
            codes_BKQ = codes_BKQ[:, :tokens]
        elif self.config.nested and not deterministic:
            choice_B = jax.random.randint(
                self.make_rng("dropout"), images.shape[:1], 0, len(self.config.nested)
            )
            kept_B = jnp.asarray(self.config.nested, jnp.int32)[choice_B]
        return found, self.drawn(codes_BKQ, text, kept_B, deterministic)

    def encoded(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """float32 [B, K, Q], before the quantizer. Pictures stay in [0, 1], as published."""
        x_BKD = self._seen(images, deterministic)
        if self.config.scrambled:
            rows, *shape = x_BKD.shape
            x_BKD = x_BKD.reshape(rows, *reversed(shape)).swapaxes(1, 2)
        return self.to_code(x_BKD)

    def features(self, images: jax.Array) -> jax.Array:
        """float32 [B, D]; see `Tokenizer.features`."""
        return jnp.mean(self._seen(images), axis=1)

    def _seen(self, images: jax.Array, deterministic: bool = True) -> jax.Array:
        """The encoder's output at the latent tokens, float32 [B, K, D]."""
        x_BTD = self.patches(to_patches(images, self.config.patch_size))
        latents_KD = self.latents()
        latents_BKD = jnp.broadcast_to(latents_KD[None], (images.shape[0], *latents_KD.shape))
        return self.encoder(x_BTD, latents_BKD, deterministic=deterministic)

    def encode(self, images: jax.Array) -> jax.Array:
        """float32 [B, height, width, 3] in [0, 1] -> codes of all K tokens."""
        return self.codebook(self.encoded(images)).ids

    def sampled(self, images: jax.Array) -> jax.Array:
        """The same of continuous codes, drawn where there is a key of the name `codes`."""
        return self.codebook(self.encoded(images)).codes

    def drawn(
        self,
        codes_BKQ: jax.Array,
        text: jax.Array | None = None,
        kept_B: jax.Array | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """float32 [B, height, width, 3], near [0, 1]; or logits of the proxy's codes [B, T, V].

        Args:
          codes_BKQ: as the quantizer gives them, of the first tokens or all.
          text: float32 [B, S, E], states of the words; None where no text guides.
          kept_B: see `LatentTransformer`.
          deterministic: whether nothing is dropped.
        """
        x_BKD, mask_1D = self.from_code(codes_BKQ), self.mask()
        cells = self.config.grid[0] * self.config.grid[1]
        masks_BTD = jnp.broadcast_to(mask_1D[None], (x_BKD.shape[0], cells, mask_1D.shape[1]))
        words_BSD = None if text is None else self.from_text(text)
        return self.head(self.decoder(masks_BTD, x_BKD, words_BSD, kept_B, deterministic))

    def decode(self, codes: jax.Array, text: jax.Array | None = None) -> jax.Array:
        """Codes [B, K] or [B, K, Q], of the first tokens or all, to what `drawn` gives."""
        return self.drawn(self.codebook.lookup(codes), text)


@dataclasses.dataclass(frozen=True)
class TiTokTokenizer(QuantizingTokenizer):
    """`Tokenizer` of a TiTok."""

    config: TiTokConfig
    level: str = ""

    # The second stage is trained on what the first one made.
    free_fields = ("through_proxy",)

    @property
    def network(self) -> TiTok:
        return TiTok(self.config)

    @property
    def proxy(self) -> Tokenizer | None:
        return None if self.config.proxy is None else make_proxy(self.config.proxy)

    @property
    def draws(self) -> bool:
        return self.config.proxy is None or self.config.through_proxy

    @property
    def levels(self) -> tuple[str, ...]:
        return tuple(map(str, reversed(self.config.nested))) or ("",)

    @property
    def tokens(self) -> int:
        """Codes of a picture, at this level."""
        return int(self.level or self.config.tokens)

    @property
    def codes(self) -> Codes:
        return Codes((self.tokens,), self.config.quantizer.vocab, self.channels)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.config.image_size

    @property
    def condition(self) -> tuple[int, ...]:
        text = self.config.text
        return () if text is None else (text.words, text.dim)

    @property
    def groups(self) -> dict[str, tuple[str, ...]]:
        text = () if self.config.text is None else ("from_text",)
        pixels = (PIXELS,) if self.config.through_proxy else ()
        return {
            "encoder": ("patches", "latents", "encoder", "to_code"),
            "quantizer": self.codebook,
            "decoder": ("from_code", "mask", *text, "decoder", "head", *pixels),
        }

    @property
    def code_fields(self) -> dict[str, Any]:
        config = self.config
        encoder = dataclasses.replace(config.encoder, dropout=0.0, attention_dropout=0.0)
        return {
            "encoder": without_compute(to_dict(encoder, defaults=False)),
            "quantizer": config.quantizer.code_fields,
            **{n: to_dict(getattr(config, n)) for n in ("tokens", "image_size", "patch_size")},
            "scrambled": config.scrambled,
        }

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {"encoder": self.config.encoder, "decoder": self.config.decoder}

    @property
    def needs(self) -> dict[str, Tokenizer]:
        return {} if self.draws else {PROXY: self.proxy}

    @property
    def borrowed(self) -> dict[str, str]:
        return {PIXELS: PROXY} if self.config.through_proxy else {}

    @property
    def output(self) -> str:
        return self.proxy.output if self.config.through_proxy else "rgb"

    @property
    def last(self) -> tuple[str, ...]:
        if self.config.through_proxy:
            return (PIXELS, *self.proxy.last)
        return ("head", "smooth", "weight") if self.draws else ()

    def init(self, key: jax.Array) -> Any:
        images = jnp.zeros((1, *self.image_size, CHANNELS), jnp.float32)
        text = jnp.zeros((1, *self.condition), jnp.float32) if self.condition else None
        params = self.network.init(key, images, text)["params"]
        if not self.config.through_proxy:
            return params
        whole = self.proxy.init(jax.random.fold_in(key, 1))
        return {**params, PIXELS: self.proxy.part(whole, ("quantizer", "decoder"))}

    def encode(self, params: Any, images: jax.Array) -> jax.Array:
        return self._apply(params, images, method="encode")[:, : self.tokens]

    def sampled(self, params: Any, images: jax.Array, key: jax.Array) -> jax.Array:
        codes = self._apply(params, images, method="sampled", rngs={"codes": key})
        return codes[:, : self.tokens]

    def features(self, params: Any, images: jax.Array) -> jax.Array:
        return self._apply(params, images, method="features")

    def decode(
        self, params: Any, codes: jax.Array, condition: jax.Array | None = None
    ) -> jax.Array:
        self.check_condition(condition)
        drawn = self._apply(params, codes, condition, method="decode")
        return jnp.clip(self.to_images(self.raw(params, drawn)), 0.0, 1.0)

    def forward(
        self,
        params: Any,
        images: jax.Array,
        key: jax.Array | None = None,
        frozen: Mapping[str, Any] | None = None,
        terms: tuple[str, ...] = (),
        condition: jax.Array | None = None,
    ) -> Reconstruction:
        self.check_condition(condition)
        rngs = None if key is None else {"dropout": key, "codes": jax.random.fold_in(key, 1)}
        found, drawn = self._apply(
            params,
            images,
            condition,
            # All of them: in training as many as are drawn for each picture.
            self.tokens if self.tokens < self.config.tokens else 0,
            deterministic=key is None,
            terms=terms,
            rngs=rngs,
        )
        found_terms, codes = dict(found.terms), found.ids[:, : self.tokens]
        if not self.draws:
            ids_BT = self.proxy.encode(frozen[PROXY], images)
            nll = optax.softmax_cross_entropy_with_integer_labels(drawn, ids_BT)
            found_terms["proxy"] = jnp.mean(nll)
            return Reconstruction(None, None, codes, found_terms, found)
        raw = self.raw(params, drawn)
        return Reconstruction(self.to_images(raw), raw, codes, found_terms, found)

    def reconstruct(
        self,
        params: Any,
        images: jax.Array,
        frozen: Mapping[str, Any] | None = None,
        condition: jax.Array | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """In the first stage the proxy draws, from the likeliest of its codes."""
        if self.draws or not frozen:
            codes = self.encode(params, images)
            return self.decode(params, codes, condition), codes
        self.check_condition(condition)
        codes = self.encode(params, images)
        logits_BTV = self._apply(params, codes, condition, method="decode")
        return self.proxy.decode(frozen[PROXY], jnp.argmax(logits_BTV, -1)), codes

    def to_images(self, raw: jax.Array) -> jax.Array:
        return self.proxy.to_images(raw) if self.config.through_proxy else raw

    def _apply(self, params: Any, *inputs: Any, **options: Any) -> Any:
        own = {name: tree for name, tree in params.items() if name != PIXELS}
        return self.network.apply({"params": own}, *inputs, **options)

    def raw(self, params: Any, drawn: jax.Array) -> jax.Array:
        """The decoder's own values, of what the network draws."""
        if self.config.proxy is None:
            return drawn
        if not self.config.through_proxy:
            raise UserError(
                "the tokenizer was trained on a proxy's codes and draws no pictures; train its "
                "second stage, with tokenizer.through_proxy=True and config.tokenizer_run"
            )
        return self.proxy.draw_mean(params[PIXELS], jax.nn.softmax(drawn))
