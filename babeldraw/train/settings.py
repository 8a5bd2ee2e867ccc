"""The section `train` of every config."""

import dataclasses

from babeldraw.config import require
from babeldraw.objectives.average import AverageConfig
from babeldraw.train.boards import BOARDS
from babeldraw.train.watch import WatchConfig


@dataclasses.dataclass(frozen=True)
class TrainConfig:
    """Attributes:
    steps: updates in all.
    batch_size: examples per step, over all devices.
    seed: of the initial weights, the data's order, dropout.
    log_every: steps between metrics.
    checkpoint_every: steps between checkpoints; there is always one at the end.
    eval_every: steps between evaluations and sample grids; 0: only at the end.
    keep: latest checkpoints kept.
    keep_every: and those of every multiple of so many steps; 0: none of them.
    accumulation: parts of a batch whose gradients are summed before an update; less memory, the
      same step.
    watch: what happens when a loss is not finite, or leaps.
    ema: an average of the weights, which samplers and evaluators then use; None: none.
    metrics: where figures and pictures are shown beside metrics.jsonl: tensorboard, wandb.
    """

    steps: int
    batch_size: int
    seed: int = 0
    log_every: int = 100
    checkpoint_every: int = 1000
    eval_every: int = 0
    keep: int = 2
    keep_every: int = 0
    accumulation: int = 1
    watch: WatchConfig = WatchConfig()
    ema: AverageConfig | None = None
    metrics: tuple[str, ...] = ("tensorboard",)

    def __post_init__(self):
        least = {"seed": 0, "eval_every": 0, "keep_every": 0}
        for field in dataclasses.fields(self):
            if field.name in ("watch", "ema", "metrics"):
                continue
            value, minimum = getattr(self, field.name), least.get(field.name, 1)
            require(
                value >= minimum,
                f"config.train.{field.name} is {value}; at least {minimum} is needed",
            )

        for name in self.metrics:
            require(
                name in BOARDS,
                f"config.train.metrics names {name!r}; there are {', '.join(BOARDS)}",
            )

    def tiny(self) -> "TrainConfig":
        """The same for a first run."""
        few = {"steps": 4, "batch_size": 8, "log_every": 2, "checkpoint_every": 2}
        return dataclasses.replace(self, accumulation=1, **few)
