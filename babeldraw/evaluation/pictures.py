"""What evaluators that compare pictures with their originals share."""

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import numpy as np

from babeldraw.data.image import to_grid, to_uint8
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.records import Source
from babeldraw.evaluation import measures
from babeldraw.evaluation.base import Context, open_held_out
from babeldraw.evaluation.intervals import Figure, mean_figure
from babeldraw.judges import similarity
from babeldraw.judges.perceptual import PerceptualConfig, PerceptualNetwork
from babeldraw.objectives.base import Batch, TrainState
from babeldraw.say import say
from babeldraw.sharding.batch import place_batch, whole

# (state, images, originals), float32 [B, height, width, 3] in [0, 1] -> float32 [B].
Measure = Callable[[TrainState, jax.Array, jax.Array], jax.Array]
# A measure that is a tree of its own weights, so that they are an argument of the program.
Distance = jax.tree_util.Partial


def open_pictures(context: Context) -> Source:
    """The held-out pictures, captions or not; with them where the run reads them beside."""
    return open_held_out(context, captions=context.beside_text)


def picture_batches(
    source: Source, config: Any, context: Context, first_batch: int = 0
) -> Iterator[dict]:
    """This host's share of held-out pictures, `config.batch_size` of `config.num_examples` each."""
    text = {"vocabulary": context.vocabulary, "text_length": context.text_length}
    return eval_batches(
        source,
        batch_size=config.batch_size,
        image_size=context.image_size,
        num_examples=config.num_examples,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        first_batch=first_batch,
        **(text if context.beside_text else {}),
    )


def place_pictures(batch: dict, context: Context) -> Batch:
    """The pictures, their texts where they are read, and the mask, split over the mesh."""
    names = [name for name in ("image", "text", "mask") if name in batch]
    return place_batch({name: batch[name] for name in names}, context.mesh)


def perceptual_distances(fns: dict[str, Callable], config: PerceptualConfig) -> dict[str, Distance]:
    """LPIPS by the name of its figure; none where there is no file.

    `lpips` is of the network that the objective has, else of the one that the config names, whose
    name is the figure's where logits are compared; `lpips_alexnet` of the config's `judge`.

    Args:
      fns: the objective's `predict_fns`.
      config: the section `perceptual`; with a file, evaluators measure even where no loss does.
    """
    found = {}
    if "distance" in fns:
        found[config.figure] = Distance(fns["distance"])
    elif config.file:
        found[config.figure] = _distance(config, "config.perceptual.file")
    if config.judge:
        judge = PerceptualConfig(config.judge, network="alexnet")
        found["lpips_alexnet"] = _distance(judge, "config.perceptual.judge")
    return found


def _distance(config: PerceptualConfig, name: str) -> Distance:
    network = PerceptualNetwork(config)

    def distance(params: Any, state: TrainState, images: jax.Array, originals: jax.Array):
        return network.distance(params, images, originals)

    return Distance(distance, network.load(name))


def picture_measures(
    size: tuple[int, int], distances: Mapping[str, Distance]
) -> dict[str, Measure]:
    """The measures that apply to pictures of (height, width), by name.

    MS-SSIM of pictures that are too small for its five scales bears their number in its name
    (`ms_ssim_3_scales`): it is another figure.
    """

    def of_pixels(measure: Callable) -> Measure:
        return lambda state, images, originals: measure(images, originals)

    found = {"l1": of_pixels(measures.l1), "l2": of_pixels(measures.l2)}
    if min(size) >= similarity.SSIM_WINDOW:
        found["ssim"] = of_pixels(similarity.ssim)
    if (count := similarity.scales(size)) > 1:
        whole_set = count == len(similarity.SCALE_WEIGHTS)
        name = "ms_ssim" if whole_set else f"ms_ssim_{count}_scales"
        found[name] = of_pixels(similarity.ms_ssim)
    return {**found, **distances}


def measured(
    of: dict[str, Measure], state: TrainState, images: jax.Array, originals: jax.Array
) -> dict[str, jax.Array]:
    """Each measure of each picture, float32 [B]; padding has values too."""
    return {name: measure(state, images, originals) for name, measure in of.items()}


class Measured:
    """What was measured of pictures, on the host: a number for each, whatever the batches were."""

    def __init__(self):
        self._values: dict[str, list[np.ndarray]] = {}

    def add(self, values: dict[str, jax.Array], mask: np.ndarray) -> None:
        """float32 [B] of a batch, and which of its places hold a picture."""
        for name, value in values.items():
            self._values.setdefault(name, []).append(whole(value)[mask])

    def __len__(self) -> int:
        return sum(len(part) for part in next(iter(self._values.values()), []))

    def figures(self) -> Iterator[tuple[str, Figure]]:
        """psnr_db of the mean squared error, then the mean of each measure, with intervals."""
        found = {name: np.concatenate(parts) for name, parts in self._values.items()}
        yield "psnr_db", mean_figure(found["l2"], measures.psnr_db)
        for name, values in found.items():
            lost = np.count_nonzero(~np.isfinite(values))
            if lost:
                say(f"{name} of {lost} of {len(values)} pictures is not finite: NaN pixels?")
            yield name, mean_figure(values)


def picture_pairs(placed: Batch, images: jax.Array) -> list[tuple[np.ndarray, np.ndarray]]:
    """Each original that is there, uint8 [H, W, 3], with its reconstruction."""
    images = to_uint8(whole(images))
    slots = zip(whole(placed["image"]), images, whole(placed["mask"]), strict=False)
    return [(original, image) for original, image, there in slots if there]


def pairs_grid(pairs: list[tuple[np.ndarray, np.ndarray]]) -> np.ndarray:
    """A grid whose rows alternate originals and reconstructions, eight side by side."""
    columns = min(8, len(pairs))
    rows: list[np.ndarray] = []
    for start in range(0, len(pairs) - len(pairs) % columns, columns):
        originals, images = zip(*pairs[start : start + columns], strict=True)
        rows += [*originals, *images]
    return to_grid(np.stack(rows), columns)
