"""From conditions to pixels: the compiled programs behind every sampler."""

import contextlib
import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import center_crop, to_uint8
from babeldraw.data.vocabularies import vocabulary_of
from babeldraw.drawing.canvas import Canvas, keep_first, keep_rows, keep_unmasked
from babeldraw.drawing.clusters import check_clustered, read_clusters
from babeldraw.drawing.stages import Stage, open_stages
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.models.base import Generator
from babeldraw.models.condition import Condition, Lexicon, stacked
from babeldraw.models.kinds import read_condition, read_generator
from babeldraw.prediction.base import Given, Prediction
from babeldraw.prediction.kinds import read_prediction
from babeldraw.runs.checkpoints import on_first_device, placed
from babeldraw.runs.folder import RunFolder
from babeldraw.runs.opened import Opened, open_part
from babeldraw.sharding.constraint import logical_axes, shardings
from babeldraw.sharding.layout import Layout, make_layout, use
from babeldraw.sharding.mesh import MeshConfig, first_devices, make_mesh
from babeldraw.tokenizers.base import Tokenizer, identity
from babeldraw.tokenizers.kinds import read_tokenizer

# Pictures are decoded to pixels so many at a time, so that memory stays bounded.
PIXELS_AT_A_TIME = 16
# What a seed's key is folded with in a later stage of a cascade: no number of a step or of a code.
CASCADE = (1 << 30) + 16


