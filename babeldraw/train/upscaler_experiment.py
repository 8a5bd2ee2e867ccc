"""The config of super-resolution."""

import dataclasses

from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.evaluation.pictures import perceptual_distances
from babeldraw.evaluation.upscaling import Upscaling, UpscalingConfig
from babeldraw.judges.discriminators import DiscriminatorConfig, NoDiscriminatorConfig
from babeldraw.judges.perceptual import PerceptualConfig
from babeldraw.models.super_resolution import SuperResolutionConfig, Upscaler
from babeldraw.objectives.adversarial import STAGE_1_OPTIMIZER, AdversarialConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.super_resolution import (
    SuperResolutionLossConfig,
    SuperResolutionObjective,
)
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.sharding.layout import Layout
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.flops import ModelFlops, image_spec, traced, with_judges
from babeldraw.train.requirements import (
    check_layout,
    check_looked_at,
    need_pictures,
    need_rules_alone,
    need_whole_batches,
    need_whole_weights,
)


@dataclasses.dataclass(frozen=True)
class SuperResolutionEvaluators:
    """Which evaluators judge super-resolution; None leaves one out."""

    upscaling: UpscalingConfig | None = UpscalingConfig()


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuperResolutionExperiment(Experiment):
    """Large pictures from a tokenizer's. Each attribute is the config's section of that name.

    tokenizer_run: run folder of the trained tokenizer, whose network must be `tokenizer`.
    """

    tokenizer: TokenizerConfig
    super_resolution: SuperResolutionConfig
    tokenizer_run: str = ""
    loss: SuperResolutionLossConfig = SuperResolutionLossConfig()
    discriminator: DiscriminatorConfig = NoDiscriminatorConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    discriminator_optimizer: OptimizerConfig = STAGE_1_OPTIMIZER
    perceptual: PerceptualConfig = PerceptualConfig()
    evaluators: SuperResolutionEvaluators = SuperResolutionEvaluators()

    width_field = "config.super_resolution.channels"

    def __post_init__(self):
        need_pictures(self.data)
        need_whole_batches(self.train, "super-resolution, whose losses look at a batch as a whole,")
        # The objective checks the sections against each other.
        self.make_objective()

    def check_layout(self, layout: Layout) -> None:
        need_whole_weights(self.mesh)
        need_rules_alone(self.mesh, "super-resolution's")
        check_layout(layout, self.train.batch_size, 1, self.stacks)
        if self.loss.perceptual > 0:
            check_looked_at(layout, self.train.batch_size, self.perceptual.every)

    @property
    def frozen_tokenizer(self) -> bool:
        return True

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
            self.adversarial,
            self.discriminator_optimizer,
            self.perceptual,
        )

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        fns, config = objective.predict_fns(), self.evaluators.upscaling
        if config is None:
            return {}
        distances = perceptual_distances(fns, self.perceptual)
        return {"upscaling": Upscaling(fns["upscale"], config, context, distances)}

    def flops(self) -> ModelFlops:
        """Of a step with all losses, traced; R1 is left out."""
        tokenizer, image = make_tokenizer(self.tokenizer), image_spec(self.tokenizer.image_size)
        upscaler = Upscaler(self.super_resolution)
        parts = {
            "tokenizer (forward)": traced(tokenizer.reconstruct, tokenizer.init, image),
            "upscaler": 3 * traced(upscaler.upscale, upscaler.init, image),
        }
        formula = {"tokenizer (forward)": "traced", "upscaler": "3 forward"}
        return with_judges(ModelFlops(parts, formula), self)
