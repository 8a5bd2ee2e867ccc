"""The config of a contrastive captioner."""

import dataclasses

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.evaluation.retrieval import Retrieval, RetrievalConfig
from babeldraw.evaluation.validation_loss import ValidationLoss, ValidationLossConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.coca import STACKS, CoCaConfig, ContrastiveCaptioner
from babeldraw.objectives.base import Objective
from babeldraw.objectives.contrastive_captioner import (
    ContrastiveCaptionerLossConfig,
    ContrastiveCaptionerObjective,
)
from babeldraw.sharding.layout import Layout
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.flops import ModelFlops, image_spec, traced
from babeldraw.train.requirements import check_layout, need_pictures, need_whole_batches


@dataclasses.dataclass(frozen=True)
class ContrastiveCaptionerEvaluators:
    """Which evaluators judge a captioner; None leaves one out. `validation_loss`: captioning's."""

    retrieval: RetrievalConfig | None = RetrievalConfig()
    validation_loss: ValidationLossConfig | None = ValidationLossConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ContrastiveCaptionerExperiment(Experiment):
    """CoCa. Each attribute is the config's section of that name."""

    model: CoCaConfig
    loss: ContrastiveCaptionerLossConfig = ContrastiveCaptionerLossConfig()
    evaluators: ContrastiveCaptionerEvaluators = ContrastiveCaptionerEvaluators()

    text_in = "model.text_length"
    word_table = "unimodal/embed/table"

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
        return self.model.image_size

    @property
    def text_length(self) -> int:
        return self.model.text_length

    @property
    def vocab_size(self) -> int:
        return self.model.text_vocab_size

    def with_vocabulary(self, size: int) -> "ContrastiveCaptionerExperiment":
        return dataclasses.replace(
            self, model=dataclasses.replace(self.model, text_vocab_size=size)
        )

    def make_objective(self) -> Objective:
        return ContrastiveCaptionerObjective(
            model=self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            batch_size=self.train.batch_size,
            overrides=self.mesh.overrides,
        )

    def check_layout(self, layout: Layout) -> None:
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
        return {f"config.model.{name}": getattr(self.model, name) for name in STACKS}

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        fns, configs, made = objective.predict_fns(), self.evaluators, {}
        if configs.retrieval is not None:
            made["retrieval"] = Retrieval(fns["embed"], configs.retrieval, context)
        if configs.validation_loss is not None:
            made["captioning"] = ValidationLoss(fns["loss"], configs.validation_loss, context)
        return made

    def flops(self) -> ModelFlops:
        """Traced; the similarities of a batch are left out."""
        captioner = ContrastiveCaptioner(self.model)
        text = jax.ShapeDtypeStruct((1, self.model.text_length), jnp.int32)
        image = image_spec(self.model.image_size)
        forward = traced(captioner, captioner.init, image, text)
        return ModelFlops({"captioner": 3 * forward}, {"captioner": "3 forward, of attention all"})
