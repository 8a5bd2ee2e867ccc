"""What configs share that train a trained run on: it is their argument, and its sizes theirs."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from babeldraw.config import to_dict
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.tokenizers.base import PARTS
from babeldraw.train.experiment import parse
from babeldraw.train.starts import DISCRIMINATOR

LOCAL = "runlocal"
ATTENTION = "stack/blocks/attention"


def named_run(argument: str, *words: str) -> tuple[str, str]:
    """A config's argument, `RUN` or `RUN,WORD`, as the run folder and the word; each may be empty.

    Args:
      argument: after the colon.
      words: those that may stand behind the run; `runlocal` may stand alone.

    Raises:
      UserError: there is no such folder.
    """
    if argument in ("", LOCAL):
        return "", argument
    run, _, word = argument.rpartition(",")
    if word not in words:
        run, word = argument, ""
    if not RunFolder.to_read(run).path.exists():
        also = "".join(f", with ,{one} behind it" for one in words)
        raise UserError(
            f"the config's argument is {argument!r}; it may be {LOCAL}, or the folder of a trained "
            f"run{also}, and there is no folder of that name"
        )
    return run, word


def config_of(
    run: str, objective: str, otherwise: Callable[[], ConfigDict], network: str = ""
) -> dict[str, Any]:
    """The config of a trained run, whole, as it is at its end; where none is named, another.

    What training changes by the count of steps, RAR's orders, is as the last step had it.

    Args:
      run: the run folder; empty: none.
      objective: that it must have.
      otherwise: makes the other config.
      network: the `model.kind` that it must have; empty: any.

    Raises:
      UserError: the folder holds no run, or one of another objective or network.
    """
    if not run:
        return otherwise().to_dict()
    config = RunFolder.to_read(run).read_config()
    if config["objective"] != objective:
        raise UserError(
            f"{run} is a run of {config['objective']} and this config goes on from one of "
            f"{objective}; name one, or take the config of that kind"
        )
    kind = config["model"].get("kind") if network else network
    if kind != network:
        raise UserError(
            f"{run} is a run of config.model.kind={kind} and this config goes on from one of "
            f"{network}; name one"
        )
    return to_dict(parse(config).tuned())


def into_enlarger(run: str) -> tuple[dict[str, str], ...]:
    """`starts` of direct super-resolution from a run of CogLM; none without one.

    The projections of its attention go to both streams; the large codes' positions are new.
    """
    streams = (
        {"run": run, "names": f"{ATTENTION}/{own}/(.*)", "theirs": rf"{ATTENTION}/\1"}
        for own in ("base", "fine")
    )
    return (*streams, {"run": run, "names": rf"(?!fine/|{ATTENTION}/).*"}) if run else ()


def into_refiner(run: str) -> tuple[dict[str, str], ...]:
    """The same of iterative super-resolution, whose layers are CogLM's."""
    return ({"run": run, "names": "(?!fine/).*"},) if run else ()


def parts_learning(run: str, base: Mapping[str, Any], asked: tuple[str, ...]) -> tuple[str, ...]:
    """The parts of a tokenizer that learn on: those asked for, else those that the run trained.

    Where these are not all of it, a line says so.
    """
    if asked:
        return asked
    parts = tuple(base["train_groups"])
    if set(parts) != set(PARTS):
        say(
            f"{run} trained its {' and '.join(parts)} alone, and so does its tuning; with ,all "
            "behind the run all parts learn"
        )
    return parts


def adversary(run: str, base: Mapping[str, Any], steps: int, share: float) -> dict[str, Any]:
    """A tokenizer's sections of the adversarial term, and the start of its discriminator.

    One that has learned in the run begins as it is there, at the share of its peak, and the term is
    on at once, where the run's own was. One that has not, or that an import does not have, is
    fresh: it learns alone for a quarter of the steps, at the whole of its peak, and a line says so.

    Args:
      run: the run folder; empty: none.
      base: its config.
      steps: of the tuning.
      share: as of `slower`.

    Returns:
      `adversarial`, `discriminator_optimizer` and `starts`.
    """
    section, starts = base["adversarial"], ()
    if run and base["loss"]["adversarial"] > 0:
        learned = RunFolder.to_read(run).steps_done - section["start_step"]
        alone = steps // 4
        if learned > 0:
            starts = ({"run": run, "into": DISCRIMINATOR},)
            alone = min(alone, max(0, section["head_start"] - learned))
        section = {**section, "start_step": 0, "head_start": alone}
        if alone:
            say(
                f"the discriminator of {run} has learned {'too little' if starts else 'nothing'}: "
                f"the adversarial term comes on after {alone} steps (adversarial.head_start)"
            )
    optimizer = slower(base["discriminator_optimizer"], steps, share if starts else 1.0)
    return {"adversarial": section, "discriminator_optimizer": optimizer, "starts": starts}


def slower(optimizer: Mapping[str, Any], steps: int, share: float) -> dict[str, Any]:
    """An optimizer's section for so many further steps, at a share of its peak, down to none.

    Args:
      optimizer: of the trained run.
      steps: of the tuning, at least 2.
      share: of the peak.
    """
    warmup = min(100, steps // 10)
    schedule = {
        "peak": share * optimizer["schedule"]["peak"],
        "warmup_steps": warmup,
        "decay_start": warmup,
        "decay_end": steps,
        "final_ratio": 0.05,
        "kind": "cosine",
    }
    return {**optimizer, "schedule": schedule}
