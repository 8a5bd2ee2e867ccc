"""From conditions to pixels: the two compiled programs behind every sampler."""

import contextlib
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import center_crop, to_uint8
from babeldraw.drawing.editing import Canvas, keep_first, keep_rows, keep_unmasked
from babeldraw.drawing.tokenizers import other_decoder
from babeldraw.drawing.upscaling import SuperResolutionRun
from babeldraw.prediction.logits import SamplingConfig, Settings
from babeldraw.prediction.next_token import AutoregressiveGenerator, Given, decode
from babeldraw.runs.checkpoints import on_first_device, placed, restore_subset
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.sharding.constraint import logical_axes, shardings
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import MeshConfig, first_devices, make_mesh
from babeldraw.tokenizers.base import Codes, Tokenizer, identity
from babeldraw.tokenizers.kinds import read_tokenizer

# Pictures are decoded to pixels so many at a time, so that memory stays bounded.
PIXELS_AT_A_TIME = 16


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Attributes:
    generator: draws tokens.
    tokenizer: draws pixels from tokens.
    params: {"generator": ..., "tokenizer": ...}.
    super_resolution: makes each picture larger; None leaves it as the tokenizer gives it.
    layout: where the generator's arrays lie; None: one device.
    """

    generator: AutoregressiveGenerator
    tokenizer: Tokenizer
    params: dict[str, Any]
    super_resolution: SuperResolutionRun | None = None
    layout: Layout | None = None

    def tokens(
        self,
        conditions: np.ndarray,
        seeds: np.ndarray,
        settings: SamplingConfig,
        canvas: Canvas | None = None,
    ) -> np.ndarray:
        """Draws pictures as tokens.

        One program serves all seeds, settings, conditions and canvases; another is compiled for
        another number of conditions or of pictures (both are rounded up to a power of two), for
        guidance off, and for a canvas.

        Args:
          conditions: [P, ...], as the generator takes them.
          seeds: int [P, n], of n pictures of each condition, each in [0, 2^31).
          settings: temperature, filters, guidance.
          canvas: what is kept of a picture, in all of these; None: nothing.

        Returns:
          Codes [P, n, ...], int32 [P, n, T] for those of one factor.
        """
        wanted = seeds.shape
        size = tuple(power_of_two(n) for n in wanted)
        conditions = conditions[np.arange(size[0]) % wanted[0]]
        rows = seeds[np.arange(size[0]) % wanted[0]][:, np.arange(size[1]) % wanted[1]]
        given = None
        if canvas is not None:
            given = Given(
                np.broadcast_to(canvas.tokens, (rows.size, *canvas.tokens.shape)),
                np.broadcast_to(canvas.kept, (rows.size, *canvas.kept.shape)),
            )
        tokens_BT = self._tokens(
            self.params["generator"],
            conditions,
            rows.reshape(-1).astype(np.uint32),
            Settings.of(settings),
            given,
            settings.guided,
        )
        tokens = np.asarray(tokens_BT)
        tokens = tokens.reshape(*size, *tokens.shape[1:])
        return tokens[: wanted[0], : wanted[1]]

    def pixels(self, tokens: np.ndarray) -> np.ndarray:
        """Codes [N, ...] -> uint8 [N, height, width, 3], a few pictures at a time."""
        count = min(power_of_two(len(tokens)), PIXELS_AT_A_TIME)
        parts = []
        for start in range(0, len(tokens), count):
            rows = tokens[np.arange(start, start + count) % len(tokens)]
            images = self._pixels(self.params["tokenizer"], rows)
            if self.super_resolution is not None:
                images = self.super_resolution.upscale(images)
            parts.append(to_uint8(np.asarray(images)))
        return np.concatenate(parts)[: len(tokens)]

    def canvas(
        self,
        image: np.ndarray,
        rows: int | None = None,
        count: int | None = None,
        mask: np.ndarray | None = None,
    ) -> Canvas:
        """A picture to go on from; see `Sampler.canvas`."""
        given = {"rows": rows, "count": count, "mask": mask}
        names = [name for name, value in given.items() if value is not None]
        require(
            len(names) == 1,
            f"of rows, count and mask {', '.join(names) or 'none'} is given; give exactly one",
        )
        codes, size = self.generator.codes, self.tokenizer.image_size
        if rows is not None:
            kept = keep_rows(rows, codes)
        elif count is not None:
            kept = keep_first(count, codes)
        else:
            kept = keep_unmasked(mask, image.shape[:2], size, codes)
        return Canvas(self.encode(center_crop(image, size)), kept)

    def encode(self, image: np.ndarray) -> np.ndarray:
        """uint8 [height, width, 3], of the tokenizer's size -> its codes."""
        images = (image.astype(np.float32) / 255)[None]
        return np.asarray(self._encode(self.params["tokenizer"], images))[0]

    @functools.cached_property
    def _tokens(self):
        def draw(params, conditions, seeds_B, settings, given, guided):
            keys_B = jax.vmap(jax.random.key)(seeds_B)
            with contextlib.nullcontext() if self.layout is None else use(self.layout):
                return decode(self.generator, params, conditions, keys_B, settings, given, guided)

        return jax.jit(draw, static_argnums=5)

    @functools.cached_property
    def _pixels(self):
        return jax.jit(self.tokenizer.decode)

    @functools.cached_property
    def _encode(self):
        return jax.jit(self.tokenizer.encode)


