"""A run's figures written and read by TensorBoard; as a process, without some packages.

python -m tests.train.board_case FOLDER PACKAGE...
"""

import io
import json
import sys

import numpy as np
from PIL import Image

from babeldraw.runs.folder import RunFolder
from babeldraw.train.metrics import MetricsWriter

PICTURE = np.arange(4 * 6 * 3, dtype=np.uint8).reshape(4, 6, 3)


def write(folder):
    """Two starts of a run, of which the second does step 2 again."""
    for steps in ((1, 2), (2, 3)):
        writer = MetricsWriter(RunFolder.of(folder))
        for step in steps:
            writer.scalars(step, {"train/loss": 1 / step, "prompts/exact_test": 0.5}, 1.0)
            writer.timing(step, {"step_seconds": 0.25})
        writer.image(steps[-1], "samples/grid", PICTURE)
        writer.close()


def read(folder):
    """Each tag's steps and values, pictures as lists."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.util.tensor_util import make_ndarray

    def pixels(png):
        return np.asarray(Image.open(io.BytesIO(png))).tolist()

    def value(tensor):
        # TensorFlow's way: a picture is its width, its height and its PNG.
        array = make_ndarray(tensor)
        return pixels(array[2]) if array.shape else array.item()

    found, files = {}, RunFolder.of(folder).metrics.glob("events.*")
    boards = [EventAccumulator(str(file)).Reload() for file in files]
    for board in sorted(boards, key=_begun):
        for kind, events_of, value_of in (
            ("scalars", board.Scalars, lambda event: event.value),
            ("images", board.Images, lambda event: pixels(event.encoded_image_string)),
            ("tensors", board.Tensors, lambda event: value(event.tensor_proto)),
        ):
            for tag in board.Tags()[kind]:
                rows = [[event.step, value_of(event)] for event in events_of(tag)]
                found.setdefault(tag, []).extend(rows)
    return found


def _begun(board):
    """When its first figure was written: a file's name and head tell the second alone."""
    scalars = "train/loss" in board.Tags()["scalars"]
    return (board.Scalars if scalars else board.Tensors)("train/loss")[0].wall_time


if __name__ == "__main__":
    place, *packages = sys.argv[1:]
    sys.modules.update(dict.fromkeys(packages))
    write(place)
    print(json.dumps(read(place)))