@dataclasses.dataclass(frozen=True)
class Drawer:
    """Attributes:
    generator, prediction: draw codes.
    tokenizer: draws pixels from codes.
    params: {"generator": ..., "tokenizer": ...}, and of what conditions are encoded by.
    stages: what is done to the tokenizer's pictures.
    layout: where the generator's arrays lie; None: one device.
    clusters: of its codes, int32 [V], for cluster sampling; None: there are none.
    number: its place in a cascade, from 0 on, which has a part in the keys.
    """

    generator: Generator
    prediction: Prediction
    tokenizer: Tokenizer
    params: dict[str, Any]
    stages: tuple[Stage, ...] = ()
    layout: Layout | None = None
    clusters: np.ndarray | None = None
    number: int = 0

    def check_sampling(self, settings: Any) -> None:
        """Raises `UserError` where it cannot draw so."""
        self.prediction.check_sampling(settings, self.generator)
        wanted = getattr(settings, "clusters", 0)
        if not wanted:
            return
        check_clustered(self.generator, f"clusters is {wanted}")
        require(
            self.clusters is not None,
            f"clusters is {wanted} and the run's codes are in none; find them with `babeldraw "
            "clusters`",
        )
        there = int(self.clusters.max()) + 1
        require(
            wanted <= there,
            f"clusters is {wanted} and the run's codes are in {there}; take at most that many",
        )

    def _traced(self, settings: Any) -> Any:
        """Settings as the program takes them, with what the run knows of its codes."""
        traced = settings.traced()
        if not getattr(settings, "clusters", 0):
            return traced
        return traced.replace(labels=self.clusters)

    def at(self, level: str) -> "Drawer":
        """The same weights, drawing into a level of the tokenizer; empty: the own.

        Raises:
          UserError: there is no such level, or the run draws into one, or stages for one follow.
        """
        own = self.tokenizer.level
        if level in ("", own):
            return self
        tokenizer = self.tokenizer.at(level)
        require(
            self.generator.levels is not None,
            f"level is {level!r} and the run draws into {own} alone; leave it out, or train one "
            "with config.levels",
        )
        require(
            not self.stages,
            f"level is {level!r} and what follows was trained on pictures of level {own}; leave "
            "one of the two out",
        )
        if level not in self._levels:
            generator = self.generator.at(level)
            self._levels[level] = dataclasses.replace(
                self, generator=generator, tokenizer=tokenizer
            )
        return self._levels[level]

    @functools.cached_property
    def _levels(self) -> dict[str, "Drawer"]:
        """Those of other levels, each with its compiled programs."""
        return {}

    def tokens(
        self,
        conditions: Sequence[Any],
        seeds: np.ndarray,
        settings: Any,
        canvases: Sequence[Canvas] | None = None,
    ) -> np.ndarray:
        """Draws pictures as tokens.

        Both numbers, of conditions and of pictures, are rounded up to a power of two for `drawn`.

        Args:
          conditions: P rows, as `Condition.ask` gives them.
          seeds: int [P, n], of n pictures of each condition, each in [0, 2^31).
          settings: of the prediction's `sampling`.
          canvases: what is kept of a picture, of each condition; None: nothing.

        Returns:
          Codes [P, n, ...], int32 [P, n, T] for those of one factor.
        """
        wanted = seeds.shape
        size = tuple(power_of_two(n) for n in wanted)
        which = np.arange(size[0]) % wanted[0]
        condition = stacked([conditions[i] for i in which])
        rows = seeds[which][:, np.arange(size[1]) % wanted[1]]
        given = None
        if canvases is not None:
            laid = [canvases[i] for i in which for _ in range(size[1])]
            given = Given(
                np.stack([one.tokens for one in laid]), np.stack([one.kept for one in laid])
            )
        tokens = self.drawn(condition, rows.reshape(-1), settings, given)
        tokens = tokens.reshape(*size, *tokens.shape[1:])
        return tokens[: wanted[0], : wanted[1]]

    def drawn(
        self, condition: Any, seeds: np.ndarray, settings: Any, given: Given | None
    ) -> np.ndarray:
        """Codes [B, ...] of P conditions, B / P pictures of each, which stand together.

        One program serves all seeds, settings, conditions and given codes; another is compiled for
        another P or B, for guidance off, and where nothing is given.

        Args:
          condition: P rows of `Condition.ask`, stacked.
          seeds: int [B], each in [0, 2^31).
          settings: of the prediction's `sampling`.
          given: codes of each picture that are there; None: none are.
        """
        codes = self._tokens(
            self.params["generator"],
            self._as_read(condition),
            seeds.astype(np.uint32),
            self._traced(settings),
            given,
            settings.guided,
        )
        return np.asarray(codes)

    def pixels(self, tokens: np.ndarray, conditions: Sequence[Any] = ()) -> np.ndarray:
        """Codes [N, ...] -> uint8 [N, height, width, 3], a few pictures at a time.

        Args:
          tokens: the codes.
          conditions: of each picture a row as `Condition.ask` gives it; read by a decoder that
            draws beside a text alone.
        """
        count = min(power_of_two(len(tokens)), PIXELS_AT_A_TIME)
        parts = []
        for start in range(0, len(tokens), count):
            rows = np.arange(start, start + count) % len(tokens)
            beside = self._beside(conditions, rows)
            images = self._pixels(self.params["tokenizer"], tokens[rows], **beside)
            for stage in self.stages:
                images = stage.apply(images)
            parts.append(to_uint8(np.asarray(images)))
        return np.concatenate(parts)[: len(tokens)]

    def _beside(self, conditions: Sequence[Any], rows: np.ndarray) -> dict[str, jax.Array]:
        """`condition`, states of the text of each row, where the decoder draws beside them."""
        if not (self.tokenizer.condition and conditions):
            return {}
        condition = stacked([conditions[row] for row in rows])
        return {"condition": self.generator.condition.states(self._as_read(condition))}

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

    def _as_read(self, condition: Any) -> Any:
        """Conditions as the generator reads them, wherever it lies."""
        needs = self.generator.condition.needs
        if not needs:
            return condition
        frozen = {name: self.params[name] for name in needs}
        return jax.device_get(self._encoded(frozen, condition))

    @functools.cached_property
    def _encoded(self):
        return jax.jit(self.generator.condition.encoded)

    @functools.cached_property
    def _tokens(self):
        def draw(params, condition, seeds_B, settings, given, guided):
            keys_B = jax.vmap(jax.random.key)(seeds_B)
            if self.number:
                keys_B = jax.vmap(jax.random.fold_in, (0, None))(keys_B, CASCADE + self.number)
            with contextlib.nullcontext() if self.layout is None else use(self.layout):
                return self.prediction.draw(
                    self.generator, params, condition, keys_B, settings, given, guided
                )

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
    *,
    stages: Sequence[str] = (),
    tokenizer_run: str = "",
    mesh: MeshConfig | None = None,
    weights: str = "",
) -> tuple[Drawer, Opened]:
    """The networks and the newest weights of a run, and what was read of it.

    Args:
      workdir: folder of a generator's run.
      stages: folders of what is done to its pictures, as `stages.by_kind` gives them.
      tokenizer_run, mesh, weights: see `sampler.Sampler.from_run`.

    Raises:
      UserError: no checkpoint yet, stages or a decoder that were trained on another tokenizer, or
        too few devices.
    """
    # As many devices as are asked for; the others stay idle.
    layout = None if mesh is None else make_layout(mesh, make_mesh(mesh, first_devices(mesh)))

    def frozen(config):
        parts = {"tokenizer": read_tokenizer(config), **read_condition(config).needs}
        return {
            name: nn.unbox(jax.eval_shape(part.init, jax.random.key(0)))
            for name, part in parts.items()
        }

    opened = open_part(
        workdir,
        ("generator",),
        lambda config: read_generator(config, read_tokenizer(config)),
        frozen=frozen,
        weights=weights,
        place=lambda boxed: _placed(boxed, layout),
    )
    generator, prediction = opened.part, read_prediction(opened.config)
    prediction.check(generator)
    tokenizer, decoder = read_tokenizer(opened.config), opened.frozen["tokenizer"]
    own = identity(tokenizer, decoder)
    if tokenizer_run:
        other = TokenizerRun.open(tokenizer_run, codes_of=own, level=tokenizer.level)
        _check_beside(generator.condition, opened.frozen, other, tokenizer_run)
        tokenizer, decoder = other.tokenizer, other.params
    # Once, here: inside the program it would be done anew for every batch.
    params = {**opened.frozen, "tokenizer": decoder}
    params["generator"] = generator.for_decoding(opened.params)
    found, clusters = open_stages(stages, own), read_clusters(opened.folder, generator.codes.vocab)
    drawer = Drawer(generator, prediction, tokenizer, params, found, layout, clusters)
    return drawer, opened


def _check_beside(condition: Condition, frozen: Any, other: TokenizerRun, name: str) -> None:
    """Refuses a decoder that draws beside a text for a run that has not the same states of one."""
    wanted = other.tokenizer.condition
    alike = other.text is None or other.text.read_alike(frozen)
    require(
        not wanted or (wanted == condition.states_shape and alike),
        f"the tokenizer {name} draws beside states of a text, {wanted}, which the run, drawing "
        f"from {condition.drawn_from} (kind={condition.kind}), has not; name a decoder without "
        "tokenizer.text, or of the same encoder",
    )


def read_lexicon(folder: RunFolder, condition: Condition) -> Lexicon:
    """What a run that draws from such a condition knows of words."""
    vocabulary = None
    if condition.text_length:
        vocabulary = vocabulary_of(folder, condition.vocabulary)
    return Lexicon(vocabulary, folder.read_classes())


def _placed(boxed: Any, layout: Layout | None) -> Any:
    """Shapes of a generator's parameters and where they shall lie; without layout, one device."""
    abstract = nn.unbox(boxed)
    if layout is None:
        return on_first_device(abstract)
    axes = logical_axes(boxed)
    return placed(abstract, shardings(axes, abstract, layout.mesh, layout.preset.used))
