"""Configs of what has classes: VIM, and the classifier that judges its pictures."""

import dataclasses

from babeldraw.config import require
from babeldraw.data.config import DataConfig
from babeldraw.drawing.class_sampler import check_classes
from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.evaluation.class_samples import (
    ClassAccuracy,
    ClassAccuracyConfig,
    ClassSamples,
    ClassSamplesConfig,
)
from babeldraw.evaluation.classification import Classification, ClassificationConfig
from babeldraw.evaluation.linear_probe import LinearProbe, LinearProbeConfig, check_blocks
from babeldraw.evaluation.validation_loss import ValidationLoss, ValidationLossConfig
from babeldraw.judges.classifier import ClassifierConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.vim import VIMConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.class_to_image import ClassToImageLossConfig, ClassToImageObjective
from babeldraw.objectives.image_classifier import ImageClassifierObjective
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.sharding.layout import Layout
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.tokenizers.kinds import TokenizerConfig
from babeldraw.train.requirements import (
    check_layout,
    need_pictures,
    need_rules_alone,
    need_whole_batches,
    need_whole_weights,
)
from babeldraw.train.settings import TrainConfig


@dataclasses.dataclass(frozen=True)
class ClassToImageEvaluators:
    """Which evaluators judge a VIM; None leaves one out."""

    validation_loss: ValidationLossConfig | None = ValidationLossConfig()
    samples: ClassSamplesConfig | None = ClassSamplesConfig()
    class_accuracy: ClassAccuracyConfig | None = None
    linear_probe: LinearProbeConfig | None = None


@dataclasses.dataclass(frozen=True)
class ClassToImageExperiment:
    """VIM. Each attribute is the config's section of that name.

    tokenizer_run: run folder of the trained tokenizer, whose network must be `tokenizer`.
    sampling: what `babeldraw sample` does unless told otherwise.
    """

    objective: str
    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    tokenizer: TokenizerConfig
    model: VIMConfig
    tokenizer_run: str = ""
    loss: ClassToImageLossConfig = ClassToImageLossConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluators: ClassToImageEvaluators = ClassToImageEvaluators()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        require(
            self.model.num_classes > 0 or self.loss.class_dropout == 0,
            f"config.loss.class_dropout is {self.loss.class_dropout} and config.model.num_classes "
            "0: there is no class to drop; set class_dropout=0",
        )
        guided = {"config.sampling": self.sampling}
        for name in ("samples", "class_accuracy"):
            evaluator = getattr(self.evaluators, name)
            if evaluator is not None:
                guided[f"config.evaluators.{name}.sampling"] = evaluator.sampling
        for path, sampling in guided.items():
            require(
                sampling.guidance == 1 or self.loss.class_dropout > 0,
                f"{path}.guidance is {sampling.guidance}, which needs a model trained with "
                "config.loss.class_dropout above 0; set guidance=1, or class_dropout=0.1",
            )
        classes, blocks = self.model.num_classes, self.model.decoder.blocks
        if self.evaluators.samples is not None:
            path = "config.evaluators.samples.classes"
            check_classes(self.evaluators.samples.classes, classes, path)
        if self.evaluators.linear_probe is not None:
            check_blocks(self.evaluators.linear_probe.blocks, blocks)
        judged = self.evaluators.class_accuracy
        require(
            judged is None or not judged.classifier_run or classes > 0,
            "config.evaluators.class_accuracy.classifier_run is set and config.model.num_classes "
            "0: pictures without class have nothing to be judged by; leave it empty",
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures to train on."""
        return self.tokenizer.image_size

    @property
    def num_classes(self) -> int:
        """How many classes the data must have; 0: any."""
        return self.model.num_classes

    def make_objective(self) -> Objective:
        return ClassToImageObjective(
            self.model,
            self.tokenizer,
            self.optimizer,
            self.loss,
            self.train.batch_size,
            stored_tokens=self.data.source == "tokens",
            accumulation=self.train.accumulation,
            overrides=self.mesh.overrides,
        )

    def check_layout(self, layout: Layout) -> None:
        """Raises `UserError` when the config does not fit a mesh."""
        check_layout(layout, self.train.batch_size, self.train.accumulation, self.stacks)
        if self.mesh.overrides:
            self.make_objective().axes()

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformer to be trained, by its path in the config."""
        return {"config.model.decoder": self.model.decoder}

    def what_saw_labels(self) -> list[str]:
        """What makes a probe of this run less than unsupervised; empty where nothing does."""
        found = []
        if self.model.num_classes:
            found.append(
                "the model was trained with classes, so its features are not unsupervised ones; "
                "config.model.num_classes=0 trains without"
            )
        tokenizer = RunFolder.of(self.tokenizer_run)
        if not self.tokenizer_run or not tokenizer.config_file.exists():
            found.append(
                f"the tokenizer's run {self.tokenizer_run!r} is not there: whether it had a "
                "perceptual loss, whose network has seen labels, cannot be told"
            )
        elif tokenizer.read_config()["loss"]["perceptual"] > 0:
            found.append(
                f"the tokenizer {self.tokenizer_run} had a perceptual loss, whose network has seen "
                "labels; the paper leaves it out for this use (config.loss.perceptual=0)"
            )
        return found

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """The configured evaluators by name."""
        fns, configs, made = objective.predict_fns(), self.evaluators, {}
        classes, blocks = self.model.num_classes, self.model.decoder.blocks
        if configs.validation_loss is not None:
            made["validation"] = ValidationLoss(fns["loss"], configs.validation_loss, context)
        if configs.samples is not None:
            made["samples"] = ClassSamples(fns["generate"], configs.samples, context, classes)
        if configs.class_accuracy is not None and configs.class_accuracy.classifier_run:
            made["class_accuracy"] = ClassAccuracy(
                fns["generate"], configs.class_accuracy, context, classes
            )
        if configs.linear_probe is not None:
            for sentence in self.what_saw_labels():
                say(f"linear probe: {sentence}")
            made["linear_probe"] = LinearProbe(
                fns["features"], configs.linear_probe, context, blocks
            )
        return made


@dataclasses.dataclass(frozen=True)
class ClassifierEvaluators:
    """Which evaluators judge a classifier; None leaves one out."""

    classification: ClassificationConfig | None = ClassificationConfig()


@dataclasses.dataclass(frozen=True)
class ClassifierExperiment:
    """A classifier of real pictures. Each attribute is the config's section of that name."""

    objective: str
    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    model: ClassifierConfig
    evaluators: ClassifierEvaluators = ClassifierEvaluators()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        need_pictures(self.data)
        need_whole_batches(self.train, "a classifier")

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures to train on."""
        return self.model.image_size

    @property
    def num_classes(self) -> int:
        """How many classes the data must have."""
        return self.model.num_classes

    def make_objective(self) -> Objective:
        return ImageClassifierObjective(self.model, self.optimizer, self.train.batch_size)

    def check_layout(self, layout: Layout) -> None:
        """Raises `UserError` when the config does not fit a mesh."""
        need_whole_weights(self.mesh)
        need_rules_alone(self.mesh, "a classifier's")
        check_layout(layout, self.train.batch_size, 1, self.stacks)

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformers to be trained, by their path in the config: none."""
        return {}

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """The configured evaluators by name."""
        fns, config = objective.predict_fns(), self.evaluators.classification
        if config is None:
            return {}
        return {"classification": Classification(fns["classify"], config, context)}
