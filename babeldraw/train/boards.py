"""Where a run's figures and pictures are looked at: TensorBoard, Weights & Biases.

None of them is needed: each may be missing or fail, and costs the run a line.
"""

import contextlib
import functools
import json
import os
import secrets
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from babeldraw.runs.folder import RunFolder, write_json
from babeldraw.say import say

# Seconds: to reach the server at the start, and to send what is left at the end.
WANDB_SECONDS = 30


class Board(Protocol):
    """What shows figures by their step. Where a method raises, `Boards` leaves it out."""

    def scalars(self, step: int, values: Mapping[str, float]) -> None: ...

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """uint8 [H, W, 3]."""
        ...

    def close(self) -> None: ...


class Boards:
    """Several as one. One that cannot be opened or fails is told and left out from then on.

    Args:
      names: of `BOARDS`.
      folder: of the run.
      config: of the run, for those that show it.
    """

    def __init__(self, names: Sequence[str], folder: RunFolder, config: Mapping[str, Any]):
        self._open: dict[str, Board] = {}
        for name in names:
            with self._without(name):
                self._open[name] = BOARDS[name](folder, config)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(lambda board: board.scalars(step, values))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        """uint8 [H, W, 3]."""
        self._each(lambda board: board.image(step, name, picture))

    def close(self) -> None:
        self._each(lambda board: board.close())

    def _each(self, call: Callable[[Board], None]) -> None:
        for name, board in list(self._open.items()):
            with self._without(name):
                call(board)

    @contextlib.contextmanager
    def _without(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._open.pop(name, None)
            reason = " ".join(str(error).split()) or type(error).__name__
            say(f"{name} is left out ({reason}); the run goes on, metrics.jsonl has its figures")


class CluBoard:
    """TensorBoard's files by clu, which imports TensorFlow."""

    def __init__(self, folder: str):
        from babeldraw.data.crops import tensorflow

        tensorflow()
        from clu import metric_writers

        self._writer = metric_writers.create_default_writer(folder, asynchronous=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._writer.write_scalars(step, dict(values))

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self._writer.write_images(step, {name: picture[None]})

    def close(self) -> None:
        self._writer.close()


class TensorBoardX:
    """The same files, under the same tags, by tensorboardX.

    Not by its `SummaryWriter`: where that cannot write, its queue fills and the run would wait.
    """

    def __init__(self, folder: str):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            from tensorboardX import event_file_writer, summary
            from tensorboardX.proto import event_pb2
        if "://" in folder:
            # It would send the whole file again with each figure.
            raise OSError(f"without TensorFlow it is written to local folders alone, not {folder}")
        self._summary, self._event = summary, event_pb2.Event
        # Its own names are by the second: a quick restart would empty the file before.
        own = f".{time.time_ns()}"
        self._events = event_file_writer.EventsWriter(f"{folder}/events", filename_suffix=own)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._write(step, self._summary.scalar(name, value))
        self._events.flush()

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self._write(step, self._summary.image(name, picture, dataformats="HWC"))
        self._events.flush()

    def close(self) -> None:
        self._events.close()

    def _write(self, step: int, summary: Any) -> None:
        self._events.write_event(self._event(wall_time=time.time(), step=step, summary=summary))


class WandbBoard:
    """Weights & Biases; a run that goes on goes on there.

    WANDB_API_KEY, WANDB_PROJECT, WANDB_ENTITY, WANDB_NAME and WANDB_MODE are read when the run
    begins; but for the key and the mode, `metrics/wandb.json` has what counts from then on.
    """

    def __init__(self, folder: RunFolder, config: Mapping[str, Any]):
        # Its own lines; ours says what matters.
        os.environ.setdefault("WANDB_SILENT", "true")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            import wandb
        self._image = wandb.Image
        place = str(folder.metrics)
        if "://" in place:
            # It writes to local folders alone.
            place = tempfile.mkdtemp(prefix="babeldraw-wandb-")
        begin = functools.partial(
            wandb.init,
            **_identity(folder),
            resume="allow",
            config=dict(config),
            dir=place,
            settings=wandb.Settings(
                console="off",
                init_timeout=WANDB_SECONDS,
                login_timeout=WANDB_SECONDS,
                finish_timeout=WANDB_SECONDS,
            ),
        )
        self._run = _begun(begin, wandb.teardown, place)
        # Steps are a figure like others: done again after a kill, they would be refused as its own.
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log({"step": step, **values})

    def image(self, step: int, name: str, picture: np.ndarray) -> None:
        self._run.log({"step": step, name: self._image(picture)})

    def close(self) -> None:
        self._run.finish()


def _begun(begin: Callable[..., Any], drop: Callable[[], None], place: str) -> Any:
    """The run at the server; where that cannot be, one in a folder that can be sent there.

    Args:
      begin: `wandb.init` without the mode.
      drop: forgets a run that could not begin, whose id would be in use.
      place: the folder.
    """
    kept = f"wandb keeps the run in {place}/wandb; `wandb sync` sends it"
    asked = os.environ.get("WANDB_MODE", "")
    if not asked and not os.environ.get("WANDB_API_KEY"):
        say(f"WANDB_API_KEY is not set: {kept}")
        return begin(mode="offline")
    try:
        return begin(mode=asked or "online")
    except Exception as error:
        say(f"wandb cannot be reached ({' '.join(str(error).split())}): {kept}")
        drop()
        return begin(mode="offline")


def _identity(folder: RunFolder) -> dict[str, str | None]:
    """Which run it is there, from the first start on."""
    file = folder.metrics / "wandb.json"
    if not file.exists():
        named = os.environ.get
        write_json(
            file,
            {
                "project": named("WANDB_PROJECT", "babeldraw"),
                "entity": named("WANDB_ENTITY"),
                "name": named("WANDB_NAME", folder.path.name),
                "id": secrets.token_hex(4),
            },
        )
    return json.loads(file.read_text())


def _tensorboard(folder: RunFolder, config: Mapping[str, Any]) -> Board:
    del config
    for kind in (CluBoard, TensorBoardX):
        with contextlib.suppress(ImportError):
            return kind(str(folder.metrics))
    raise ImportError(
        "neither TensorFlow nor tensorboardX is there, of which babeldraw[tensorboardx] brings the "
        "latter"
    )


def _wandb(folder: RunFolder, config: Mapping[str, Any]) -> Board:
    try:
        return WandbBoard(folder, config)
    except ModuleNotFoundError as error:
        raise ImportError(f"{error}; babeldraw[wandb] brings it") from None


# By the names in config.train.metrics.
BOARDS = {"tensorboard": _tensorboard, "wandb": _wandb}
