"""The error that a tokenizer really makes of each picture at each of its levels."""

import dataclasses
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from babeldraw.complexity.lines import read_lines
from babeldraw.config import require
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.evaluation import measures
from babeldraw.judges.perceptual import PerceptualNetwork
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.pixels import to_float


@dataclasses.dataclass(frozen=True)
class Errors:
    """What was measured of N pictures at K levels.

    Attributes:
        measure: `mse`, or `lpips_` and the network.
        codes: of a picture at each level, by its name, in the tokenizer's order.
        captions: of each picture.
        error_NK: float64.
        records: the number of each picture in its data.
        data: which data.
    """

    measure: str
    codes: dict[str, int]
    captions: tuple[str, ...]
    error_NK: np.ndarray
    records: tuple[int, ...]
    data: str

    @classmethod
    def read(cls, path: str | os.PathLike, name: str = "--errors") -> "Errors":
        """What `babeldraw score measure` wrote.

        Raises:
            UserError: it cannot be read, or is something else.
        """
        head, rows = read_lines(path, name)
        require(bool(rows), f"{name}={path} holds no picture; run `babeldraw score measure`")
        try:
            error_NK = [[float(row["errors"][level]) for level in head["codes"]] for row in rows]
            return cls(
                str(head["measure"]),
                {level: int(count) for level, count in head["codes"].items()},
                tuple(str(row["caption"]) for row in rows),
                np.array(error_NK, np.float64),
                tuple(int(row["record"]) for row in rows),
                str(head["data"]),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"{name}={path} is not of `babeldraw score measure`: {type(error).__name__} {error}"
            ) from error

    @property
    def log_error_N(self) -> np.ndarray:
        """The mean over levels of log error: by what factor a picture is harder than another.

        Of no level alone, so that the coarsest, whose errors are largest, does not drown the rest.
        """
        # Flat pictures may come back to the last bit.
        return np.log(np.maximum(self.error_NK, 1e-9)).mean(axis=1)


def codes_by_level(tokenizer: Tokenizer) -> dict[str, int]:
    """How many codes a picture becomes at each level, in the tokenizer's order, most first.

    Raises:
        UserError: there is one level, or they are not ordered so, or of several sizes of pictures.
    """
    kind = tokenizer.config.kind
    require(len(tokenizer.levels) > 1, f"tokenizer.kind={kind} has one level; there is no choice")
    at = [tokenizer.at(level) for level in tokenizer.levels]
    counts = {each.level or each.levels[0]: int(np.prod(each.codes.shape)) for each in at}
    ordered = list(counts.values()) == sorted(counts.values(), reverse=True)
    sizes = {each.image_size for each in at}
    require(
        ordered and len(sizes) == 1,
        f"tokenizer.kind={kind} has levels of {list(counts.values())} codes for pictures of "
        f"{sorted(sizes)}; those of one size of pictures, most codes first, can be chosen from",
    )
    return counts


def measurer(
    run: TokenizerRun, perceptual: PerceptualNetwork | None, weights: Any
) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """uint8 [B, height, width, 3] to the error of each picture, float32 [B], by level.

    Args:
        run: the tokenizer.
        perceptual: by which the error is LPIPS; None: it is the mean squared error.
        weights: of that network.
    """

    def program(tokenizer: Tokenizer) -> Callable[..., jax.Array]:
        def error(params: Any, weights: Any, images: jax.Array) -> jax.Array:
            originals = to_float(images)
            found = jnp.clip(tokenizer.reconstruct(params, originals)[0], 0.0, 1.0)
            if perceptual is None:
                return measures.l2(found, originals)
            return perceptual.distance(weights, found, originals)

        return jax.jit(error)

    levels = codes_by_level(run.tokenizer)
    programs = {level: program(run.tokenizer.at(level)) for level in levels}

    def measure(images: np.ndarray) -> dict[str, np.ndarray]:
        return {
            level: np.asarray(jax.device_get(error(run.params, weights, images)))
            for level, error in programs.items()
        }

    return measure


def rows_of(
    records: Sequence[int], captions: Sequence[str], found: Mapping[str, np.ndarray]
) -> list[dict[str, Any]]:
    """Rows of a file of errors; `found` may hold more, of padding."""
    return [
        {
            "record": record,
            "caption": caption,
            "errors": {level: float(f"{error[i]:.6g}") for level, error in found.items()},
        }
        for i, (record, caption) in enumerate(zip(records, captions, strict=True))
    ]
