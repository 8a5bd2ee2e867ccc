"""Records to batches: a tf.data pipeline for training, plain NumPy for evaluation.

A training batch is a function of (seed, step) alone. Step s of global batch size B reads positions
[sB, (s+1)B) of an endless sequence of epochs, each its own permutation of the source; host i of n
takes the i-th of n equal slices. The whole state is the step, so a run goes on exactly, on any
number of hosts.
"""

import dataclasses
import hashlib
import math
import traceback
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from absl import logging

from babeldraw.data.captions import text_of
from babeldraw.data.crops import check_crop, crop_image, crop_jpeg, tensorflow
from babeldraw.data.image import center_crop
from babeldraw.data.order import Order
from babeldraw.data.records import Record, RecordReader, Source, has_pictures
from babeldraw.data.text import Vocabulary, caption_at
from babeldraw.data.views import drawn_view
from babeldraw.errors import UserError

PREFETCHED_BATCHES = 2
JPEGS_AT_A_TIME = 16
ENDLESS = np.iinfo(np.int64).max


class TrainBatches:
    """Endless shuffled batches of this host's share, on tf.data.

    Each batch is {'image': uint8 [b, h, w, 3], 'label': int32 [b]} and, given a vocabulary,
    'text': int32 [b, text_length], where b is `batch_size / process_count`. A source of stored
    tokens gives 'tokens': int32 [b, T] in place of 'image', of several views of a record one that
    is drawn for each epoch, and 'states' and 'count' where those of captions lie beside the tokens;
    a source of texts alone gives no 'image'. A picture that has
    the size (h, w) already is taken as it is; any other is cropped to the aspect and resized with
    antialiasing. None is mirrored, save by 'dalle_tokenizer': pictures hold text. Pictures that
    come as JPEG files are decoded by TensorFlow, outside Python.

    Args:
        source: the data.
        batch_size: over all hosts.
        image_size: (h, w).
        seed: of the order and of the crops.
        vocabulary: turns captions into ids.
        text_length: ids per caption, at least 1 with a vocabulary.
        process_index: which host this is, 0 to process_count - 1.
        process_count: how many hosts there are.
        start_step: the first step to give.
        crop: of `crops.CROPS`; see `DataConfig`.
        workers: records read at the same time.
        max_bad_share: see `RecordReader`, which replaces bad records.
        captions: which of several captions is used: see `captions.CAPTIONS`.

    Raises:
        UserError: a value that does not fit; and, while iterating, too many bad records.
    """

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int,
        image_size: tuple[int, int],
        seed: int,
        vocabulary: Vocabulary | None = None,
        text_length: int = 0,
        process_index: int = 0,
        process_count: int = 1,
        start_step: int = 0,
        crop: str = "random",
        workers: int = 2,
        max_bad_share: float = 0.01,
        captions: str = "in_turn",
    ):
        _check_sizes(batch_size, image_size, process_index, process_count)
        _check_text(vocabulary, text_length)
        check_crop(crop, image_size)
        if workers < 1:
            raise UserError(f"data.workers={workers} must be at least 1")
        self.source = source
        self._gives_jpeg = getattr(source, "gives_jpeg", False)
        read = source.jpeg if self._gives_jpeg else source.__getitem__
        self.reader = RecordReader(source, max_bad_share, read)
        self.image_size = (int(image_size[0]), int(image_size[1]))
        self._batch_size = batch_size
        self._local_size = batch_size // process_count
        self._first = process_index * self._local_size
        self._vocabulary = vocabulary
        self.text_length = text_length if vocabulary is not None else 0
        self._seed, self._step = int(seed), int(start_step)
        self._crop, self._workers, self._captions = crop, workers, captions
        # Shape and type of an image's stored codes; None where there are pictures.
        self._token_spec = getattr(source, "token_spec", None)
        states = getattr(source, "states", None)
        self._state_spec = {} if states is None else states.spec
        self._fingerprint = fingerprint(source)
        self._error: Exception | None = None
        self._closed = False
        # The tf.data iterator while there is one. It waits for its readers when it is deleted, and
        # once Python shuts down they never return: it must be gone before.
        self._running: list[Iterator[dict[str, np.ndarray]]] = []
        weakref.finalize(self, self._running.clear)

    def __iter__(self) -> "TrainBatches":
        return self

    def __next__(self) -> dict[str, np.ndarray]:
        if self._closed:
            raise StopIteration
        if not self._running:
            self._error = None
            self._running.append(self._dataset().as_numpy_iterator())
        try:
            batch = next(self._running[0])
        except BaseException as error:
            # tf.data wraps what a reader raised in a page of its own: give the original instead.
            wrapped = isinstance(error, tensorflow().errors.OpError)
            failure = (wrapped and self._error) or error
            # Its frames in a traceback would keep its iterator alive, until too late.
            traceback.clear_frames(error.__traceback__)
        else:
            self._step += 1
            return batch
        self._running.clear()
        raise failure

    def state(self) -> dict[str, Any]:
        """What `restore` needs: the next step (int), the seed (int), the data's fingerprint."""
        return {"step": self._step, "seed": self._seed, "fingerprint": self._fingerprint}

    def restore(self, state: dict[str, Any]) -> None:
        """Goes on from a state, of any number of hosts; its seed replaces the one given here.

        Data with another fingerprint are read all the same, and a warning says so.
        """
        if not self.same_data(state):
            logging.warning(
                "the data changed since the checkpoint (%s, %d records now): batches will differ",
                self.reader.source.name,
                len(self.reader.source),
            )
        self._running.clear()
        self._step, self._seed = int(state["step"]), int(state["seed"])

    def same_data(self, state: dict[str, Any]) -> bool:
        """Whether a state is of these data, wherever they lay."""
        return state["fingerprint"] in (self._fingerprint, _by_name(self.reader.source))

    def records(self, step: int) -> list[int]:
        """Which records of the source a step's batch is made of, those of all hosts in order."""
        tf, size = tensorflow(), self._batch_size
        positions = tf.range(step * size, (step + 1) * size, dtype=tf.int64)
        return Order(self.reader.source, self._seed).indices(positions).numpy().tolist()

    def close(self) -> None:
        """Stops reading ahead; afterwards there are no more batches."""
        self._closed = True
        self._running.clear()

    def _dataset(self) -> Any:
        tf = tensorflow()
        local = self._local_size
        # Calls into Python wait for one another: JPEG files are fetched several at a time.
        group = math.gcd(local, JPEGS_AT_A_TIME) if self._gives_jpeg else 1
        count = tf.data.Dataset.range(self._step * local // group, ENDLESS)
        parallel = {"num_parallel_calls": self._workers, "deterministic": True}
        examples = count.map(self._fetch(group), **parallel)
        examples = examples.unbatch().map(self._finish, **parallel)
        return examples.batch(local, drop_remainder=True).prefetch(PREFETCHED_BATCHES)

    def _fetch(self, group: int) -> Callable[[Any], dict[str, Any]]:
        """From a host's own count of groups (int64 []) to the records of one group."""
        tf = tensorflow()
        order = Order(self.reader.source, self._seed)
        picture = tf.string if self._gives_jpeg else tf.uint8
        wanted = {
            "image": (picture, [group] if self._gives_jpeg else [group, None, None, 3]),
            "text": (tf.int32, [group, self.text_length]),
            "label": (tf.int32, [group]),
            "level": (tf.int32, [group]),
        }
        if not getattr(self.source, "tells_levels", False):
            del wanted["level"]
        # What there is none of is left out: `unbatch` of TensorFlow 2.21 dies of empty arrays.
        if self._token_spec is not None or not has_pictures(self.source):
            del wanted["image"]
        if self._token_spec is not None:
            shape, dtype = self._token_spec
            wanted["tokens"] = (tf.as_dtype(dtype), [group, *shape])
        for name, (shape, dtype) in self._state_spec.items():
            wanted[name] = (tf.as_dtype(dtype), [group, *shape])
        if self._vocabulary is None:
            del wanted["text"]

        def fetch(count: Any) -> dict[str, Any]:
            count = count * group + tf.range(group, dtype=tf.int64)
            step, offset = count // self._local_size, count % self._local_size
            position = step * self._batch_size + self._first + offset
            arrays = tf.numpy_function(
                lambda indices, positions: self._read(indices, positions, tuple(wanted)),
                [order.indices(position), position],
                [dtype for dtype, _ in wanted.values()],
                stateful=False,
            )
            for array, (_, shape) in zip(arrays, wanted.values(), strict=True):
                array.set_shape(shape)
            return {**dict(zip(wanted, arrays, strict=True)), "position": position}

        return tf.autograph.experimental.do_not_convert(fetch)

    def _read(
        self, indices: np.ndarray, positions: np.ndarray, wanted: tuple[str, ...]
    ) -> list[np.ndarray]:
        try:
            records = [self.reader.read_at(int(index)) for index in indices]
            length = len(self.reader.source)
            said = [
                text_of(record, self._captions, int(position), length, self._seed)
                for record, position in zip(records, positions, strict=True)
            ]
            epochs = (int(position) // length for position in positions)
            drawn = [
                self._view(record, int(index), epoch)
                for record, index, epoch in zip(records, indices, epochs, strict=True)
            ]
            return [self._gather(name, drawn, said) for name in wanted]
        except Exception as error:
            self._error = self._error or error
            raise

    def _view(self, record: Record, index: int, epoch: int) -> Record:
        """The record with the stored codes of the view that an epoch has of it."""
        if record.views is None:
            return record
        number = drawn_view(len(record.views), index, epoch, self._seed)
        return dataclasses.replace(record, tokens=record.views[number], views=None)

    def _gather(self, name: str, records: list[Record], said: list[str]) -> np.ndarray:
        if name == "text":
            return self._vocabulary.encode(said, self.text_length)
        if name in ("label", "level"):
            return np.array([getattr(r, name) for r in records], np.int32)
        if name == "tokens":
            return np.stack([r.tokens for r in records])
        if name in self._state_spec:
            return np.stack([r.states[name] for r in records])
        if self._gives_jpeg:
            return np.array([r.jpeg for r in records], object)
        return np.stack([r.image for r in records])

    def _finish(self, fetched: dict[str, Any]) -> dict[str, Any]:
        """One record with its picture cropped, as the batch shall hold it."""
        tf = tensorflow()
        position = fetched["position"]
        example = {name: array for name, array in fetched.items() if name != "position"}
        if "image" in example:
            seed = tf.stack([tf.constant(self._seed, tf.int64), position])
            cut = crop_jpeg if self._gives_jpeg else crop_image
            example["image"] = cut(example["image"], self.image_size, self._crop, seed)
        return example


def eval_batches(
    source: Source,
    *,
    batch_size: int,
    image_size: tuple[int, int],
    vocabulary: Vocabulary | None = None,
    text_length: int = 0,
    num_examples: int | None = None,
    process_index: int = 0,
    process_count: int = 1,
    max_bad_share: float = 0.01,
    first_batch: int = 0,
) -> Iterator[dict[str, Any]]:
    """The first `num_examples` records (None: all) in order, each once, without TensorFlow.

    Every host gives the same number of batches: the last one is padded with zeros. A bad record
    leaves its place empty.

    Args:
        batch_size: over all hosts.
        image_size: (h, w) of the centre crop.
        first_batch: number of the batch to begin with; those before are not read.
        others: as for `TrainBatches`.

    Yields:
        This host's slice: {'image': uint8 [b, h, w, 3], 'label': int32 [b], 'mask': bool [b],
        False where there is no record; 'caption': list of b str; 'text': int32 [b, text_length]
        given a vocabulary}. Of texts alone there is no 'image'.

    Raises:
        UserError: a value that does not fit, or too many bad records.
    """
    _check_sizes(batch_size, image_size, process_index, process_count)
    _check_text(vocabulary, text_length)
    reader = RecordReader(source, max_bad_share)
    total = len(source) if num_examples is None else min(num_examples, len(source))
    local = batch_size // process_count

    def batches() -> Iterator[dict[str, Any]]:
        own, end = process_index * local, -(-total // batch_size) * batch_size
        for start in range(own + first_batch * batch_size, end, batch_size):
            slots = range(start, start + local)
            # Brought to size as they are read: a batch of photographs would fill the memory.
            records = [
                fitted(reader.try_read_at(i), image_size) if i < total else None for i in slots
            ]
            batch = _collate(records, image_size if has_pictures(source) else None)
            if vocabulary is not None:
                batch["text"] = vocabulary.encode(batch["caption"], text_length)
            yield batch

    return batches()


def fitted(record: Record | None, size: tuple[int, int]) -> Record | None:
    """The record with its picture cut and resized to (h, w), as evaluation sees it."""
    if record is None or record.tokens is not None or not record.image.size:
        return record
    return dataclasses.replace(record, image=center_crop(record.image, size))


def _collate(records: list[Record | None], size: tuple[int, int] | None) -> dict[str, Any]:
    """A batch of records; no `size`: they are texts alone."""
    return {
        **({} if size is None else _pictures(records, size)),
        "label": np.array([-1 if r is None else r.label for r in records], np.int32),
        "mask": np.array([r is not None for r in records]),
        "caption": ["" if r is None else caption_at(r.caption, 0) for r in records],
    }


def _pictures(records: list[Record | None], size: tuple[int, int]) -> dict[str, np.ndarray]:
    """The batch's pictures, or its stored tokens; zeros where there is no record."""
    stored = [r.tokens for r in records if r is not None and r.tokens is not None]
    if stored:
        empty = np.zeros_like(stored[0])
        tokens = np.stack([empty if r is None else r.tokens for r in records])
        return {"tokens": tokens, **_states(records)}
    image = np.zeros((len(records), *size, 3), np.uint8)
    for slot, record in zip(image, records, strict=True):
        if record is not None:
            slot[:] = center_crop(record.image, size)
    return {"image": image}


def _states(records: list[Record | None]) -> dict[str, np.ndarray]:
    """What an encoder made of the captions, where that is stored; zeros without a record."""
    first = next(r.states for r in records if r is not None)
    return {
        name: np.stack([np.zeros_like(array) if r is None else r.states[name] for r in records])
        for name, array in (first or {}).items()
    }


def fingerprint(source: Source) -> str:
    """16 hexadecimal digits that change when the data do, and not when they move."""
    same = getattr(source, "identity", source.name)
    return hashlib.sha256(f"{same}\n{len(source)}".encode()).hexdigest()[:16]


def _by_name(source: Source) -> str:
    """As earlier versions had it, with the name of a folder in it."""
    return hashlib.sha256(f"{source.name}\n{len(source)}".encode()).hexdigest()[:16]


def _check_sizes(
    batch_size: int, image_size: tuple[int, int], process_index: int, process_count: int
) -> None:
    if batch_size < 1 or batch_size % process_count:
        raise UserError(
            f"batch_size={batch_size} does not divide over {process_count} hosts; "
            f"use a multiple of {process_count}"
        )
    if not 0 <= process_index < process_count:
        raise UserError(f"process_index={process_index} must lie in [0, {process_count})")
    if len(image_size) != 2 or min(image_size) < 1:
        raise UserError(f"image_size={image_size} must be (height, width), both at least 1")


def _check_text(vocabulary: Vocabulary | None, text_length: int) -> None:
    if vocabulary is not None and text_length < 1:
        raise UserError(f"text_length={text_length} must be at least 1 to encode captions")
