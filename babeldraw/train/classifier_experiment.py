"""The config of a classifier that judges what others draw."""

import dataclasses

from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.evaluation.classification import Classification, ClassificationConfig
from babeldraw.judges.classifier import ClassifierConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.image_classifier import ImageClassifierObjective
from babeldraw.sharding.layout import Layout
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.requirements import (
    check_layout,
    need_pictures,
    need_rules_alone,
    need_whole_batches,
    need_whole_weights,
)


@dataclasses.dataclass(frozen=True)
class ClassifierEvaluators:
    """Which evaluators judge a classifier; None leaves one out."""

    classification: ClassificationConfig | None = ClassificationConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClassifierExperiment(Experiment):
    """A classifier of real pictures. Each attribute is the config's section of that name."""

    model: ClassifierConfig
    evaluators: ClassifierEvaluators = ClassifierEvaluators()

    classes_in = "model.num_classes"
    width_field = "config.model.channels"

    def __post_init__(self):
        need_pictures(self.data)
        need_whole_batches(self.train, "a classifier")

    @property
    def image_size(self) -> tuple[int, int]:
        return self.model.image_size

    @property
    def num_classes(self) -> int:
        return self.model.num_classes

    def make_objective(self) -> Objective:
        return ImageClassifierObjective(
            model=self.model, optimizer=self.optimizer, batch_size=self.train.batch_size
        )

    def check_layout(self, layout: Layout) -> None:
        need_whole_weights(self.mesh)
        need_rules_alone(self.mesh, "a classifier's")
        check_layout(layout, self.train.batch_size, 1, self.stacks)

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        fns, config = objective.predict_fns(), self.evaluators.classification
        if config is None:
            return {}
        return {"classification": Classification(fns["classify"], config, context)}
