"""What a generator has understood: a softmax layer on the frozen features of each of its blocks.

Yu et al., "Vector-quantized Image Modeling with Improved VQGAN", ICLR 2022, section 5.3, after iGPT
(Chen et al., 2020). The paper gives neither optimizer nor epochs.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from babeldraw.config import require, to_dict
from babeldraw.data.image import decode
from babeldraw.data.pipeline import eval_batches
from babeldraw.data.records import Source, classes_of
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, Value, open_held_out, open_spread
from babeldraw.objectives.base import TrainState
from babeldraw.sharding.batch import place_batch, whole

OPTIMIZERS = ("adamw", "sgd")
TOP = 5


@dataclasses.dataclass(frozen=True)
class LinearProbeConfig:
    """Attributes:
    blocks: whose outputs are probed, 0 (tokens plus positions) to the number of blocks; empty: all.
    num_train, num_test: pictures, at most, of the data's two splits.
    epochs: passes over the training features.
    batch_size: of features in training, and of pictures in making them.
    optimizer: adamw, or sgd with momentum 0.9; the rate falls to 0 on a cosine.
    learning_rate: at the start.
    weight_decay: decoupled, on the layer's matrix.
    pixels: also probes the raw pictures, made this small a square; 0: does not.
    """

    blocks: tuple[int, ...] = ()
    num_train: int = 50_000
    num_test: int = 10_000
    epochs: int = 50
    batch_size: int = 128
    optimizer: str = "adamw"
    learning_rate: float = 1e-2
    weight_decay: float = 1e-2
    pixels: int = 0

    def __post_init__(self):
        path, least = "config.evaluators.linear_probe", {"weight_decay": 0, "pixels": 0}
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name in ("blocks", "optimizer", "learning_rate"):
                continue
            minimum = least.get(field.name, 1)
            require(
                value >= minimum, f"{path}.{field.name} is {value}; at least {minimum} is needed"
            )
        require(self.learning_rate > 0, f"{path}.learning_rate is {self.learning_rate}; above 0")
        require(
            self.optimizer in OPTIMIZERS,
            f"{path}.optimizer is {self.optimizer!r}; the choices are {', '.join(OPTIMIZERS)}",
        )

    def tiny(self) -> "LinearProbeConfig":
        """The same for a first run."""
        return dataclasses.replace(self, num_train=16, num_test=8, epochs=1, batch_size=8)


@dataclasses.dataclass(frozen=True)
class Examples:
    """Attributes:
    features: float32 [N, L, D], of L blocks.
    pixels: float32 [N, 1, P]; P is 0 where none are wanted.
    label: int32 [N].
    """

    features: np.ndarray
    pixels: np.ndarray
    label: np.ndarray


class LinearProbe:
    """`top1_block_L` and `top5_block_L` for each block, the best, and the picture `curve`.

    Features lie in memory, 4 bytes x pictures x blocks x width: name few blocks, or one, of a large
    model. All layers are trained at once, on features scaled to mean 0 and variance 1. `top5` is
    left out where there are no more than five classes.

    Args:
      features: (state, batch) -> float32 [B, L + 1, D].
      num_blocks: L.
    """

    def __init__(
        self, features: Callable, config: LinearProbeConfig, context: Context, num_blocks: int
    ):
        check_blocks(config.blocks, num_blocks)
        self._blocks = config.blocks or tuple(range(num_blocks + 1))
        chosen = np.array(self._blocks)
        self._features = jax.jit(lambda state, batch: features(state, batch)[:, chosen])
        self._config, self._context = config, context

    def check(self) -> None:
        """Raises what opening either split would raise, and where one has no classes."""
        for split in (self._context.data.split, self._context.data.eval_split):
            self._open(split)

    def protocol(self) -> dict[str, Any]:
        data = self._context.data
        pictures = {"source": data.source, "train": data.split, "held_out": data.eval_split}
        return {"pictures": pictures, "probe": to_dict(self._config)}

    def run(self, state: TrainState) -> Iterator[tuple[str, Value]]:
        config, data = self._config, self._context.data
        train, classes = self._examples(state, data.split, config.num_train)
        test, _ = self._examples(state, data.eval_split, config.num_test)
        scores = probe(train.features, train.label, test.features, test.label, classes, config)
        curves: dict[str, np.ndarray] = {}
        for name, values in scores.items():
            curves[name] = values
            for block, value in zip(self._blocks, values, strict=True):
                yield f"{name}_block_{block:02d}", float(value)
        best = int(np.argmax(scores["top1"]))
        yield "best_block", float(self._blocks[best])
        yield "best_top1", float(scores["top1"][best])
        raw = {}
        if config.pixels:
            raw = probe(train.pixels, train.label, test.pixels, test.label, classes, config)
            for name, values in raw.items():
                yield f"{name}_pixels", float(values[0])
        yield "curve", draw_curve(self._blocks, curves, raw)

    def _examples(self, state: TrainState, split: str, count: int) -> tuple[Examples, int]:
        """Features of the first `count` pictures that have a label, and the number of classes."""
        context, config = self._context, self._config
        source = self._open(split)
        features, pixels, labels = [], [], []
        for batch in eval_batches(
            source,
            batch_size=config.batch_size,
            image_size=context.image_size,
            num_examples=count,
            process_index=jax.process_index(),
            process_count=jax.process_count(),
        ):
            names = ("image", "tokens", "label", "mask")
            inputs = {name: batch[name] for name in names if name in batch}
            placed = place_batch(inputs, context.mesh)
            batch = inputs = {name: whole(array) for name, array in placed.items()}
            kept = batch["mask"] & (batch["label"] >= 0)
            del placed["label"], placed["mask"]
            found = whole(self._features(state, placed))
            features.append(found[kept])
            pixels.append(_small(inputs, config.pixels)[kept])
            labels.append(batch["label"][kept])
        label = np.concatenate(labels)
        require(len(label) > 0, f"no record of {source.name} has a label")
        examples = Examples(np.concatenate(features), np.concatenate(pixels), label)
        return examples, len(classes_of(source))

    def _open(self, split: str) -> Source:
        """The data of a split. Raises `UserError` where they have no classes."""
        context = self._context
        if split == context.data.eval_split:
            source = open_held_out(context, captions=False)
        else:
            source = open_spread(context, split, captions=False)
        require(
            len(classes_of(source)) > 1,
            f"{source.name} has no classes, and config.evaluators.linear_probe needs some; set it "
            "to None, or name data with some",
        )
        return source


def check_blocks(blocks: tuple[int, ...], num_blocks: int) -> None:
    """Refuses blocks that a model of so many does not have."""
    for block in blocks:
        require(
            0 <= block <= num_blocks,
            f"config.evaluators.linear_probe.blocks holds {block}; the blocks are 1 to "
            f"{num_blocks}, and 0 is what the first reads",
        )


def probe(
    train_NLD: np.ndarray,
    train_label: np.ndarray,
    test_NLD: np.ndarray,
    test_label: np.ndarray,
    classes: int,
    config: LinearProbeConfig,
) -> dict[str, np.ndarray]:
    """Trains a softmax layer for each of L features and counts how often it is right.

    Args:
      train_NLD, train_label, classes, config: as of `probe_logits`.
      test_NLD, test_label: float32 features and int32 [N].

    Returns:
      {"top1": float [L]}, and "top5" with more than five classes.
    """
    logits_NLK = probe_logits(train_NLD, train_label, test_NLD, classes, config)
    return _right(logits_NLK, test_label)


def probe_logits(
    train_NLD: np.ndarray,
    train_label: np.ndarray,
    test_NLD: np.ndarray,
    classes: int,
    config: Any,
) -> np.ndarray:
    """What a softmax layer for each of L features, trained, makes of others: float32 [N, L, K].

    Args:
      train_NLD, test_NLD: float32 features.
      train_label: int32 [N] in [0, classes).
      classes: K.
      config: epochs, batch_size, optimizer, learning_rate, weight_decay, as `LinearProbeConfig` has
        them; the same order of examples at each call.
    """
    mean, scale = train_NLD.mean(axis=0), train_NLD.std(axis=0) + 1e-6
    layers, dim = train_NLD.shape[1:]
    size = min(config.batch_size, len(train_label))
    steps = config.epochs * (len(train_label) // size)
    optimizer = _optimizer(config, steps)
    params = {
        "weight": jnp.zeros((layers, dim, classes), jnp.float32),
        "bias": jnp.zeros((layers, classes), jnp.float32),
    }
    update = _update(optimizer)
    opt_state, rng = optimizer.init(params), np.random.default_rng(0)
    for _ in range(config.epochs):
        order = rng.permutation(len(train_label))
        for start in range(0, len(order) - size + 1, size):
            rows = order[start : start + size]
            x_BLD = (train_NLD[rows] - mean) / scale
            params, opt_state = update(params, opt_state, x_BLD, train_label[rows])
    return np.concatenate(
        [
            np.asarray(_logits(params, (test_NLD[start : start + size] - mean) / scale))
            for start in range(0, len(test_NLD), size)
        ]
    )


def _optimizer(config: Any, steps: int) -> optax.GradientTransformation:
    rate = optax.cosine_decay_schedule(config.learning_rate, steps)
    mask = {"weight": True, "bias": False}
    if config.optimizer == "adamw":
        return optax.adamw(rate, weight_decay=config.weight_decay, mask=mask)
    decay = optax.add_decayed_weights(config.weight_decay, mask)
    return optax.chain(decay, optax.sgd(rate, momentum=0.9))


def _logits(params: Mapping[str, jax.Array], x_BLD: jax.Array) -> jax.Array:
    products_BLK = jnp.einsum("BLD,LDK->BLK", x_BLD, params["weight"])
    return products_BLK + params["bias"][None]


def _update(optimizer: optax.GradientTransformation) -> Callable:
    def loss(params, x_BLD, label_B):
        log_BLK = jax.nn.log_softmax(_logits(params, x_BLD))
        right_BL = jnp.take_along_axis(log_BLK, label_B[:, None, None], axis=-1)
        # A sum over layers: each has its own gradient, as if it were alone.
        return -jnp.sum(jnp.mean(right_BL, axis=0))

    @functools.partial(jax.jit, donate_argnums=(0, 1))
    def update(params, opt_state, x_BLD, label_B):
        grads = jax.grad(loss)(params, x_BLD, label_B)
        # optax mixes float32 with integer counts, which strict promotion refuses.
        with jax.numpy_dtype_promotion("standard"):
            updates, opt_state = optimizer.update(grads, opt_state, params)
        return optax.apply_updates(params, updates), opt_state

    return update


def _right(logits_NLK: np.ndarray, label_N: np.ndarray) -> dict[str, np.ndarray]:
    own_NL1 = np.take_along_axis(logits_NLK, label_N[:, None, None], axis=-1)
    rank_NL = (logits_NLK > own_NL1).sum(axis=-1)
    found = {"top1": (rank_NL < 1).mean(axis=0)}
    if logits_NLK.shape[-1] > TOP:
        found[f"top{TOP}"] = (rank_NL < TOP).mean(axis=0)
    return found


def _small(inputs: Mapping[str, np.ndarray], side: int) -> np.ndarray:
    """float32 [B, 1, side * side * 3]: the pictures themselves, small."""
    if "image" not in inputs or side == 0:
        if side:
            raise UserError("config.evaluators.linear_probe.pixels needs pictures, not tokens")
        return np.zeros((len(next(iter(inputs.values()))), 1, 0), np.float32)
    images = inputs["image"].astype(np.float32) / 255
    small = jax.image.resize(images, (len(images), side, side, 3), "linear")
    return np.asarray(small).reshape(len(images), 1, -1)


def draw_curve(
    blocks: tuple[int, ...], curves: Mapping[str, np.ndarray], raw: Mapping[str, np.ndarray]
) -> np.ndarray:
    """uint8 [H, W, 3]: accuracy in per cent over the block's number; raw pixels as dashed lines."""
    # Without pyplot, which would keep figures and look for a display.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4), dpi=100, layout="constrained")
    axes = figure.add_subplot()
    for index, (name, values) in enumerate(curves.items()):
        colour = f"C{index}"
        axes.plot(blocks, 100 * values, "o-", color=colour, label=name)
        if name in raw:
            label = f"{name}, raw pixels"
            axes.axhline(100 * raw[name][0], color=colour, linestyle="--", label=label)
    axes.set(xlabel="block (0: tokens plus positions)", ylabel="accuracy, %")
    axes.grid(alpha=0.3)
    axes.legend()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return decode(buffer.getvalue(), "curve")
