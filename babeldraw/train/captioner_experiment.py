"""The config of a contrastive captioner."""

import dataclasses

from babeldraw.config import require
from babeldraw.data.config import DataConfig
from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.evaluation.retrieval import Retrieval, RetrievalConfig
from babeldraw.evaluation.validation_loss import ValidationLoss, ValidationLossConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.coca import STACKS, CoCaConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.contrastive_captioner import (
    ContrastiveCaptionerLossConfig,
    ContrastiveCaptionerObjective,
)
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.sharding.layout import Layout
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.train.requirements import check_layout, need_pictures, need_whole_batches
from babeldraw.train.settings import TrainConfig


@dataclasses.dataclass(frozen=True)
class ContrastiveCaptionerEvaluators:
    """Which evaluators judge a captioner; None leaves one out. `validation_loss`: captioning's."""

    retrieval: RetrievalConfig | None = RetrievalConfig()
    validation_loss: ValidationLossConfig | None = ValidationLossConfig()


@dataclasses.dataclass(frozen=True)
class ContrastiveCaptionerExperiment:
    """CoCa. Each attribute is the config's section of that name."""

    objective: str
    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    model: CoCaConfig
    loss: ContrastiveCaptionerLossConfig = ContrastiveCaptionerLossConfig()
    evaluators: ContrastiveCaptionerEvaluators = ContrastiveCaptionerEvaluators()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        need_pictures(self.data)
        need_whole_batches(
            self.train,
            "the contrastive loss, which tells each pair from all others of a batch,",
        )
        require(
            self.train.batch_size > 1,
            "config.train.batch_size is 1; the contrastive loss needs other pairs, so at least 2",
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures to train on."""
        return self.model.image_size

    def make_objective(self) -> Objective:
        return ContrastiveCaptionerObjective(
            self.model, self.optimizer, self.loss, self.train.batch_size, self.mesh.overrides
        )

    def check_layout(self, layout: Layout) -> None:
        """Raises `UserError` when the config does not fit a mesh."""
        require(
            not layout.pipelined,
            "config.mesh.rules is pipeline, which a contrastive captioner has no use for; take "
            "data_parallel, fsdp or in_layer",
        )
        check_layout(layout, self.train.batch_size, 1, self.stacks)
        if self.mesh.overrides:
            self.make_objective().axes()

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformers to be trained, by their path in the config."""
        return {f"config.model.{name}": getattr(self.model, name) for name in STACKS}

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """The configured evaluators by name."""
        fns, configs, made = objective.predict_fns(), self.evaluators, {}
        if configs.retrieval is not None:
            made["retrieval"] = Retrieval(fns["embed"], configs.retrieval, context)
        if configs.validation_loss is not None:
            made["captioning"] = ValidationLoss(fns["loss"], configs.validation_loss, context)
        return made
