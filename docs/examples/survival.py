"""What docs/pod.md says of a run's survival and of what its care costs.

    python docs/examples/survival.py kills FOLDER --kills=20
    python docs/examples/survival.py cost FOLDER

`kills`: a run of the demo's tokenizer at quick sizes is killed (SIGKILL) at random moments, every
other time while a checkpoint is being written, and started again; at its end it is compared with
the same run undisturbed. `cost`: the demo's tokenizer at full size, pairs of blocks of 50 steps in
one process, one plain, one with a checkpoint, with the watch or with a line of metrics, which of
them goes first in turn; the mean of the ratios with its standard error. Then single steps, with the
watch and without in turn, and the time that a line of metrics takes.
"""

import argparse
import contextlib
import json
import os
import random
import re
import signal
import statistics
import sys
import time
from pathlib import Path

import jax
import numpy as np

from babeldraw.cli import main
from babeldraw.runs.checkpoints import Checkpoints, on_first_device
from babeldraw.runs.folder import RunFolder
from babeldraw.sharding.batch import place_batch
from babeldraw.sharding.layout import make_layout
from babeldraw.sharding.mesh import make_mesh
from babeldraw.train.clock import Clock
from babeldraw.train.experiment import parse
from babeldraw.train.metrics import MetricsWriter, read_scalars
from babeldraw.train.pending import Pending
from babeldraw.train.presets import load_config
from babeldraw.train.start import open_batches
from babeldraw.train.step import make_watched_step, state_shardings
from babeldraw.train.watch import WatchConfig, WatchState

ROOT = Path(__file__).parents[2]
EVERY = 50
# Of the watch, one by one, and lines of metrics.
STEPS = 300


# ------------------------------------------------------------------ kills


def start(folder: Path, steps: int, log: Path) -> int:
    """`babeldraw train` as a process of its own, forked to save the imports; its id."""
    words = ["train", f"--workdir={folder}", "--config=configs/demo/tokenizer.py:runlocal"]
    words += [f"--config.train.steps={steps}", "--config.train.log_every=1"]
    words += ["--config.train.checkpoint_every=10"]
    process = os.fork()
    if process:
        return process
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    status = 1
    try:
        main(words)
    except SystemExit as end:
        status = end.code
    finally:
        sys.stderr.flush()
        os._exit(status)


def ended(process: int) -> bool:
    """Whether a process is over; it stays to be waited for."""
    flags = os.WEXITED | os.WNOHANG | os.WNOWAIT
    return os.waitid(os.P_PID, process, flags) is not None


def whole(folder: Path) -> int:
    """The newest checkpoint that is whole; 0 for none."""
    found = folder / "checkpoints"
    names = [path.name for path in found.iterdir()] if found.exists() else []
    return max([int(name) for name in names if name.isdigit()], default=0)


def reached(folder: Path) -> int:
    """The last step whose metrics are written."""
    return max([line["step"] for line in read_scalars(RunFolder.of(str(folder)))], default=0)


def writing(folder: Path) -> bool:
    """Whether a checkpoint is being written at this moment."""
    return any((folder / "checkpoints").glob("*.orbax-checkpoint-tmp*"))


def one_life(folder: Path, steps: int, inside: bool, rng: random.Random, log: Path) -> dict:
    """Starts, waits a random while, kills; what was there at that moment."""
    before, process = reached(folder), start(folder, steps, log)
    goal = before + rng.randint(1, 30)
    while reached(folder) < goal and not ended(process):
        time.sleep(0.05)
    time.sleep(rng.uniform(0, 0.2))
    deadline = time.monotonic() + 20
    while inside and not writing(folder) and time.monotonic() < deadline:
        if ended(process):
            break
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    return {"step": reached(folder), "whole": whole(folder), "in_write": writing(folder)}


def kills(folder: Path, count: int, seconds: float) -> dict:
    """The experiment, or as much of it as fits into the time; its figures so far."""
    until, steps = time.monotonic() + seconds, 25 * count
    hurt, other = folder / "killed", folder / "undisturbed"
    log, diary = folder / "killed.log", folder / "lives.json"
    folder.mkdir(parents=True, exist_ok=True)
    lives = json.loads(diary.read_text()) if diary.exists() else []
    while len(lives) < count:
        if time.monotonic() > until:
            return {"kills": len(lives), "to_do": count - len(lives)}
        number = len(lives)
        lives.append(one_life(hurt, steps, number % 2 == 1, random.Random(number), log))
        diary.write_text(json.dumps(lives))
        print(number + 1, lives[-1], flush=True)
    for name, said in ((hurt, log), (other, folder / "undisturbed.log")):
        assert os.waitpid(start(name, steps, said), 0)[1] == 0
    resumed = [int(text) for text in re.findall(r"goes on from step (\d+) of", log.read_text())]
    # A life that ended before its first checkpoint starts afresh and says nothing.
    expected = [life["whole"] for life in lives if life["whole"]]
    pairs = zip(leaves(hurt), leaves(other), strict=True)
    same = [np.array_equal(a, b) for a, b in pairs]
    return {
        "kills": count,
        "inside_a_checkpoint_write": sum(life["in_write"] for life in lives),
        "steps": steps,
        "went_on_from_the_newest_whole_checkpoint": resumed == expected,
        "most_steps_lost": max(life["step"] - life["whole"] for life in lives),
        "arrays": len(same),
        "arrays_bit_identical": sum(same),
        "losses_identical": losses(hurt) == losses(other),
    }


