"""How a figure came about, in words and numbers that go beside it: the protocol of a result."""

import platform
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import jax
import numpy as np
import PIL

import babeldraw
from babeldraw.data.pipeline import fingerprint
from babeldraw.data.records import Source
from babeldraw.evaluation.intervals import Figure
from babeldraw.sharding.memory import peak_bytes

# Conditions that are written out; of all there is a number.
SHOWN = 16


class Speed:
    """Pictures per second; the first batch, which compiles, is left out."""

    def __init__(self):
        self._pictures, self._seconds, self._begun = 0, 0.0, False

    @contextmanager
    def batch(self, pictures: int) -> Iterator[None]:
        """What is done within takes so many pictures."""
        start = time.perf_counter()
        yield
        if self._begun:
            self._pictures += pictures
            self._seconds += time.perf_counter() - start
        self._begun = True

    @property
    def per_second(self) -> float | None:
        """None where there was one batch only."""
        return self._pictures / self._seconds if self._pictures else None


def of_pictures(source: Source, num: int, split: str, size: tuple[int, int]) -> dict[str, Any]:
    """Of true pictures as `data.pipeline.eval_batches` gives them: the first `num`.

    Args:
      source: where they are from.
      num: how many, at most.
      split: the source's part.
      size: (height, width).
    """
    return {
        **of_records(source, num, split),
        "size": list(size),
        "crop": "largest centred one of the target's aspect, before resizing",
        "resize": {"library": "Pillow", "filter": "bilinear", "antialias": True, "rounded": True},
        "range": [0.0, 1.0],
    }


def of_records(source: Source, num: int, split: str) -> dict[str, Any]:
    """Which records they are, texts or pictures; as `of_pictures`."""
    return {
        "source": source.name,
        "split": split,
        "fingerprint": fingerprint(source),
        "n": min(num, len(source)),
        "of": len(source),
    }


def of_drawing(words: Sequence[Any], sampling: Any, guidance: Sequence[float]) -> dict[str, Any]:
    """Of pictures that `evaluation.drawn.Drawn` draws.

    Args:
      words: what each is drawn of.
      sampling: of the prediction.
      guidance: each with which all were drawn.
    """
    different = list({repr(word): word for word in words}.values())
    return {
        "conditions": {
            "n": len(words),
            "different": len(different),
            "first": different[:SHOWN],
        },
        "seeds": {"first": 0, "last": len(words) - 1, "of": "the picture's place"},
        "guidance": list(guidance),
        "sampling": {name: value for name, value in vars(sampling).items() if name != "guidance"},
        "range": [0.0, 1.0],
        "rounded": "to 8 bits",
    }


def guidance_of(sampling: Any) -> list[float]:
    """That of the settings, and 1, which is none."""
    return [sampling.guidance] if sampling.guidance == 1 else [sampling.guidance, 1.0]


def figures_json(figures: dict[str, float]) -> dict[str, dict[str, Any]]:
    """Each figure with its interval of 95 %; None for what is not finite, which JSON has not."""

    def number(value: float) -> float | None:
        return float(value) if np.isfinite(value) else None

    found: dict[str, dict[str, Any]] = {}
    for name, value in figures.items():
        found[name] = {"value": number(value)}
        if isinstance(value, Figure) and value.num:
            found[name]["n"] = value.num
        if isinstance(value, Figure) and value.interval is not None:
            own = value.interval
            found[name]["interval"] = [number(own.low), number(own.high)]
            found[name]["resamples"] = own.resamples
    return found


def versions() -> dict[str, str]:
    """Of what computes figures."""
    return {
        "babeldraw": babeldraw.__version__,
        "jax": jax.__version__,
        "numpy": np.__version__,
        "pillow": PIL.__version__,
        "python": platform.python_version(),
    }


def machine() -> dict[str, Any]:
    """Devices, and the most memory that one of them, or else this process, has held."""
    devices = jax.devices()
    found = {"device": devices[0].device_kind, "devices": len(devices)}
    peak, whose = peak_bytes()
    return found | {"peak_bytes": peak, "peak_of": whose}
