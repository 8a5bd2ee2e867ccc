"""A whole config as typed sections, and the objective and evaluators that it describes."""

import dataclasses
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from babeldraw.config import build, require, to_dict
from babeldraw.data.config import DataConfig
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.evaluation.pictures import perceptual_distance
from babeldraw.evaluation.prompts import Prompts, PromptsConfig
from babeldraw.evaluation.reconstruction import Reconstruction, ReconstructionConfig
from babeldraw.evaluation.samples import Samples, SamplesConfig
from babeldraw.evaluation.upscaling import Upscaling, UpscalingConfig
from babeldraw.evaluation.validation_loss import ValidationLoss, ValidationLossConfig
from babeldraw.judges.perceptual import PerceptualConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.babeldraw import BabeldrawConfig
from babeldraw.models.super_resolution import SuperResolutionConfig
from babeldraw.models.vim import TextVIMConfig
from babeldraw.objectives.adversarial import STAGE_1_OPTIMIZER, DiscriminatorConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective, TokenizerLossConfig
from babeldraw.objectives.super_resolution import (
    SuperResolutionLossConfig,
    SuperResolutionObjective,
)
from babeldraw.objectives.text_to_image import TextToImageLossConfig, TextToImageObjective
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.prediction.logits import SamplingConfig
from babeldraw.sharding.layout import Layout, check_mesh
from babeldraw.sharding.mesh import MeshConfig
from babeldraw.tokenizers.base import PARTS
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer
from babeldraw.train.captioner_experiment import ContrastiveCaptionerExperiment
from babeldraw.train.class_experiments import ClassifierExperiment, ClassToImageExperiment
from babeldraw.train.requirements import (
    check_layout,
    need_pictures,
    need_rules_alone,
    need_whole_batches,
    need_whole_weights,
)
from babeldraw.train.settings import TrainConfig


@dataclasses.dataclass(frozen=True)
class TokenizerEvaluators:
    """Which evaluators judge a tokenizer; None leaves one out."""

    reconstruction: ReconstructionConfig | None = ReconstructionConfig()


@dataclasses.dataclass(frozen=True)
class TextToImageEvaluators:
    """Which evaluators judge a generator; None leaves one out. `prompts` is for shapes only."""

    validation_loss: ValidationLossConfig | None = ValidationLossConfig()
    samples: SamplesConfig | None = SamplesConfig()
    prompts: PromptsConfig | None = None


@dataclasses.dataclass(frozen=True)
class SuperResolutionEvaluators:
    """Which evaluators judge super-resolution; None leaves one out."""

    upscaling: UpscalingConfig | None = UpscalingConfig()