def leaves(folder: Path) -> list[np.ndarray]:
    """Every array of the last checkpoint."""
    run = RunFolder.of(str(folder))
    objective = parse(run.read_config()).make_objective()
    abstract = on_first_device(jax.eval_shape(objective.init, jax.random.key(0)))
    checkpoints = Checkpoints(run.checkpoints)
    _, state, _ = checkpoints.restore_newest(abstract)
    checkpoints.close()
    return [np.asarray(leaf) for leaf in jax.tree.leaves(state)]


def losses(folder: Path) -> list[tuple[int, float]]:
    lines = read_scalars(RunFolder.of(str(folder)))
    return [(line["step"], line["train/loss"]) for line in lines if "train/loss" in line]


# ------------------------------------------------------------------ cost


def cost(folder: Path, pairs: int) -> dict:
    """Shares of step time that checkpoints, the watch and metrics take."""
    config = load_config("configs/demo/tokenizer.py", ROOT / "pyproject.toml")
    experiment = parse(config)
    objective = experiment.make_objective()
    layout = make_layout(experiment.mesh, make_mesh(experiment.mesh))
    places, key = state_shardings(objective, layout), jax.random.key(0)
    state = jax.jit(objective.init, out_shardings=places)(key)
    batches = open_batches(experiment, None)
    checkpoints = Checkpoints(folder / "checkpoints", report=print)
    writer, clock = MetricsWriter(RunFolder.of(str(folder))), Clock(None)
    watching = WatchConfig(skips=3, spike=6.0)
    steps = {
        w.acts: make_watched_step(objective, layout, places, w) for w in (WatchConfig(), watching)
    }
    watch, number, pending = WatchState.of(None, layout.mesh), 0, Pending(4)
    seconds: dict[str, list[float]] = {}
    ratios: dict[str, list[float]] = {}
    names = list(objective.batch_spec())

    def block(kind: str) -> float:
        nonlocal state, watch, number
        watched = kind == "watch"
        began = time.perf_counter()
        for step in range(EVERY):
            number += 1
            batch = next(batches)
            batch = place_batch({name: batch[name] for name in names}, layout.mesh)
            state, watch, metrics = steps[watched](state, watch, batch, key)
            pending.add(number, number, metrics)
            pending.wait()
            pending.rows(all_of_them=step == EVERY - 1, ready=watched)
            # As in the loop: first thing of a block, so that the block pays for what it hinders.
            if kind == "checkpoint" and step == 0:
                checkpoints.save(number, state, {"batches": batches.state()})
        means = pending.means()
        if kind == "metrics":
            writer.scalars(number, means, 0.0)
            writer.timing(number, clock.figures())
        jax.block_until_ready(state)
        return time.perf_counter() - began

    kinds = ("checkpoint", "watch", "metrics")
    for kind in ("plain", *kinds):
        block(kind)
    for pair in range(pairs):
        for kind in kinds:
            taken = {}
            # Beside each other, so that what else the machine does hits both.
            for which in ("plain", kind) if pair % 2 else (kind, "plain"):
                taken[which] = block(which)
                checkpoints.wait()
            seconds.setdefault("plain", []).append(taken["plain"])
            ratios.setdefault(kind, []).append(taken[kind] / taken["plain"] - 1)
            print(f"plain {taken['plain']:.2f} s, {kind} {taken[kind]:.2f} s", flush=True)
    # What is small is lost in the noise of whole blocks: the watch step by step, a line by itself.
    apart: dict[bool, list[float]] = {False: [], True: []}
    for turn in range(STEPS):
        for watched in (False, True) if turn % 2 else (True, False):
            batch = next(batches)
            batch = place_batch({name: batch[name] for name in names}, layout.mesh)
            began = time.perf_counter()
            state, watch, metrics = steps[watched](state, watch, batch, key)
            jax.device_get(metrics)
            apart[watched].append(time.perf_counter() - began)
    by_step = [b / a - 1 for a, b in zip(apart[False], apart[True], strict=True)]
    means = {name: 1.0 for name in metrics}
    began = time.perf_counter()
    for number in range(STEPS):
        writer.scalars(number, means, 0.0)
        writer.timing(number, clock.figures())
    line = (time.perf_counter() - began) / STEPS
    checkpoints.close()
    batches.close()
    writer.close()
    return {
        "watch_step_by_step": {
            "medians": round(
                statistics.median(apart[True]) / statistics.median(apart[False]) - 1, 4
            ),
            **mean_and_error(by_step),
        },
        "metrics_line_ms": round(1000 * line, 2),
        "step_ms": round(1000 * statistics.median(seconds["plain"]) / EVERY, 1),
        "pairs": pairs,
        **{kind: mean_and_error(ratios[kind]) for kind in kinds},
        "ratios": {kind: [round(ratio, 3) for ratio in ratios[kind]] for kind in kinds},
        "state_mib": round(sum(leaf.nbytes for leaf in jax.tree.leaves(state)) / 2**20, 1),
    }


def mean_and_error(values: list[float]) -> dict[str, float]:
    error = statistics.stdev(values) / len(values) ** 0.5 if len(values) > 1 else float("nan")
    return {"mean": round(statistics.mean(values), 4), "standard_error": round(error, 4)}


def run() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", choices=("kills", "cost"))
    parser.add_argument("folder", type=Path)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--pairs", type=int, default=12, help="of `cost`, for each of the three")
    parser.add_argument("--seconds", type=float, default=1e9, help="of `kills`; again goes on")
    args = parser.parse_args()
    with contextlib.suppress(BrokenPipeError):
        if args.what == "kills":
            figures = kills(args.folder, args.kills, args.seconds)
        else:
            figures = cost(args.folder, args.pairs)
        print(json.dumps(figures, indent=2))


if __name__ == "__main__":
    run()
