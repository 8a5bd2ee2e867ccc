"""`babeldraw inspect --data=PAGE`: the data of a config as they enter the model, on one page."""

import itertools
import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from babeldraw.commands.flags import make_folder
from babeldraw.data.image import write_whole
from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.records import classes_of
from babeldraw.data.shards import MANIFEST
from babeldraw.data.text import PAD_ID, Vocabulary, captions_in, train_vocabulary
from babeldraw.errors import UserError
from babeldraw.pages import png, render
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.start import open_batches, open_train_source

SHOWN = 24
# Captions whose lengths are counted.
COUNTED = 20_000
BARS = 16


def write_data_page(experiment: Experiment, page: str, vocabulary_file: str) -> Path:
    """Writes the page: pictures of a first batch with their captions, counts, token lengths.

    Args:
      experiment: whose data it shows, cropped and encoded as its training does.
      page: the HTML file to write.
      vocabulary_file: of a text-to-image config; '' trains one from the captions for the page.

    Raises:
      UserError: the data cannot be read, or the config trains on stored tokens or on texts.
    """
    if experiment.data.source == "tokens":
        raise UserError("config.data.source is 'tokens', which hold no pictures to show")
    if not experiment.reads_pictures:
        raise UserError("config.loss.contrastive is 0: the run reads texts alone, no pictures")
    path = Path(page)
    make_folder(path.parent, f"--data={page}")
    source = open_train_source(experiment)
    vocabulary = _vocabulary(experiment, vocabulary_file)
    batches = open_batches(experiment, vocabulary, source)
    # Before the facts, which tell how many records it took.
    pictures = _pictures(batches, vocabulary)
    text = render(
        "data.html",
        name=source.name,
        facts=_facts(experiment, batches),
        prepared=_prepared(experiment.data.path),
        lengths=_lengths(source.captions(), vocabulary, batches),
        pictures=pictures,
    )
    batches.close()
    write_whole(path, text.encode(errors="replace"))
    return path


def _vocabulary(experiment: Experiment, file: str) -> Vocabulary | None:
    if not experiment.text_length:
        return None
    if file:
        return Vocabulary(file)
    with tempfile.TemporaryDirectory() as folder:
        made = os.path.join(folder, "text.model")
        captions = itertools.islice(open_train_source(experiment).captions(), COUNTED)
        train_vocabulary(captions, made, experiment.vocab_size)
        return Vocabulary(made)


def _pictures(batches: TrainBatches, vocabulary: Vocabulary | None) -> list[dict[str, Any]]:
    """The first pictures, each with its caption as its ids read back."""
    pictures, names = [], classes_of(batches.source)
    while len(pictures) < SHOWN:
        batch = next(batches)
        for row, image in enumerate(batch["image"]):
            label = _label(int(batch["label"][row]), names)
            picture = {"address": png(image), "label": label, "caption": "", "tokens": None}
            if vocabulary is not None:
                ids = batch["text"][row]
                tokens = int((ids != PAD_ID).sum())
                picture |= {"caption": vocabulary.decode(ids), "tokens": tokens}
            pictures.append(picture)
    return pictures[:SHOWN]


def _label(number: int, names: tuple[str, ...]) -> str:
    if number < 0:
        return ""
    name = names[number] if number < len(names) else str(number)
    return f"label {number}" if name == str(number) else f"label {number} ({name})"


def _facts(experiment: Experiment, batches: TrainBatches) -> dict[str, str]:
    reader, size = batches.reader, experiment.image_size
    share = reader.bad / max(1, reader.read)
    classes = classes_of(reader.source)
    return {
        "records": f"{len(reader.source):,}",
        **({"classes": f"{len(classes):,}"} if classes else {}),
        "steps per epoch": f"{len(reader.source) / experiment.train.batch_size:,.1f}",
        "pictures": f"{size[1]} x {size[0]}, crop {experiment.data.crop}",
        "read for this page": f"{reader.read:,}",
        "damaged among them": f"{reader.bad:,} ({share:.1%})",
    }


def _prepared(path: str) -> dict[str, str]:
    """What `babeldraw prepare` left out, where it made the data."""
    manifest = Path(path) / MANIFEST
    try:
        counts = json.loads(manifest.read_text())
        total, rejected = counts["records"], counts["rejected"]
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    share = sum(rejected.values()) / max(1, total)
    rows = {"read": f"{total:,}", "kept": f"{counts['count']:,}", "left out": f"{share:.1%}"}
    return rows | {reason: f"{count:,}" for reason, count in rejected.items()}


def _lengths(captions, vocabulary: Vocabulary | None, batches: TrainBatches) -> dict[str, Any]:
    """A histogram of token counts, and how many captions are cut; empty without captions."""
    if vocabulary is None:
        return {}
    said = (text for caption in captions for text in captions_in(caption))
    lengths = vocabulary.lengths(list(itertools.islice(said, COUNTED)))
    if not lengths:
        return {}
    width = max(1, -(-(max(lengths) + 1) // BARS))
    counts = Counter(length // width for length in lengths)
    most = max(counts.values())
    bars = [
        {
            "first": bar * width,
            "last": bar * width + width - 1,
            "count": counts[bar],
            "share": 100 * counts[bar] / most,
        }
        for bar in range(max(counts) + 1)
    ]
    limit = batches.text_length
    cut = sum(length > limit for length in lengths)
    text = (
        f"Of {len(lengths):,} captions {cut:,} have more than text_length={limit} tokens and are "
        f"cut; mean {np.mean(lengths):.1f}, vocabulary of {vocabulary.size:,} pieces."
    )
    return {"bars": bars, "text": text}