@dataclasses.dataclass(frozen=True)
class TokenizerExperiment:
    """Stage 1. Each attribute is the config's section of that name.

    train_groups: the parts of the tokenizer that learn; the others are those of `tokenizer_run`.
      `("decoder",)` trains a new decoder for the codes of another run.
    start_groups: parts that learn and begin as they are in `tokenizer_run`, not fresh.
    tokenizer_run: run folder of a trained tokenizer; empty where all is fresh.
    """

    objective: str
    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    tokenizer: TokenizerConfig
    train_groups: tuple[str, ...] = PARTS
    start_groups: tuple[str, ...] = ()
    tokenizer_run: str = ""
    loss: TokenizerLossConfig = TokenizerLossConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_optimizer: OptimizerConfig = STAGE_1_OPTIMIZER
    perceptual: PerceptualConfig = PerceptualConfig()
    evaluators: TokenizerEvaluators = TokenizerEvaluators()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        need_pictures(self.data)
        need_whole_batches(self.train, "a tokenizer, whose losses look at a batch as a whole,")
        self._check_groups()
        # The objective checks the sections against each other.
        self.make_objective()

    def _check_groups(self) -> None:
        for name in ("train_groups", "start_groups"):
            groups = getattr(self, name)
            require(
                set(groups) <= set(PARTS) and len(set(groups)) == len(groups),
                f"config.{name} is {groups}; each of {', '.join(PARTS)} may stand there once",
            )
        require(bool(self.train_groups), "config.train_groups is (): nothing is trained; name some")
        spare = set(self.start_groups) - set(self.train_groups)
        require(
            not spare,
            f"config.start_groups holds {', '.join(sorted(spare))}, which config.train_groups does "
            "not train: what is not trained always begins as in config.tokenizer_run; leave it out",
        )
        require(
            bool(self.taken) or not self.tokenizer_run,
            f"config.tokenizer_run is {self.tokenizer_run!r} and nothing begins from it; name "
            "parts in config.start_groups, or leave tokenizer_run empty",
        )

    @property
    def taken(self) -> tuple[str, ...]:
        """The parts that begin as they are in `tokenizer_run`."""
        return tuple(p for p in PARTS if p not in self.train_groups or p in self.start_groups)

    def check_layout(self, layout: Layout) -> None:
        """Raises `UserError` when the config does not fit a mesh."""
        need_rules_alone(self.mesh, "a tokenizer's")
        check_layout(layout, self.train.batch_size, 1, self.stacks)

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformers to be trained, by their path in the config."""
        stacks = make_tokenizer(self.tokenizer).stacks
        return {f"config.tokenizer.{path}": stack for path, stack in stacks.items()}

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures to train on."""
        return self.tokenizer.image_size

    def make_objective(self) -> Objective:
        return ImageTokenizerObjective(
            self.tokenizer,
            self.optimizer,
            self.loss,
            self.train.batch_size,
            self.discriminator,
            self.discriminator_optimizer,
            self.perceptual,
            self.train_groups,
        )

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """The configured evaluators by name."""
        fns, config = objective.predict_fns(), self.evaluators.reconstruction
        if config is None:
            return {}
        codes = make_tokenizer(self.tokenizer).codes
        distance = perceptual_distance(fns, self.perceptual)
        return {
            "reconstruction": Reconstruction(fns["reconstruct"], config, context, codes, distance)
        }


@dataclasses.dataclass(frozen=True)
class TextToImageExperiment:
    """Stage 2. Each attribute is the config's section of that name.

    tokenizer_run: run folder of the trained tokenizer, whose network must be `tokenizer`.
    sampling: what `babeldraw sample` does unless told otherwise.
    """

    objective: str
    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    tokenizer: TokenizerConfig
    model: BabeldrawConfig
    tokenizer_run: str = ""
    loss: TextToImageLossConfig = TextToImageLossConfig()
    sampling: SamplingConfig = SamplingConfig()
    evaluators: TextToImageEvaluators = TextToImageEvaluators()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        require(
            self.evaluators.prompts is None or self.data.source == "shapes",
            f"config.evaluators.prompts judges the shapes world only and config.data.source is "
            f"{self.data.source!r}; take a config without it: configs/folder/text_to_image.py",
        )

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures to train on."""
        return self.tokenizer.image_size

    def make_objective(self) -> Objective:
        return TextToImageObjective(
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
            # To learn the parameters' names takes a while; without overrides nothing can be wrong.
            self.make_objective().axes()

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformers to be trained, by their path in the config."""
        return {f"config.model.{n}": getattr(self.model, n) for n in ("encoder", "decoder")}

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """The configured evaluators by name."""
        fns, made = objective.predict_fns(), {}
        if self.evaluators.validation_loss is not None:
            config = self.evaluators.validation_loss
            made["validation"] = ValidationLoss(fns["loss"], config, context)
        if self.evaluators.samples is not None:
            made["samples"] = Samples(fns["generate"], self.evaluators.samples, context)
        if self.evaluators.prompts is not None:
            made["prompts"] = Prompts(fns["generate"], self.evaluators.prompts, context)
        return made


