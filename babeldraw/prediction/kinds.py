"""The ways there are to predict codes: a new one is its own file and a line here."""

from collections.abc import Mapping
from typing import Annotated, Any

from babeldraw.config import OfKind, build, to_dict
from babeldraw.prediction.base import Prediction
from babeldraw.prediction.coglm import CogLMPrediction
from babeldraw.prediction.diffusion import DiffusionPrediction
from babeldraw.prediction.masked import MaskedPrediction
from babeldraw.prediction.next_token import NextToken
from babeldraw.prediction.permuted import PermutedNextToken
from babeldraw.prediction.refinement import RefinementPrediction

# By the field `kind` of the section.
PREDICTIONS: dict[str, tuple[type[Prediction]]] = {
    "next_token": (NextToken,),
    "permuted_next_token": (PermutedNextToken,),
    "coglm": (CogLMPrediction,),
    "masked": (MaskedPrediction,),
    "diffusion": (DiffusionPrediction,),
    "refinement": (RefinementPrediction,),
}
# The type of a section `prediction`, whichever kind it is of.
PredictionConfig = Annotated[Any, OfKind(PREDICTIONS)]


def read_prediction(config: Mapping[str, Any]) -> Prediction:
    """The prediction of a run's config, as config.json holds it."""
    return OfKind(PREDICTIONS).build(config["prediction"], "config.prediction")


def read_sampling(prediction: Prediction, section: Any, path: str, default: Any = None) -> Any:
    """A section of how to draw, of the prediction's own fields.

    Args:
      prediction: whose fields they are.
      section: what is set, a mapping; or all of it, built.
      path: how the user calls the section.
      default: built, for the fields that are not set; None: those of the dataclass.

    Raises:
      UserError: what `config.build` finds wrong.
    """
    if isinstance(section, prediction.sampling):
        return section
    base = {} if default is None else to_dict(default)
    return build(prediction.sampling, {**base, **(section or {})}, path)