def power_of_two(count: int) -> int:
    """The least power of two that is at least `count`."""
    return 1 << (count - 1).bit_length()


def open_drawer(
    workdir: str,
    make_generator: Callable[[Codes], Any],
    *,
    super_resolution: str,
    tokenizer_run: str,
    mesh: MeshConfig | None,
    weights: str = "",
) -> tuple[Drawer, int]:
    """The networks and the newest weights of a run, and the step that they are of.

    Args:
      workdir: folder of a run whose generator draws a tokenizer's tokens.
      make_generator: the generator, given what it predicts.
      super_resolution, tokenizer_run, mesh, weights: see `sampler.Sampler.from_run`.

    Raises:
      UserError: no checkpoint yet, super-resolution or a decoder that was trained on another
        tokenizer, or too few devices.
    """
    folder = RunFolder.of(workdir)
    config = folder.read_config()
    tokenizer = read_tokenizer(config)
    generator = make_generator(tokenizer.codes)
    # As many devices as are asked for; the others stay idle.
    layout = None if mesh is None else make_layout(mesh, make_mesh(mesh, first_devices(mesh)))
    frozen = {"tokenizer": nn.unbox(jax.eval_shape(tokenizer.init, jax.random.key(0)))}
    weights = weights_in(config, weights)
    abstract = {
        weights: _abstract_generator(generator, layout),
        "frozen": on_first_device(frozen),
    }
    step, state = restore_subset(folder.checkpoints, abstract)
    decoder = state["frozen"]["tokenizer"]
    own = identity(tokenizer, decoder)
    if tokenizer_run:
        tokenizer, decoder = other_decoder(tokenizer_run, own)
    upscaler = SuperResolutionRun.open(super_resolution) if super_resolution else None
    if upscaler is not None:
        require(
            upscaler.tokenizer == own,
            f"--super_resolution={super_resolution} was trained on pictures of the tokenizer "
            f"{upscaler.tokenizer} and {workdir} draws with {own}; name one of the same",
        )
    # Once, here: inside the program it would be done anew for every batch.
    params = {"generator": generator.for_decoding(state[weights]), "tokenizer": decoder}
    return Drawer(generator, tokenizer, params, upscaler, layout), step


def _abstract_generator(generator: Any, layout: Layout | None) -> Any:
    """Shapes of a generator's parameters and where they shall lie; without layout, one device."""
    boxed = jax.eval_shape(generator.init, jax.random.key(0))
    abstract = nn.unbox(boxed)
    if layout is None:
        return on_first_device(abstract)
    axes = logical_axes(boxed)
    return placed(abstract, shardings(axes, abstract, layout.mesh, layout.preset.used))
