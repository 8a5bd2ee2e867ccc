"""The config of a tokenizer."""

import dataclasses

from babeldraw.config import require
from babeldraw.evaluation.base import Context, Evaluator
from babeldraw.evaluation.feature_sets import open_features
from babeldraw.evaluation.outlines import Outlines, OutlinesConfig
from babeldraw.evaluation.pictures import perceptual_distances
from babeldraw.evaluation.reconstruction import Reconstruction, ReconstructionConfig
from babeldraw.evaluation.reconstruction_distance import (
    ReconstructionDistance,
    ReconstructionDistanceConfig,
)
from babeldraw.judges.discriminators import DiscriminatorConfig, NoDiscriminatorConfig
from babeldraw.judges.perceptual import PerceptualConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.objectives.adversarial import STAGE_1_OPTIMIZER, AdversarialConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective, TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.sharding.layout import Layout
from babeldraw.tokenizers.base import PARTS
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.flops import ModelFlops, image_spec, traced, with_judges
from babeldraw.train.requirements import (
    check_layout,
    check_looked_at,
    need_pictures,
    need_rules_alone,
    need_whole_batches,
)
from babeldraw.train.starts import StartConfig


@dataclasses.dataclass(frozen=True)
class TokenizerEvaluators:
    """Which evaluators judge a tokenizer; None leaves one out. `outlines` is for shapes only."""

    reconstruction: ReconstructionConfig | None = ReconstructionConfig()
    outlines: OutlinesConfig | None = None
    rfd: ReconstructionDistanceConfig | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerExperiment(Experiment):
    """Stage 1. Each attribute is the config's section of that name.

    train_groups: the parts of the tokenizer that learn; the others are those of `tokenizer_run`.
      `("decoder",)` trains a new decoder for the codes of another run.
    start_groups: parts that learn and begin as they are in `tokenizer_run`, not fresh.
    tokenizer_run: run folder of a trained tokenizer; empty where all is fresh.
    """

    tokenizer: TokenizerConfig
    train_groups: tuple[str, ...] = PARTS
    start_groups: tuple[str, ...] = ()
    tokenizer_run: str = ""
    loss: TokenizerLossConfig = TokenizerLossConfig()
    discriminator: DiscriminatorConfig = NoDiscriminatorConfig()
    adversarial: AdversarialConfig = AdversarialConfig()
    discriminator_optimizer: OptimizerConfig = STAGE_1_OPTIMIZER
    perceptual: PerceptualConfig = PerceptualConfig()
    evaluators: TokenizerEvaluators = TokenizerEvaluators()

    def __post_init__(self):
        need_pictures(self.data)
        need_whole_batches(self.train, "a tokenizer, whose losses look at a batch as a whole,")
        self._check_groups()
        require(
            self.evaluators.outlines is None or self.data.source in ("shapes", "shape_pairs"),
            "config.evaluators.outlines judges pictures of the shapes world only and "
            f"config.data.source is {self.data.source!r}; set it to None",
        )
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

    @property
    def own_starts(self) -> tuple[StartConfig, ...]:
        if not self.taken:
            return super().own_starts
        groups = make_tokenizer(self.tokenizer).groups
        names = "|".join(name for part in self.taken for name in groups[part])
        start = StartConfig(run=self.tokenizer_run, names=f"({names})(/.*)?")
        return (start, *super().own_starts)

    def check_layout(self, layout: Layout) -> None:
        need_rules_alone(self.mesh, "a tokenizer's")
        check_layout(layout, self.train.batch_size, 1, self.stacks)
        if self.loss.perceptual > 0:
            check_looked_at(layout, self.train.batch_size, self.perceptual.every)

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        stacks = make_tokenizer(self.tokenizer).stacks
        return {f"config.tokenizer.{path}": stack for path, stack in stacks.items()}

    @property
    def image_size(self) -> tuple[int, int]:
        return self.tokenizer.image_size

    def make_objective(self) -> Objective:
        return ImageTokenizerObjective(
            self.tokenizer,
            self.optimizer,
            self.loss,
            self.train.batch_size,
            self.discriminator,
            self.adversarial,
            self.discriminator_optimizer,
            self.perceptual,
            self.train_groups,
        )

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        fns, configs, made = objective.predict_fns(), self.evaluators, {}
        if configs.reconstruction is not None:
            codes = make_tokenizer(self.tokenizer).codes
            file = self.perceptual.file or configs.reconstruction.lpips
            distances = perceptual_distances(fns, dataclasses.replace(self.perceptual, file=file))
            made["reconstruction"] = Reconstruction(
                fns["reconstruct"], configs.reconstruction, context, codes, distances
            )
        if configs.outlines is not None:
            made["outlines"] = Outlines(fns["reconstruct"], configs.outlines, context)
        if configs.rfd is not None and configs.rfd.file:
            made["rfd"] = ReconstructionDistance(
                fns["reconstruct"], configs.rfd, context, open_features(configs.rfd)
            )
        return made

    def flops(self) -> ModelFlops:
        """Of a step with all losses, traced; R1, every 16th step, is left out."""
        tokenizer, image = make_tokenizer(self.tokenizer), image_spec(self.image_size)
        whole = traced(tokenizer.reconstruct, tokenizer.init, image)
        if "encoder" in self.train_groups:
            parts = {"tokenizer": 3 * whole}
            formula = {"tokenizer": "3 forward: its own, and backward twice that"}
        else:
            encoder = traced(tokenizer.encode, tokenizer.init, image)
            parts = {"encoder (forward)": encoder, "decoder": 3 * (whole - encoder)}
            formula = {"encoder (forward)": "traced", "decoder": "3 forward"}
        return with_judges(ModelFlops(parts, formula), self)
