"""What happens when a step goes wrong: a figure that is not finite, a loss that leaps.

A bad update is left out on the device, before the host knows of it; how often in a row, and what
then, the config says.
"""

import dataclasses
import math
from collections.abc import Callable, Mapping

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from babeldraw.config import require
from babeldraw.data.pipeline import TrainBatches
from babeldraw.errors import UserError
from babeldraw.objectives.base import Batch, Metrics, TrainState

AFTERWARDS = ("stop", "roll_back")
Update = Callable[[TrainState, Batch, jax.Array], tuple[TrainState, Metrics]]


@dataclasses.dataclass(frozen=True)
class WatchConfig:
    """What is bad, how much of it is borne, and what then.

    Attributes:
      skips: bad updates in a row that are left out before `then`; 0: none.
      then: `stop`; or `roll_back` to the newest checkpoint, and go on from there with the data that
        come after the bad batch.
      spike: a loss this many standard deviations above its running mean is bad too; 0: none is.
      horizon: good steps that the running mean and deviation look back on, and before which no loss
        counts as a spike.
      roll_backs: at most, over the whole run; at the next one it stops.
    """

    skips: int = 0
    then: str = "stop"
    spike: float = 0.0
    horizon: int = 100
    roll_backs: int = 3

    def __post_init__(self):
        path = "config.train.watch"
        for name, least in (("skips", 0), ("spike", 0), ("horizon", 2), ("roll_backs", 1)):
            value = getattr(self, name)
            require(value >= least, f"{path}.{name} is {value}; at least {least} is needed")
        require(
            self.then in AFTERWARDS,
            f"{path}.then is {self.then!r}; it may be {' or '.join(AFTERWARDS)}",
        )
        require(
            not self.spike or self.acts,
            f"{path}.spike is {self.spike} and a spike has no effect with skips=0 and then=stop; "
            "set skips, or then=roll_back",
        )

    @property
    def acts(self) -> bool:
        """Whether the step holds more than a stop at the first figure that is not finite."""
        return self.skips > 0 or self.then == "roll_back"


@flax.struct.dataclass
class WatchState:
    """What the watch knows, on the devices.

    Attributes:
      mean, variance: float32, of the losses of good steps.
      good: int32, number of good steps.
      in_row: int32, bad steps since the last good one.
    """

    mean: jax.Array
    variance: jax.Array
    good: jax.Array
    in_row: jax.Array

    @classmethod
    def of(cls, saved: Mapping[str, float] | None, mesh: Mesh) -> "WatchState":
        """As `to_json` gave it, None at the start of a run; whole on every device."""
        saved = saved or {"mean": 0.0, "variance": 0.0, "good": 0, "in_row": 0}
        state = cls(
            mean=np.float32(saved["mean"]),
            variance=np.float32(saved["variance"]),
            good=np.int32(saved["good"]),
            in_row=np.int32(saved["in_row"]),
        )
        # Where the step leaves it, or the second step would be another program.
        return jax.device_put(state, NamedSharding(mesh, PartitionSpec()))

    def to_json(self) -> dict[str, float]:
        """Exact: float32 is a part of JSON's numbers."""
        fields = dataclasses.fields(self)
        return {field.name: np.asarray(getattr(self, field.name)).item() for field in fields}


def watched(
    update: Update,
    config: WatchConfig,
    state: TrainState,
    watch: WatchState,
    batch: Batch,
    key: jax.Array,
) -> tuple[TrainState, WatchState, Metrics]:
    """One update that is left out where it is bad; only `state.step` counts it.

    Metrics gain `skipped` (0 or 1) and `skipped_in_row`.
    """
    new, metrics = update(state, batch, key)
    loss = metrics["loss"].astype(jnp.float32)
    # psnr_db is infinite where the reconstruction is perfect, which is no fault.
    finite = [jnp.isfinite(value) for name, value in metrics.items() if name != "psnr_db"]
    bad = ~jnp.all(jnp.stack(finite))
    if config.spike:
        limit = watch.mean + config.spike * jnp.sqrt(watch.variance)
        bad |= (watch.good >= config.horizon) & (loss > limit)
    kept = jax.tree.map(lambda old, fresh: jnp.where(bad, old, fresh), state, new)
    after = _learn(watch, loss, bad, config.horizon)
    flags = {"skipped": bad.astype(jnp.float32), "skipped_in_row": after.in_row.astype(jnp.float32)}
    return kept.replace(step=new.step), after, {**metrics, **flags}


def _learn(watch: WatchState, loss: jax.Array, bad: jax.Array, horizon: int) -> WatchState:
    """Running mean and variance: of all good steps at first, then over about `horizon` of them."""
    good = jnp.where(bad, watch.good, watch.good + 1)
    share = 1.0 / jnp.minimum(good, horizon).astype(jnp.float32)
    away = loss - watch.mean
    mean = watch.mean + share * away
    variance = (1.0 - share) * (watch.variance + share * away * away)
    return WatchState(
        mean=jnp.where(bad, watch.mean, mean),
        variance=jnp.where(bad, watch.variance, variance),
        good=good,
        in_row=jnp.where(bad, watch.in_row + 1, 0),
    )


class Watchman:
    """The host's side: tells of each bad step, and decides.

    Attributes:
      roll_backs: made so far.
    """

    def __init__(self, config: WatchConfig, roll_backs: int, tell: Callable[[str], None]):
        self.config, self.roll_backs, self._tell = config, roll_backs, tell

    def must_roll_back(
        self, step: int, data_step: int, row: Mapping[str, float], batches: TrainBatches
    ) -> bool:
        """Looks at one step's metrics; False where the run goes on.

        Args:
          step: whose they are.
          data_step: which batch it was.
          row: the metrics.
          batches: names the records of a batch.

        Raises:
          UserError: the run shall stop.
        """
        bad = [name for name, value in row.items() if not math.isfinite(value)]
        # psnr_db is infinite where the reconstruction is perfect, which is no fault.
        bad = [name for name in bad if name != "psnr_db" or math.isnan(row[name])]
        if not bad and not row.get("skipped", 0.0):
            return False
        what = ", ".join(f"{name} is {row[name]}" for name in sorted(bad))
        what = what or f"loss {row['loss']:.6g} is a spike"
        keys = f"batch {data_step} of the data, records {batches.records(data_step)}"
        if self.config.acts and row["skipped_in_row"] <= self.config.skips:
            self._tell(
                f"step {step}: update left out, {row['skipped_in_row']:.0f} in a row: {what}; "
                f"{keys}"
            )
            return False
        if self.config.then == "stop":
            raise UserError(
                f"step {step}: {what}; the last checkpoint is from before; lower "
                "config.optimizer.schedule.peak or config.optimizer.clip_norm, or set "
                f"config.train.watch; {keys}"
            )
        if self.roll_backs >= self.config.roll_backs:
            raise UserError(
                f"step {step}: {what}, after {self.roll_backs} roll-backs "
                f"(config.train.watch.roll_backs); {keys}"
            )
        self.roll_backs += 1
        self._tell(f"step {step}: rolling back: {what}; {keys}")
        return True
