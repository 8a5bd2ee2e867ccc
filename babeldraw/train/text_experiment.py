"""The config of a text encoder that learns before a generator begins from it."""

import dataclasses

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.data.config import DataConfig
from babeldraw.evaluation.base import Context, Evaluator, of_texts
from babeldraw.evaluation.retrieval import Retrieval, RetrievalConfig
from babeldraw.evaluation.text_probe import TextProbe, TextProbeConfig
from babeldraw.evaluation.validation_loss import ValidationLoss, ValidationLossConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.conditions import TextCondition
from babeldraw.models.text_pretraining import TextPretrainer, TextPretrainingConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.text_encoder import TextEncoderLossConfig, TextEncoderObjective
from babeldraw.sharding.layout import Layout
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.flops import ModelFlops, image_spec, traced
from babeldraw.train.requirements import check_layout, need_pictures, need_whole_batches


@dataclasses.dataclass(frozen=True)
class TextEncoderEvaluators:
    """Which evaluators judge a text encoder; None leaves one out.

    `validation_loss`: of masked pieces. Of a loss without weight there is nothing to judge.
    """

    retrieval: RetrievalConfig | None = RetrievalConfig()
    validation_loss: ValidationLossConfig | None = ValidationLossConfig()
    text_probe: TextProbeConfig | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TextEncoderExperiment(Experiment):
    """Pretraining of a generator's text encoder. Each attribute is the section of that name.

    condition: the texts, as the generator's; its `dropout` has no effect here.
    data: pairs; without a contrastive loss texts, or pictures whose captions alone are read.
    text_data: texts to be masked beside the pairs; None: the pairs' own captions are masked.
    """

    model: TextPretrainingConfig
    condition: TextCondition
    loss: TextEncoderLossConfig = TextEncoderLossConfig()
    text_data: DataConfig | None = None
    evaluators: TextEncoderEvaluators = TextEncoderEvaluators()

    word_table = "text_encoder/embed/table"
    # Of a loss without weight there is no network.
    also_fixed = ("loss", "text_data")

    def __post_init__(self):
        if self.reads_pictures:
            need_pictures(self.data)
            require(
                self.model.image_encoder is not None,
                f"config.model.image_encoder is None and config.loss.contrastive "
                f"{self.loss.contrastive}; give the sizes of a tower that reads pictures, or set "
                "the weight to 0",
            )
            require(
                self.train.batch_size > 1,
                "config.train.batch_size is 1; the contrastive loss needs other pairs, so at "
                "least 2",
            )
        require(
            self.text_data is None or (self.loss.masked > 0 and self.reads_pictures),
            "config.text_data is set, texts to be masked beside pairs, and one of "
            "config.loss.masked and contrastive is 0; name the data in config.data alone",
        )
        require(
            self.data.source != "texts" or not self.reads_pictures,
            "config.data.source is 'texts', texts without pictures, and config.loss.contrastive "
            f"{self.loss.contrastive}; set the weight to 0, or name pairs in config.data and the "
            "texts in config.text_data",
        )
        need_whole_batches(self.train, "the losses of a text encoder, which are of a whole batch,")

    @property
    def reads_pictures(self) -> bool:
        return self.loss.contrastive > 0

    @property
    def texts_beside(self) -> DataConfig | None:
        return self.text_data

    @property
    def image_size(self) -> tuple[int, int]:
        return self.model.image_size

    @property
    def text_length(self) -> int:
        return self.condition.length

    @property
    def vocab_size(self) -> int:
        return self.condition.vocab_size

    def with_vocabulary(self, size: int) -> "TextEncoderExperiment":
        return dataclasses.replace(self, condition=self.condition.with_vocabulary(size))

    def make_objective(self) -> Objective:
        return TextEncoderObjective(
            model=self.model,
            condition=self.condition,
            loss=self.loss,
            own_texts=self.text_data is not None,
            optimizer=self.optimizer,
            batch_size=self.train.batch_size,
            overrides=self.mesh.overrides,
        )

    def check_layout(self, layout: Layout) -> None:
        require(
            not layout.pipelined,
            "config.mesh.rules is pipeline, which a text encoder by itself has no use for; take "
            "data_parallel, fsdp or in_layer",
        )
        check_layout(layout, self.train.batch_size, 1, self.stacks)
        if self.mesh.overrides:
            self.make_objective().axes()

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        found = {"config.model.encoder": self.model.encoder}
        if self.reads_pictures:
            found["config.model.image_encoder"] = self.model.image_encoder
        return found

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        fns, configs, made = objective.predict_fns(), self.evaluators, {}
        if configs.retrieval is not None and "embed" in fns:
            made["retrieval"] = Retrieval(fns["embed"], configs.retrieval, context)
        if configs.validation_loss is not None and "loss" in fns:
            texts = of_texts(context, self.text_data or self.data)
            made["masked"] = ValidationLoss(fns["loss"], configs.validation_loss, texts)
        if configs.text_probe is not None and configs.text_probe.path:
            made["text_probe"] = TextProbe(fns["text_features"], configs.text_probe, context)
        return made

    def flops(self) -> ModelFlops:
        """Traced; the similarities of a batch are left out."""
        masked, contrastive = self.loss.masked > 0, self.reads_pictures
        network = TextPretrainer(self.model, self.condition, masked, contrastive)
        length, parts = self.condition.length, {}
        text = jax.ShapeDtypeStruct((1, length), jnp.int32)
        if masked:
            hidden = jax.ShapeDtypeStruct((1, length), jnp.bool_)
            places = max(1, round(self.loss.share * length))
            places = jax.ShapeDtypeStruct((1, places), jnp.int32)
            parts["masked"] = traced(network.piece_logits, network.init, text, hidden, places)
        if contrastive:
            image = image_spec(self.model.image_size)
            parts["contrastive"] = traced(network.pair, network.init, image, text)
        told = {name: "3 forward, of attention all" for name in parts}
        return ModelFlops({name: 3 * forward for name, forward in parts.items()}, told)
