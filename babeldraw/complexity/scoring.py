"""A data set scored once, record by record, into a file that is gone on with."""

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from babeldraw.complexity.base import ComplexityScorer, Score
from babeldraw.complexity.lines import Lines, read_lines
from babeldraw.config import require
from babeldraw.data.image import center_crop, decode
from babeldraw.data.records import NO_PICTURE, BadRecord, Record, Source, classes_of
from babeldraw.data.text import caption_at
from babeldraw.errors import UserError

# Records that are read, scored and kept at a time: what a kill may lose.
AT_A_TIME = 64
# What is said of a picture that has a class and no caption.
OF_CLASS = "a picture of {}"

# Captions of pictures, uint8 [H, W, 3].
Tell = Callable[[Sequence[np.ndarray]], Sequence[str]]


class Texts:
    """Texts as a source of records without pictures.

    Args:
        texts: of a line each.

    Attributes:
        name: of what they say.
    """

    texts_alone = True

    def __init__(self, texts: Sequence[str]):
        self._texts = list(texts)
        said = "\n".join(self._texts).encode("utf-8", "replace")
        self.name = f"texts/{hashlib.sha256(said).hexdigest()[:8]}"

    def __len__(self) -> int:
        return len(self._texts)

    def __getitem__(self, index: int) -> Record:
        return Record(NO_PICTURE, self._texts[index])

    def captions(self) -> Iterator[str]:
        return iter(self._texts)


@dataclasses.dataclass(frozen=True)
class Reading:
    """How records become what a scorer reads.

    Attributes:
        source: the data.
        size: (height, width) of the centre crop of pictures; None: as they are.
        tell: captions of pictures that have none and no class either; None: they stay without.
    """

    source: Source
    size: tuple[int, int] | None = None
    tell: Tell | None = None

    def records(self, indices: Sequence[int], pictures: bool) -> list[Record | None]:
        """Records with one caption each, the first of several; None in the place of a bad one.

        A picture without a caption is told by its class's name, or else by `tell`.

        Args:
            indices: of the source.
            pictures: whether the pictures are read; they are for `tell` where one is needed.
        """
        found = [self._record(index, pictures) for index in indices]
        silent = [i for i, record in enumerate(found) if record and not record.caption]
        if silent and self.tell is not None:
            images = [self._picture(found[i], indices[i]) for i in silent]
            there = [i for i, image in zip(silent, images, strict=True) if image is not None]
            told = self.tell([image for image in images if image is not None])
            for i, caption in zip(there, told, strict=True):
                found[i] = dataclasses.replace(found[i], caption=caption)
        return found

    def _record(self, index: int, pictures: bool) -> Record | None:
        jpeg = getattr(self.source, "gives_jpeg", False) and not pictures
        try:
            record = self.source.jpeg(index) if jpeg else self.source[index]
        except BadRecord:
            return None
        caption, classes = caption_at(record.caption, 0), classes_of(self.source)
        if not caption and 0 <= record.label < len(classes):
            caption = OF_CLASS.format(classes[record.label].replace("_", " "))
        image = record.image
        if pictures and self.size and image.size:
            image = center_crop(image, self.size)
        return dataclasses.replace(record, caption=caption, image=image)

    def _picture(self, record: Record, index: int) -> np.ndarray | None:
        try:
            where = f"{self.source.name}[{index}]"
            return record.image if record.image.size else decode(record.jpeg, where)
        except BadRecord:
            return None


def score_all(
    scorer: ComplexityScorer,
    reading: Reading,
    count: int,
    lines: Lines,
    progress: Callable[[int], None],
) -> np.ndarray:
    """Scores the records that have no score yet; what is equal is asked once.

    Args:
        scorer: by the caption or by the picture.
        reading: of the records.
        count: the first so many of them.
        lines: what is kept so far.
        progress: is told how many are done.

    Returns:
        float64 [count], NaN where there is no score.
    """
    scores_N = np.full(count, np.nan)
    known: dict[str, Score] = {}
    for row in lines.rows:
        score = _score_of(row)
        if 0 <= row["record"] < count:
            scores_N[row["record"]] = score.value
        known[row["caption"]] = score
    missing = [index for index in range(count) if np.isnan(scores_N[index])]
    done = count - len(missing)
    for start in range(0, len(missing), AT_A_TIME):
        part = missing[start : start + AT_A_TIME]
        records = dict(zip(part, reading.records(part, scorer.reads_pictures), strict=True))
        for index, caption, score in _scores(scorer, records, known):
            row = _row(index, caption, score)
            lines.add([row])
            # As it is kept, so that a run which was stopped has the same thresholds.
            scores_N[index] = row["score"]
        done += len(part)
        progress(done)
    return scores_N


