"""Choosing the best: more pictures are drawn than are kept, and a judge says which.

Parti draws 16 pictures of each prompt and keeps the one that CoCa likes best (section 2.3).
VQ-VAE-2 (Razavi et al. 2019, section 3.4) and ViT-VQGAN (2022, section 5.2) keep those that a
classifier holds for likeliest of their class, an "acceptance" of a half.
"""

from collections.abc import Callable, Sequence
from typing import Protocol

import numpy as np

from babeldraw.config import require
from babeldraw.drawing.captioner_judge import CaptionerJudge
from babeldraw.drawing.classifier_judge import ClassifierJudge
from babeldraw.drawing.clip_judge import CLIPJudge
from babeldraw.drawing.teller_judge import TellerJudge
from babeldraw.errors import UserError
from babeldraw.models.condition import Asked, Condition, Lexicon
from babeldraw.runs.folder import RunFolder


class Judge(Protocol):
    """Whatever tells how well a picture shows what was asked for."""

    def score(self, images: np.ndarray, asked: Sequence[Asked]) -> np.ndarray:
        """One score a picture; of two pictures of one thing the better has the higher.

        Args:
          images: [B, height, width, 3], uint8, or float32 in [0, 1].
          asked: the B things that they were drawn of.

        Returns:
          float32 [B].
        """
        ...

    def check(self, condition: Condition, lexicon: Lexicon) -> None:
        """Raises `UserError` where it cannot judge what is drawn from such a condition."""
        ...

    def notes(self, asked: Asked) -> tuple[str, ...]:
        """What it will judge otherwise than one might think, a sentence each.

        Raises:
          UserError: it cannot judge this at all.
        """
        ...


# What opens a judge, by the objective of its run.
JUDGES: dict[str, Callable[[str], Judge]] = {
    "contrastive_captioner": CaptionerJudge.open,
    "image_classifier": ClassifierJudge.open,
    "generator": TellerJudge.open,
}


def open_judge(workdir: str) -> Judge:
    """The judge of a run folder, or CLIP of a .safetensors file.

    Raises:
      UserError: it is none of a judge's.
    """
    if workdir.endswith(".safetensors"):
        return CLIPJudge.open(workdir)
    objective = RunFolder.to_read(workdir).read_config()["objective"]
    if objective not in JUDGES:
        raise UserError(
            f"{workdir} is a run of {objective}; a judge is one of {' or '.join(JUDGES)}, or a "
            ".safetensors file of CLIP"
        )
    return JUDGES[objective](workdir)


def best(scores: np.ndarray, keep: int) -> np.ndarray:
    """Indices of the `keep` highest of the scores [N] of one thing, the best first.

    Of equal ones the earlier comes first.

    Raises:
      UserError: `keep` is not in [1, N].
    """
    require(
        1 <= keep <= len(scores),
        f"keep is {keep} of {len(scores)} pictures; a number from 1 to {len(scores)} is needed",
    )
    return np.argsort(-np.asarray(scores), kind="stable")[:keep]
