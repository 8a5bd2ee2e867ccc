"""Adafactor's first moment in int8, int16, bfloat16 and float32: does a small run learn as well?

    python docs/examples/adafactor_moments.py

trains one small encoder-decoder four times on the shapes world, from the same weights, on the same
batches, and draws the four losses into docs/images/adafactor_moments.png. Image tokens need no
tokenizer here: the named colour nearest to the mean of each 4x4 patch, eleven codes, 64 a picture.
The optimizer's constants are Parti's; the learning rate is that of a small model. Prints a table
as Markdown; the test loss is of 512 pictures with captions that training never showed.
"""

import argparse
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import matplotlib
import numpy as np

from babeldraw.data.shapes import BACKGROUNDS, COLOURS, example
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.babeldraw import BabeldrawConfig
from babeldraw.models.conditions import TextCondition
from babeldraw.models.kinds import make_generator
from babeldraw.objectives.base import TrainState, apply_gradients
from babeldraw.objectives.generator import GeneratorObjective
from babeldraw.optim.optimizer import OptimizerConfig, make_optimizer
from babeldraw.optim.schedules import ScheduleConfig
from babeldraw.prediction.next_token import NextToken
from babeldraw.tokenizers.kinds import make_tokenizer
from babeldraw.tokenizers.quantizers import VQConfig
from babeldraw.tokenizers.vit_vqgan import ViTVQGANConfig

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402

IMAGES = pathlib.Path(__file__).resolve().parents[1] / "images"
MOMENTS = ("float32", "bfloat16", "int16", "int8")
PALETTE = np.array([*COLOURS.values(), *BACKGROUNDS.values()], np.float32)
IMAGE_SIZE, PATCH, BATCH, TEST = 32, 4, 16, 512
STACK = TransformerConfig(blocks=2, heads=4, dim=64, hidden=256)
TOKENIZER = TransformerConfig(blocks=1, heads=1, dim=4, hidden=4)
# Every word of the world's captions has a number; 0 is padding.
WORDS: dict[str, int] = {}
TEXT_LENGTH = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--peak", type=float, default=5e-3, help="learning rate")
    args = parser.parse_args()
    train = [batch_of(step * BATCH, BATCH, "train") for step in range(args.steps)]
    test = batch_of(0, TEST, "test")
    objective = objective_of(MOMENTS[0], args)
    start = jax.jit(objective.init)(jax.random.key(0))
    loss = loss_of(start, objective)
    gradient, mean_loss = jax.jit(jax.value_and_grad(loss)), jax.jit(loss)
    results = {}
    for name in MOMENTS:
        losses, params = run(objective_of(name, args), start, gradient, train)
        results[name] = losses, float(mean_loss(params, test))
    draw(results)
    print("| first moment | loss, mean of the last 50 steps | test loss |")
    print("|---|---|---|")
    for name, (losses, test_loss) in results.items():
        print(f"| {name} | {np.mean(losses[-50:]):.4f} | {test_loss:.4f} |")


def batch_of(first: int, count: int, split: str) -> dict[str, np.ndarray]:
    """Tokens int32 [count, 64] and words int32 [count, TEXT_LENGTH] of a stretch of the world."""
    pictures, captions = zip(
        *(example(index, split, IMAGE_SIZE, 0) for index in range(first, first + count)),
        strict=True,
    )
    text = np.zeros((count, TEXT_LENGTH), np.int32)
    for row, caption in zip(text, captions, strict=True):
        ids = [WORDS.setdefault(word, len(WORDS) + 1) for word in caption.split()]
        row[: len(ids)] = ids
    return {"tokens": tokens_of(np.stack(pictures)), "text": text}


def tokens_of(pictures: np.ndarray) -> np.ndarray:
    """The named colour nearest to each patch's mean, in raster order."""
    side = IMAGE_SIZE // PATCH
    patches = pictures.reshape(-1, side, PATCH, side, PATCH, 3).astype(np.float32).mean((2, 4))
    distance = np.square(patches[..., None, :] - PALETTE).sum(-1)
    return distance.argmin(-1).reshape(len(pictures), side * side).astype(np.int32)


def objective_of(moment: str, args: argparse.Namespace) -> GeneratorObjective:
    """Everything but the learning rate and its steps is the default, as Parti was trained."""
    schedule = ScheduleConfig(args.peak, args.steps // 10, args.steps // 2, args.steps)
    tokenizer = make_tokenizer(
        ViTVQGANConfig(
            TOKENIZER, TOKENIZER, (IMAGE_SIZE, IMAGE_SIZE), PATCH, VQConfig(len(PALETTE), 4)
        )
    )
    words = TextCondition(vocab_size=40, length=TEXT_LENGTH, dropout=0.0)
    return GeneratorObjective(
        generator=make_generator(BabeldrawConfig(STACK, STACK), words, tokenizer.codes),
        prediction=NextToken(),
        tokenizer=tokenizer,
        optimizer=OptimizerConfig(schedule, moment_dtype=moment),
        batch_size=BATCH,
        stored_tokens=True,
    )


def loss_of(start: TrainState, objective: GeneratorObjective):
    """Mean loss of (params, batch): one program for all moments."""
    losses = objective.predict_fns()["loss"]
    return lambda params, batch: jnp.mean(losses(start.replace(params=params), batch))


def run(
    objective: GeneratorObjective, start: TrainState, gradient, train: list
) -> tuple[np.ndarray, Any]:
    """Losses of every step from the parameters of `start`, and the parameters at the end."""
    optimizer = make_optimizer(objective.optimizer, objective.axes().params)
    state = start.replace(opt_state=optimizer.init(start.params))
    update = jax.jit(lambda state, grads: apply_gradients(state, grads, optimizer))
    losses = []
    for batch in train:
        loss, grads = gradient(state.params, batch)
        state = update(state, grads)
        losses.append(loss)
    return np.array(jax.device_get(losses)), state.params


def draw(results: dict) -> None:
    """All losses, smoothed over ten steps; beside it, how far each is from float32."""
    figure, (whole, apart) = plt.subplots(1, 2, figsize=(9.5, 3.4), layout="constrained")
    smooth = {n: np.convolve(r[0], np.ones(10) / 10, "valid") for n, r in results.items()}
    for name, losses in smooth.items():
        thick = {"linewidth": 3.5, "alpha": 0.35} if name == "float32" else {"linewidth": 1.2}
        steps = np.arange(len(losses)) + 10
        whole.plot(steps, losses, label=f"{name}, test {results[name][1]:.3f}", **thick)
        apart.plot(steps, losses - smooth["float32"], label=name, **thick)
    whole.set(yscale="log", title="training loss, mean of ten steps", xlabel="step")
    apart.set(title="its distance from float32", xlabel="step")
    whole.legend(frameon=False)
    for axes in (whole, apart):
        axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(IMAGES / "adafactor_moments.png", dpi=130)


if __name__ == "__main__":
    main()
