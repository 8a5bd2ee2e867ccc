"""The config of a tokenizer."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp

from babeldraw.config import require
from babeldraw.data.levels import told_levels
from babeldraw.data.records import Source
from babeldraw.evaluation.base import Context, Evaluator, of_level, with_texts
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
from babeldraw.models.conditions import NoCondition
from babeldraw.models.kinds import ConditionConfig
from babeldraw.objectives.adversarial import STAGE_1_OPTIMIZER, AdversarialConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.image_tokenizer import ImageTokenizerObjective
from babeldraw.objectives.tokenizer_loss import TokenizerLossConfig
from babeldraw.optim.optimizer import OptimizerConfig
from babeldraw.runs.folder import RunFolder
from babeldraw.sharding.layout import Layout
from babeldraw.tokenizers.base import PARTS, Tokenizer
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer, read_tokenizer
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.beside_text import check_read
from babeldraw.train.flops import ModelFlops, image_spec, traced, with_judges
from babeldraw.train.requirements import (
    check_layout,
    check_looked_at,
    need_pictures,
    need_rules_alone,
    need_whole_batches,
)
from babeldraw.train.starts import StartConfig, starts_of


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
    proxy_run: run folder of the tokenizer on whose codes the loss is, which is then
      `tokenizer.proxy`; empty where the loss is on pictures.
    condition: what reads the captions beside which the decoder draws, where `tokenizer.text` is
      set. Its `dropout` is the share of the pictures whose text the decoder does not see.
    """

    tokenizer: TokenizerConfig
    train_groups: tuple[str, ...] = PARTS
    start_groups: tuple[str, ...] = ()
    tokenizer_run: str = ""
    proxy_run: str = ""
    condition: ConditionConfig = NoCondition()
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
        check_read(self._tokenizer, self.condition)
        require(
            self.evaluators.outlines is None or self.data.source in ("shapes", "shape_pairs"),
            "config.evaluators.outlines judges pictures of the shapes world only and "
            f"config.data.source is {self.data.source!r}; set it to None",
        )
        require(
            bool(self._tokenizer.needs) or not self.proxy_run,
            f"config.proxy_run is {self.proxy_run!r} and config.tokenizer needs no proxy; leave it "
            "empty",
        )
        require(
            bool(self.taken) or not self._tokenizer.borrowed,
            "config.tokenizer.through_proxy is True and nothing begins from the first stage; set "
            "config.train_groups=('decoder',), start_groups=('decoder',) and tokenizer_run",
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
        return (*self._taken_starts, *self.frozen_starts)

    @property
    def frozen_starts(self) -> tuple[StartConfig, ...]:
        proxies = tuple(
            StartConfig(run=self.proxy_run, into=f"frozen/{name}") for name in self._tokenizer.needs
        )
        return (*proxies, *starts_of(self.condition), *super().frozen_starts)

    @property
    def _taken_starts(self) -> tuple[StartConfig, ...]:
        """What begins as it is in `tokenizer_run`: its own parts, and what it looked at there."""
        if not self.taken:
            return ()
        run, borrowed = self.tokenizer_run, dict(self._tokenizer.borrowed)
        if borrowed:
            # A run that has them among its parameters gives those.
            for name in read_tokenizer(RunFolder.to_read(run).read_config()).borrowed:
                del borrowed[name]
        groups = self._tokenizer.groups
        names = [n for part in self.taken for n in groups[part] if n not in borrowed]
        own = StartConfig(run=run, names=f"({'|'.join(names)})(/.*)?")
        return own, *(
            StartConfig(run=run, names=f"{name}/(.*)", part=f"frozen/{of}", theirs=r"\1")
            for name, of in borrowed.items()
        )

    def check_layout(self, layout: Layout) -> None:
        need_rules_alone(self.mesh, "a tokenizer's")
        check_layout(layout, self.train.batch_size, 1, self.stacks)
        if layout.preset.used["vocab"] == "model":
            self._tokenizer.check_split(layout.mesh.shape["model"])
        if not self.stacks:
            self._check_whole(layout)
        if self.loss.perceptual > 0:
            check_looked_at(layout, self.train.batch_size, self.perceptual.every)

    def _check_whole(self, layout: Layout) -> None:
        """Raises `UserError` for a mesh that splits nothing of a network without transformers."""
        rules, model = self.mesh.rules, layout.mesh.shape["model"]
        kind = f"config.tokenizer.kind={self.tokenizer.kind}"
        require(
            rules not in ("pipeline", "in_layer_serving"),
            f"config.mesh.rules is {rules}, which splits transformers, and {kind} has none; take "
            "data_parallel, fsdp or fsdp_hybrid, or in_layer for a codebook's table",
        )
        # Convolutions are whole on every chip of `model`.
        quantizer = getattr(self.tokenizer, "quantizer", None)
        table = quantizer is not None and quantizer.learned
        rows = getattr(quantizer, "codebook_size", 1) if table else 1
        there = f"and {rows:,} codes are no multiple of it" if rows > 1 else "and it has none"
        require(
            rows % model == 0,
            f"config.mesh.model is {model}, which splits nothing of {kind} but a codebook's table, "
            f"{there}; set model=1, and data as many times larger",
        )

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        stacks = self._tokenizer.stacks
        return {f"config.tokenizer.{path}": stack for path, stack in stacks.items()}

    @property
    def image_size(self) -> tuple[int, int]:
        return self.tokenizer.image_size

    @property
    def _tokenizer(self) -> Tokenizer:
        return make_tokenizer(self.tokenizer)

    @property
    def text_length(self) -> int:
        return self.condition.text_length

    @property
    def vocab_size(self) -> int:
        return self.condition.vocabulary

    @property
    def vocabulary_file(self) -> str:
        return self.condition.vocabulary_file

    def with_vocabulary(self, size: int) -> "TokenizerExperiment":
        return dataclasses.replace(self, condition=self.condition.with_vocabulary(size))

    def arranged(self, source: Source) -> Source:
        tokenizer = self._tokenizer
        return told_levels(source, tokenizer.levels) if tokenizer.reads_levels else source

    def check_new(self) -> None:
        quantizer = getattr(self.tokenizer, "quantizer", None)
        if quantizer is not None:
            quantizer.check_new()
        self.make_objective().check_weights()

    def check_data(self, source: Source) -> None:
        require(
            self.condition.in_data,
            f"config.condition.kind={self.condition.kind} is read from "
            f"{' and '.join(self.condition.spec(1))} of a batch, which {source.name} does not "
            "have; take kind=clip or t5, or give the objective batches of your own",
        )

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
            self.condition,
        )

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """Of each level of the tokenizer one; those behind the first bear its name."""
        if self.text_length:
            context = with_texts(context)
        first, *others = self._tokenizer.levels
        made = self._evaluators_at(first, "reconstruct", objective, context)
        for level in others:
            here = of_level(context, level, self._tokenizer.at(level).image_size)
            found = self._evaluators_at(level, f"reconstruct_{level}", objective, here)
            made |= {f"{name}_{level}": evaluator for name, evaluator in found.items()}
        return made

    def _evaluators_at(
        self, level: str, reconstruct: str, objective: Objective, context: Context
    ) -> dict[str, Evaluator]:
        """`reconstruct`: which of the objective's `predict_fns` is of the level."""
        fns, configs, made = objective.predict_fns(), self.evaluators, {}
        if configs.reconstruction is not None:
            codes = self._tokenizer.at(level).codes
            file = self.perceptual.file or configs.reconstruction.lpips
            distances = perceptual_distances(fns, dataclasses.replace(self.perceptual, file=file))
            made["reconstruction"] = Reconstruction(
                fns[reconstruct], configs.reconstruction, context, codes, distances
            )
        if configs.outlines is not None:
            made["outlines"] = Outlines(fns[reconstruct], configs.outlines, context)
        if configs.rfd is not None and configs.rfd.file:
            made["rfd"] = ReconstructionDistance(
                fns[reconstruct], configs.rfd, context, open_features(configs.rfd)
            )
        return made

    def flops(self) -> ModelFlops:
        """Of a step with all losses, traced; R1, every 16th step, is left out."""
        tokenizer, image = self._tokenizer, image_spec(self.image_size)
        frozen = {
            f"{name} (forward)": traced(needed.encode, needed.init, image)
            for name, needed in tokenizer.needs.items()
        }
        whole = self._forward_flops() - sum(frozen.values())
        if "encoder" in self.train_groups:
            parts = {"tokenizer": 3 * whole}
            formula = {"tokenizer": "3 forward: its own, and backward twice that"}
        else:
            encoder = traced(tokenizer.encode, tokenizer.init, image)
            parts = {"encoder (forward)": encoder, "decoder": 3 * (whole - encoder)}
            formula = {"encoder (forward)": "traced", "decoder": "3 forward"}
        formula |= dict.fromkeys(frozen, "traced")
        return with_judges(ModelFlops({**parts, **frozen}, formula), self)

    def _forward_flops(self) -> int:
        """Of a pass in training, with what the networks that it needs do in it."""
        tokenizer = self._tokenizer
        inputs = [image_spec(self.image_size)]
        if tokenizer.condition:
            inputs.append(jax.ShapeDtypeStruct((1, *tokenizer.condition), jnp.float32))

        def init(key: jax.Array) -> dict[str, Any]:
            frozen = {name: needed.init(key) for name, needed in tokenizer.needs.items()}
            return {"params": tokenizer.init(key), "frozen": frozen}

        def forward(networks: dict[str, Any], images: jax.Array, *given: jax.Array) -> Any:
            condition = dict(zip(("condition",), given, strict=False))
            # As in training, where several levels may be computed at once.
            return tokenizer.forward(
                networks["params"], images, jax.random.key(0), networks["frozen"], **condition
            )

        return traced(forward, init, *inputs)
