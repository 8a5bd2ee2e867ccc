"""The level that a picture is drawn into, from what is asked for and before there is a picture."""

from collections.abc import Callable, Sequence

from babeldraw.complexity.base import ComplexityScorer
from babeldraw.complexity.scoring import OF_CLASS
from babeldraw.config import require
from babeldraw.data.complexity import LevelThresholds
from babeldraw.data.records import NO_PICTURE, Record
from babeldraw.models.condition import Asked


def level_chooser(
    scorer: ComplexityScorer, levels: LevelThresholds, classes: Sequence[str] = ()
) -> Callable[[Asked], str]:
    """From what is asked for to the name of a level: by the text, or else by the class's name.

    What is asked for without either, and what gets no score, goes into the level of most codes.

    Args:
        scorer: of captions.
        levels: their names and thresholds.
        classes: names of the classes, where classes are drawn.

    Raises:
        UserError: the scorer reads pictures, of which there are none yet.
    """
    check_reads_words(scorer)
    known: dict[str, str] = {}

    def level_of(asked: Asked) -> str:
        said = asked.text or ""
        if not said and asked.label is not None and asked.label < len(classes):
            said = OF_CLASS.format(classes[asked.label].replace("_", " "))
        if not said:
            return levels.names[0]
        if said not in known:
            (score,) = scorer.score([Record(NO_PICTURE, said)])
            known[said] = levels.name_of(score.value)
        return known[said]

    return level_of


def check_reads_words(scorer: ComplexityScorer) -> None:
    """Raises `UserError` where a scorer reads pictures, of which there are none yet."""
    require(
        not scorer.reads_pictures,
        f"{scorer.identity} scores pictures, and there is none before it is drawn; take a "
        "language model or a regressor",
    )
