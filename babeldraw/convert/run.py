"""A run as a folder of plain files, to be given to others, and back.

`config.json` · `weights.safetensors` · `text.model` · `classes.json`. Arrays are named by their
place in our trees, `params/...` and `frozen/...`.
"""

from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.convert.files import sha256
from babeldraw.errors import UserError
from babeldraw.runs.checkpoints import restore_parts
from babeldraw.runs.folder import RunFolder, weights_in
from babeldraw.runs.opened import write_run
from babeldraw.runs.weights import check_finite, flatten, read_weights, write_weights

WEIGHTS = "weights.safetensors"
# What a release is rounded to: half the size, 11 bits of each number's.
HALF = np.float16


def export_run(workdir: str, folder: Path, weights: str = "", half: bool = False) -> int:
    """Writes the newest weights of a run; the optimizer stays behind.

    Args:
      workdir: the run folder.
      folder: to write to; it must not be there, or be empty.
      weights: `ema` or `params`; empty: the average where the run keeps one.
      half: whether float32 arrays are rounded to float16.

    Returns:
      The number of arrays.

    Raises:
      UserError: no run there, no checkpoint yet, no such weights, a number beyond float16, or the
        folder holds something.
    """
    run, folder = RunFolder.to_read(workdir), folder.expanduser()
    config = run.read_config()
    held = weights_in(config, weights)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder} is not an empty folder; name another one")
    step, state = restore_parts(run.checkpoints, (held, "frozen"), run.step)
    arrays = {f"params/{name}": a for name, a in flatten(state[held]).items()}
    arrays |= {f"frozen/{name}": a for name, a in flatten(state.get("frozen", {})).items()}
    arrays = {name: np.asarray(array) for name, array in arrays.items()}
    if half:
        arrays = {name: _half(array, name) for name, array in arrays.items()}
    folder.mkdir(parents=True, exist_ok=True)
    to = RunFolder.of(str(folder))
    if run.vocabulary_file.exists():
        to.vocabulary_file.write_bytes(run.vocabulary_file.read_bytes())
    to.write_classes(run.read_classes())
    told = {"step": str(step), "weights": held}
    write_weights(folder / WEIGHTS, arrays, told)
    # Last: a folder without it is none.
    to.write_config({**config, "train": {**config["train"], "ema": None}})
    return len(arrays)


def import_run(folder: Path, workdir: str) -> int:
    """Makes a run folder of what `export_run` wrote, without an optimizer.

    Returns:
      The number of arrays.

    Raises:
      UserError: the folder is none, a value is not finite, or the run folder holds something.
    """
    folder = folder.expanduser()
    given = RunFolder.of(str(folder))
    config, file = given.read_config(), folder / WEIGHTS
    arrays = read_weights(str(file), "the weights")
    check_finite(arrays, str(file))
    state: dict[str, Any] = {"params": {}, "frozen": {}}
    for name, array in arrays.items():
        *path, leaf = name.split("/")
        if path[:1] not in (["params"], ["frozen"]):
            raise UserError(f"{file} holds {name}; names begin with params/ or frozen/")
        tree = state
        for part in path:
            tree = tree.setdefault(part, {})
        tree[leaf] = array.astype(np.float32) if array.dtype == HALF else array
    vocabulary = given.vocabulary_file
    write_run(
        workdir,
        config,
        state["params"],
        frozen=state["frozen"],
        source=f"{file}, sha256 {sha256(str(file))}",
        vocabulary=vocabulary.read_bytes() if vocabulary.exists() else None,
        classes=given.read_classes(),
    )
    return len(arrays)


def _half(array: np.ndarray, name: str) -> np.ndarray:
    if array.dtype != np.float32:
        return array
    largest = float(np.abs(array).max(initial=0.0))
    if largest > float(np.finfo(HALF).max):
        raise UserError(f"{name} holds {largest:.0f}, which is beyond float16; export it whole")
    return array.astype(HALF)
