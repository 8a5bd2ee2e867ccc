"""What configs share that train a trained run on: it is their argument, and its sizes theirs."""

from collections.abc import Callable, Mapping
from typing import Any

from ml_collections import ConfigDict

from babeldraw.config import to_dict
from babeldraw.errors import UserError
from babeldraw.runs.folder import RunFolder
from babeldraw.train.experiment import parse

LOCAL = "runlocal"


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


def config_of(run: str, objective: str, otherwise: Callable[[], ConfigDict]) -> dict[str, Any]:
    """The config of a trained run, whole; where none is named, another.

    Raises:
      UserError: the folder holds no run, or one of another objective.
    """
    if not run:
        return otherwise().to_dict()
    config = RunFolder.to_read(run).read_config()
    if config["objective"] != objective:
        raise UserError(
            f"{run} is a run of {config['objective']} and this config goes on from one of "
            f"{objective}; name one, or take the config of that kind"
        )
    return to_dict(parse(config))


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
