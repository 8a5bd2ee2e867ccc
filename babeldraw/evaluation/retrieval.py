"""Finds the caption of a picture, and the picture of a caption, among those of a batch."""

import dataclasses
from collections.abc import Callable, Iterator

import jax
import numpy as np

from babeldraw.config import require
from babeldraw.data.image import to_grid
from babeldraw.data.pipeline import eval_batches
from babeldraw.evaluation.base import Context, HeldOut, Value, open_held_out
from babeldraw.evaluation.intervals import mean_figure
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch, whole


@dataclasses.dataclass(frozen=True)
class RetrievalConfig:
    """Attributes:
    num_examples: held-out pairs, at most.
    batch_size: among how many each is looked for.
    num_shown: pairs in the picture of similarities.
    """

    num_examples: int = 1024
    batch_size: int = 64
    num_shown: int = 12

    def __post_init__(self):
        for name, least in (("num_examples", 1), ("batch_size", 2), ("num_shown", 1)):
            value = getattr(self, name)
            require(
                value >= least,
                f"config.evaluators.retrieval.{name} is {value}; at least {least} is needed",
            )

    def tiny(self) -> "RetrievalConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_examples=8, batch_size=8)


class Retrieval(HeldOut):
    """`image_to_text`, `text_to_image`: shares whose nearest counterpart in the batch is right.

    A counterpart with the same caption is right too. `similarities` shows held-out pictures in a
    row, under each its similarity to their captions, one caption a line in the same order, from
    black, the least, to white: a white diagonal is right.
    """

    def __init__(self, embed: Callable, config: RetrievalConfig, context: Context):
        self._embed = jax.jit(embed)
        self._config, self._context = config, context

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        right, shown = [], None
        for batch in self._batches():
            names = ("image", "text", "mask")
            inputs = place_batch({name: batch[name] for name in names}, self._context.mesh)
            batch = {name: whole(array) for name, array in inputs.items()}
            real = batch["mask"]
            del inputs["mask"]
            image_BQ, text_BQ = map(whole, self._embed(state, inputs))
            similarity = image_BQ[real] @ text_BQ[real].T
            right.append(found(similarity, batch["text"][real]))
            if shown is None:
                shown = _picture(batch["image"][real], similarity, self._config.num_shown)
        right = np.concatenate(right, axis=1)
        require(right.size > 0, "no held-out pair could be read")
        to_text, to_image = map(mean_figure, right)
        yield "image_to_text", to_text
        yield "text_to_image", to_image
        yield "similarities", shown

    def _batches(self) -> Iterator[dict]:
        context = self._context
        source = open_held_out(context)
        return eval_batches(
            source,
            batch_size=self._config.batch_size,
            image_size=context.image_size,
            vocabulary=context.vocabulary,
            text_length=context.text_length,
            num_examples=self._config.num_examples,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        )


def found(similarity: np.ndarray, text: np.ndarray) -> np.ndarray:
    """Whether each picture finds a text that is its own, and each text a picture of it.

    Args:
      similarity: float [B, B], pictures by texts.
      text: int32 [B, S]; equal rows are equal captions.

    Returns:
      bool [2, B]: by picture, by text.
    """
    nearest = np.stack([similarity.argmax(axis=1), similarity.argmax(axis=0)])
    return np.all(text[nearest] == text[None], axis=-1)


def _picture(images: np.ndarray, similarity: np.ndarray, count: int) -> np.ndarray:
    """uint8 [H, W, 3]: a row of pictures and under it a square for each similarity."""
    images, table = images[:count], similarity[:count, :count].T
    shades = (table - table.min()) / max(float(np.ptp(table)), 1e-6)
    cells = np.broadcast_to(shades.reshape(-1, 1, 1, 1), (table.size, *images.shape[1:]))
    return np.concatenate([to_grid(images, len(images)), to_grid(cells, len(images))])