def _scores(
    scorer: ComplexityScorer, records: dict[int, Record | None], known: dict[str, Score]
) -> Iterator[tuple[int, str, Score]]:
    """Number, caption and score of the records that have one, each as soon as it is there."""
    there = {index: record for index, record in records.items() if record is not None}
    if scorer.reads_pictures:
        scored = scorer.score([*there.values()])
        pairs = zip(there.items(), scored, strict=True)
        yield from ((index, record.caption, score) for (index, record), score in pairs)
        return
    said = {index: record.caption for index, record in there.items() if record.caption}
    fresh = [caption for caption in dict.fromkeys(said.values()) if caption not in known]
    of_caption = {caption: [i for i, each in said.items() if each == caption] for caption in fresh}
    for index, caption in said.items():
        if caption in known:
            yield index, caption, known[caption]
    found = scorer.score([Record(NO_PICTURE, caption) for caption in fresh])
    for caption, score in zip(fresh, found, strict=True):
        if score.there:
            known[caption] = score
            yield from ((index, caption, score) for index in of_caption[caption])


def _row(index: int, caption: str, score: Score) -> dict[str, Any]:
    row = {"record": index, "caption": caption, "score": float(f"{score.value:.6g}")}
    return row | ({"reasoning": score.reasoning} if score.reasoning else {})


def _score_of(row: dict[str, Any]) -> Score:
    """A row's score. Raises `UserError` where it is none of ours."""
    number, caption, value = (row.get(name) for name in ("record", "caption", "score"))
    numbers = type(number) is int and type(value) in (int, float)
    if not numbers or not isinstance(caption, str):
        raise UserError(
            f"the file of scores has a row {str(row)[:80]!r}, which is no score of ours"
        )
    return Score(float(value), str(row.get("reasoning", "")))


def read_scores(
    path: str, captions: Sequence[str], records: Sequence[int], data: str
) -> tuple[str, np.ndarray]:
    """Who scored, and the scores of these records, float64 [N], NaN where there is none.

    Args:
        path: a file of `babeldraw score`.
        captions, records: captions and numbers of records, which the file must agree on.
        data: their source's name, likewise.

    Raises:
        UserError: the file is none, or is of other data.
    """
    head, rows = read_lines(path, "--scores")
    require("scorer" in head, f"--scores={path} is not of `babeldraw score`: it names no scorer")
    require(
        head.get("data") == data,
        f"--scores={path} is of {head.get('data')} and --errors of {data}: they are of other data",
    )
    said = dict(zip(records, captions, strict=True))
    scores = dict.fromkeys(records, np.nan)
    for row in rows:
        score, number = _score_of(row), row["record"]
        if number in said:
            require(
                not said[number] or said[number] == row["caption"],
                f"--scores={path} says {row['caption'][:40]!r} of record {number} and --errors "
                f"{said[number][:40]!r}: they are of other data",
            )
            scores[number] = score.value
    return str(head["scorer"]), np.array([*scores.values()])


def class_scores(scores_N: np.ndarray, label_N: Sequence[int], classes: int) -> np.ndarray:
    """The mean score of each class's pictures, float64 [classes]; NaN where none has one."""
    label_N = np.asarray(label_N)
    there_N = np.isfinite(scores_N) & (label_N >= 0)
    count_C = np.bincount(label_N[there_N], minlength=classes)
    total_C = np.bincount(label_N[there_N], weights=scores_N[there_N], minlength=classes)
    return np.where(count_C > 0, total_C / np.maximum(count_C, 1), np.nan)