@dataclasses.dataclass(frozen=True)
class TextToImageDecoderOnlyExperiment(TextToImageExperiment):
    """Stage 2 with text and image in one stack, to be compared with the encoder-decoder."""

    model: TextVIMConfig

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformer to be trained, by its path in the config."""
        return {"config.model.decoder": self.model.decoder}


@dataclasses.dataclass(frozen=True)
class SuperResolutionExperiment:
    """Large pictures from a tokenizer's. Each attribute is the config's section of that name.

    tokenizer_run: run folder of the trained tokenizer, whose network must be `tokenizer`.
    """

    objective: str
    train: TrainConfig
    data: DataConfig
    optimizer: OptimizerConfig
    tokenizer: TokenizerConfig
    super_resolution: SuperResolutionConfig
    tokenizer_run: str = ""
    loss: SuperResolutionLossConfig = SuperResolutionLossConfig()
    discriminator: DiscriminatorConfig = DiscriminatorConfig()
    discriminator_optimizer: OptimizerConfig = STAGE_1_OPTIMIZER
    perceptual: PerceptualConfig = PerceptualConfig()
    evaluators: SuperResolutionEvaluators = SuperResolutionEvaluators()
    mesh: MeshConfig = MeshConfig()

    def __post_init__(self):
        need_pictures(self.data)
        need_whole_batches(self.train, "super-resolution, whose losses look at a batch as a whole,")
        # The objective checks the sections against each other.
        self.make_objective()

    def check_layout(self, layout: Layout) -> None:
        """Raises `UserError` when the config does not fit a mesh."""
        need_whole_weights(self.mesh)
        need_rules_alone(self.mesh, "super-resolution's")
        check_layout(layout, self.train.batch_size, 1, self.stacks)

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        """The transformers to be trained, by their path in the config: none."""
        return {}

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the pictures to train on, those that the network shall make."""
        return self.make_objective().image_size

    def make_objective(self) -> Objective:
        return SuperResolutionObjective(
            self.super_resolution,
            self.tokenizer,
            self.optimizer,
            self.loss,
            self.train.batch_size,
            self.discriminator,
            self.discriminator_optimizer,
            self.perceptual,
        )

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """The configured evaluators by name."""
        fns, config = objective.predict_fns(), self.evaluators.upscaling
        if config is None:
            return {}
        distance = perceptual_distance(fns, self.perceptual)
        return {"upscaling": Upscaling(fns["upscale"], config, context, distance)}


# Those that build on a trained tokenizer, which `config.tokenizer_run` names.
OnTokenizer = TextToImageExperiment | SuperResolutionExperiment | ClassToImageExperiment
# Those that read captions, with a vocabulary of their own.
WithText = TextToImageExperiment | ContrastiveCaptionerExperiment
Experiment = (
    TokenizerExperiment | OnTokenizer | ContrastiveCaptionerExperiment | ClassifierExperiment
)
EXPERIMENTS: dict[str, type] = {
    "image_tokenizer": TokenizerExperiment,
    "text_to_image": TextToImageExperiment,
    "text_to_image_decoder_only": TextToImageDecoderOnlyExperiment,
    "class_to_image": ClassToImageExperiment,
    "image_classifier": ClassifierExperiment,
    "super_resolution": SuperResolutionExperiment,
    "contrastive_captioner": ContrastiveCaptionerExperiment,
}


def parse(config: Mapping[str, Any]) -> Experiment:
    """A config, as `get_config` makes or config.json holds it, to its typed sections.

    Raises:
      UserError: what `babeldraw.config.build` finds wrong, or an objective that does not exist.
    """
    objective = config["objective"] if "objective" in config else None
    if objective not in EXPERIMENTS:
        raise UserError(
            f"config.objective is {objective!r}; the objectives are {', '.join(EXPERIMENTS)}"
        )
    experiment = build(EXPERIMENTS[objective], config)
    check_mesh(experiment.mesh)
    return experiment


def default_section(config: Mapping[str, Any], path: Sequence[str]) -> dict[str, Any]:
    """The defaults of an optional section, such as evaluators.samples, of a config's objective.

    Raises:
      KeyError: there is no such section, or it has no defaults.
    """
    section: Any = EXPERIMENTS[config["objective"]]
    for name in path:
        hints = typing.get_type_hints(section)
        if name not in hints:
            raise KeyError(f"'{name}'")
        kinds = typing.get_args(hints[name]) or (hints[name],)
        section = next((kind for kind in kinds if dataclasses.is_dataclass(kind)), None)
        if section is None:
            raise KeyError(f"'{name}'")
    return to_dict(section())
