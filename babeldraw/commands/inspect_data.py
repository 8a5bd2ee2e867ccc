"""`babeldraw inspect --data=PAGE`: the data of a config as they enter the model, on one page."""

import base64
import io
import itertools
import json
import os
import tempfile
from collections import Counter
from html import escape
from pathlib import Path

import numpy as np
from PIL import Image

from babeldraw.commands.flags import make_folder
from babeldraw.data.image import write_whole
from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.shards import MANIFEST
from babeldraw.data.text import PAD_ID, Vocabulary, train_vocabulary
from babeldraw.errors import UserError
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.start import open_batches, open_train_source

SHOWN = 24
# Captions whose lengths are counted.
COUNTED = 20_000
BARS = 16
STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color-scheme: light dark }
h1 { font-size: 1.4rem } h2 { font-size: 1.1rem; margin-top: 2rem }
.grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(150px, 1fr)); gap: 1rem }
figure { margin: 0 } img { width: 100%; image-rendering: pixelated }
figcaption { font-size: .8rem; overflow-wrap: anywhere }
table { border-collapse: collapse } td, th { padding: .15rem .8rem .15rem 0; text-align: left }
td.n { text-align: right; font-variant-numeric: tabular-nums }
.bar { background: #4a7ab5; height: .8rem } code { font-size: .85rem }
"""


def write_data_page(experiment: Experiment, page: str, vocabulary_file: str) -> Path:
    """Writes the page: pictures of a first batch with their captions, counts, token lengths.

    Args:
      experiment: whose data it shows, cropped and encoded as its training does.
      page: the HTML file to write.
      vocabulary_file: of a text-to-image config; '' trains one from the captions for the page.

    Raises:
      UserError: the data cannot be read, or the config trains on stored tokens.
    """
    if experiment.data.source == "tokens":
        raise UserError("config.data.source is 'tokens', which hold no pictures to show")
    path = Path(page)
    make_folder(path.parent, f"--data={page}")
    source = open_train_source(experiment)
    vocabulary = _vocabulary(experiment, vocabulary_file)
    batches = open_batches(experiment, vocabulary, source)
    pictures = _pictures(batches, vocabulary)
    sections = [
        f"<h1>{escape(source.name)}</h1>",
        _facts(experiment, batches),
        _prepared(experiment.data.path),
        _lengths(source.captions(), vocabulary, batches),
        f"<h2>As they enter the model</h2><div class=grid>{pictures}</div>",
    ]
    batches.close()
    text = f"<!doctype html><meta charset=utf-8><style>{STYLE}</style>" + "\n".join(sections)
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


def _pictures(batches: TrainBatches, vocabulary: Vocabulary | None) -> str:
    """The first pictures, each with its caption as its ids read back."""
    figures = []
    while len(figures) < SHOWN:
        batch = next(batches)
        for row, image in enumerate(batch["image"]):
            said = f"label {batch['label'][row]}" if batch["label"][row] >= 0 else ""
            if vocabulary is not None:
                ids = batch["text"][row]
                count = int((ids != PAD_ID).sum())
                said = f"{escape(vocabulary.decode(ids))} <code>{count} tokens</code> {said}"
            figures.append(f"<figure>{_img(image)}<figcaption>{said}</figcaption></figure>")
    return "".join(figures[:SHOWN])


def _img(image: np.ndarray) -> str:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return f'<img src="data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}">'


def _facts(experiment: Experiment, batches: TrainBatches) -> str:
    reader, size = batches.reader, experiment.image_size
    share = reader.bad / max(1, reader.read)
    rows = {
        "records": f"{len(reader.source):,}",
        "steps per epoch": f"{len(reader.source) / experiment.train.batch_size:,.1f}",
        "pictures": f"{size[1]} x {size[0]}, crop {experiment.data.crop}",
        "read for this page": f"{reader.read:,}",
        "damaged among them": f"{reader.bad:,} ({share:.1%})",
    }
    return _table(rows)


def _prepared(path: str) -> str:
    """What `babeldraw prepare` left out, where it made the data."""
    manifest = Path(path) / MANIFEST
    try:
        counts = json.loads(manifest.read_text())
        total, rejected = counts["records"], counts["rejected"]
    except (OSError, ValueError, KeyError, TypeError):
        return ""
    share = sum(rejected.values()) / max(1, total)
    rows = {"read": f"{total:,}", "kept": f"{counts['count']:,}", "left out": f"{share:.1%}"}
    rows |= {reason: f"{count:,}" for reason, count in rejected.items()}
    return f"<h2>Prepared</h2>{_table(rows)}"


def _lengths(captions, vocabulary: Vocabulary | None, batches: TrainBatches) -> str:
    """A histogram of token counts, and how many captions are cut."""
    if vocabulary is None:
        return ""
    lengths = vocabulary.lengths(list(itertools.islice(captions, COUNTED)))
    if not lengths:
        return ""
    width = max(1, -(-(max(lengths) + 1) // BARS))
    counts = Counter(length // width for length in lengths)
    most, rows = max(counts.values()), []
    for bar in range(max(counts) + 1):
        share = 100 * counts[bar] / most
        rows.append(
            f"<tr><td class=n>{bar * width} to {bar * width + width - 1}<td class=n>{counts[bar]:,}"
            f'<td style="width:30rem"><div class=bar style="width:{share:.1f}%"></div>'
        )
    limit = batches.text_length
    cut = sum(length > limit for length in lengths)
    return (
        f"<h2>Tokens per caption</h2><table>{''.join(rows)}</table><p>Of {len(lengths):,} captions "
        f"{cut:,} have more than text_length={limit} tokens and are cut; mean "
        f"{np.mean(lengths):.1f}, vocabulary of {vocabulary.size:,} pieces."
    )


def _table(rows: dict[str, str]) -> str:
    cells = (f"<tr><td>{escape(name)}<td class=n>{escape(text)}" for name, text in rows.items())
    return f"<table>{''.join(cells)}</table>"
