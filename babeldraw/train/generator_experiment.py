"""The config of whatever predicts codes: from what, how, by which network and into which codes."""

import dataclasses
from typing import Any

from babeldraw.config import require
from babeldraw.data.levels import with_levels
from babeldraw.data.records import Source, classes_of
from babeldraw.drawing.classifier_judge import ClassifierJudge
from babeldraw.evaluation.base import Context, Evaluator, of_level
from babeldraw.evaluation.class_accuracy import ClassAccuracy, ClassAccuracyConfig
from babeldraw.evaluation.clip_score import ClipScore, ClipScoreConfig
from babeldraw.evaluation.concepts import Concepts, ConceptsConfig
from babeldraw.evaluation.drawn_distance import DrawnDistance, DrawnDistanceConfig
from babeldraw.evaluation.feature_sets import open_features
from babeldraw.evaluation.linear_probe import LinearProbe, LinearProbeConfig, check_blocks
from babeldraw.evaluation.prompts import Prompts, PromptsConfig
from babeldraw.evaluation.samples import Samples, SamplesConfig
from babeldraw.evaluation.text_probe import TextProbe, TextProbeConfig
from babeldraw.evaluation.validation_loss import ValidationLoss, ValidationLossConfig
from babeldraw.layers.block import TransformerConfig
from babeldraw.models.base import Generator
from babeldraw.models.kinds import ConditionConfig, NetworkConfig, make_generator
from babeldraw.models.levels import LevelsConfig
from babeldraw.objectives.base import Objective
from babeldraw.objectives.generator import GeneratorObjective
from babeldraw.prediction.kinds import PredictionConfig, read_sampling
from babeldraw.prediction.next_token import NextToken
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.sharding.layout import Layout
from babeldraw.tokenizers.base import Tokenizer
from babeldraw.tokenizers.kinds import TokenizerConfig, make_tokenizer
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.beside_text import check_states
from babeldraw.train.flops import ModelFlops, image_spec, traced
from babeldraw.train.requirements import (
    check_layout,
    need_stored_levels,
    need_stored_states,
)
from babeldraw.train.starts import StartConfig, starts_of


@dataclasses.dataclass(frozen=True)
class GeneratorEvaluators:
    """Which evaluators judge a generator; None leaves one out.

    `prompts` is for shapes only, `concepts` for the emoji world.
    """

    validation_loss: ValidationLossConfig | None = ValidationLossConfig()
    samples: SamplesConfig | None = SamplesConfig()
    prompts: PromptsConfig | None = None
    concepts: ConceptsConfig | None = None
    class_accuracy: ClassAccuracyConfig | None = None
    linear_probe: LinearProbeConfig | None = None
    fd: DrawnDistanceConfig | None = None
    clip_score: ClipScoreConfig | None = None
    text_probe: TextProbeConfig | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class GeneratorExperiment(Experiment):
    """Stage 2. Each attribute is the config's section of that name.

    tokenizer_run: run folder of the trained tokenizer, whose network must be `tokenizer`.
    level: into which of the tokenizer's levels; empty: its first, most have one. Of a run that
      draws into all of them, which drawing takes unless told otherwise.
    levels: the run draws into all of them, each picture into one; None: into `level` alone.
    condition: what is drawn from.
    model: the network.
    prediction: how it predicts codes.
    sampling: what `babeldraw sample` does unless told otherwise, of the prediction's own fields;
      also in each evaluator that draws, where it names what is other there.
    """

    tokenizer: TokenizerConfig
    tokenizer_run: str = ""
    level: str = ""
    levels: LevelsConfig | None = None
    condition: ConditionConfig
    model: NetworkConfig
    prediction: PredictionConfig = NextToken()
    sampling: Any = None
    evaluators: GeneratorEvaluators = GeneratorEvaluators()

    def __post_init__(self):
        if self.levels is not None:
            self._check_levels()
        check_states(self.made_codes_by, self.condition)
        self.prediction.check(self.generator)
        require(
            not self.prediction.sampled or self.data.source != "tokens",
            "config.prediction.sampled is True and config.data.source 'tokens', which hold the "
            "means of codes alone; set it to False, or train on pictures",
        )
        require(
            self.condition.in_words or self.data.source != "tokens",
            "config.data.source is 'tokens', which holds codes of one level, and the run draws "
            f"from {self.condition.drawn_from}; train on pictures",
        )
        own = read_sampling(self.prediction, self.sampling, "config.sampling")
        object.__setattr__(self, "sampling", own)
        self.prediction.check_sampling(own, self.generator, "config.sampling.")
        for field in dataclasses.fields(self.evaluators):
            if hasattr(getattr(self.evaluators, field.name), "sampling"):
                sampling = self._drawing(field.name).sampling
                path = f"config.evaluators.{field.name}.sampling."
                self.prediction.check_sampling(sampling, self.generator, path)
        self._check_evaluators()

    def _check_levels(self) -> None:
        group, size = self.levels.of(self.made_codes_by).size, self.train.batch_size
        require(
            size % group == 0,
            f"config.train.batch_size is {size}, which groups of the {group} pictures of "
            f"config.levels.counts do not divide; choose a multiple of {group}",
        )

    def _drawing(self, name: str) -> Any:
        """The section of an evaluator that draws; what its settings do not name is the run's."""
        section, path = getattr(self.evaluators, name), f"config.evaluators.{name}.sampling"
        sampling = read_sampling(self.prediction, section.sampling, path, self.sampling)
        return dataclasses.replace(section, sampling=sampling)

    def _check_evaluators(self) -> None:
        evaluators = self.evaluators
        require(
            evaluators.prompts is None or (self.data.source == "shapes" and self.condition.of_text),
            "config.evaluators.prompts judges the texts of the shapes world only and "
            f"config.data.source is {self.data.source!r}, config.condition.kind "
            f"{self.condition.kind!r}; set it to None, or take a config without it: "
            "configs/folder/text_to_image.py",
        )
        require(
            evaluators.concepts is None
            or (
                (evaluators.concepts.path or self.data.source == "folder")
                and self.condition.of_text
            ),
            "config.evaluators.concepts judges the texts of a folder of `babeldraw emoji` only and "
            f"config.data.source is {self.data.source!r}, config.condition.kind "
            f"{self.condition.kind!r}; name the folder by config.evaluators.concepts.path, or "
            "leave it out",
        )
        drawing = [n for n, one in vars(evaluators).items() if hasattr(one, "sampling")]
        require(
            self.condition.in_words or not drawing,
            f"config.evaluators.{'/'.join(drawing)} draws what words ask for and the run draws "
            f"from {self.condition.drawn_from}; set it to None",
        )
        require(
            self.prediction.begins or not drawing,
            f"config.evaluators.{'/'.join(drawing)} draws from nothing and config.prediction.kind="
            f"{self.prediction.kind} draws again what stands there; set it to None",
        )
        if evaluators.linear_probe is not None:
            require(
                hasattr(self.generator, "features"),
                f"config.evaluators.linear_probe is set and config.model.kind={self.model.kind} "
                "has no features; set it to None",
            )
            check_blocks(evaluators.linear_probe.blocks, self.generator.feature_blocks)
        require(
            evaluators.text_probe is None or hasattr(self.generator, "text_features"),
            f"config.evaluators.text_probe is set and config.model.kind={self.model.kind} has no "
            "text encoder of its own; set it to None",
        )
        judged = evaluators.class_accuracy
        require(
            judged is None or not judged.classifier_run or self.condition.kind == "class",
            "config.evaluators.class_accuracy.classifier_run is set and config.condition.kind "
            f"{self.condition.kind!r}: pictures without class have nothing to be judged by; leave "
            "it empty",
        )

    @property
    def generator(self) -> Generator:
        """The network, as pure functions of its parameters."""
        tokenizer = self.made_codes_by
        condition = self.condition.bound(lambda: tokenizer)
        levels = None if self.levels is None else self.levels.of(tokenizer)
        return make_generator(self.model, condition, tokenizer.codes, levels)

    @property
    def made_codes_by(self) -> Tokenizer:
        """The tokenizer at the level that is drawn into."""
        return make_tokenizer(self.tokenizer, self.level)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.made_codes_by.image_size

    @property
    def text_length(self) -> int:
        return self.condition.text_length

    @property
    def vocab_size(self) -> int:
        return self.condition.vocabulary

    @property
    def states_shape(self) -> tuple[int, ...]:
        return self.condition.states_shape

    @property
    def word_table(self) -> str:
        return self.generator.word_table if self.text_length else ""

    def with_vocabulary(self, size: int) -> "GeneratorExperiment":
        return dataclasses.replace(self, condition=self.condition.with_vocabulary(size))

    @property
    def num_classes(self) -> int:
        return self.condition.num_classes

    @property
    def class_rows(self) -> dict[str, int]:
        return self.generator.class_rows

    @property
    def text_in(self) -> str:
        return self.condition.where("length")

    @property
    def classes_in(self) -> str:
        return self.condition.where("num_classes")

    @property
    def frozen_tokenizer(self) -> bool:
        return True

    @property
    def vocabulary_file(self) -> str:
        return self.condition.vocabulary_file

    @property
    def frozen_starts(self) -> tuple[StartConfig, ...]:
        return (*super().frozen_starts, *starts_of(self.condition))

    @property
    def stacks(self) -> dict[str, TransformerConfig]:
        return {f"config.model.{path}": stack for path, stack in self.generator.stacks.items()}

    def tuned(self) -> "GeneratorExperiment":
        return dataclasses.replace(self, prediction=self.prediction.tuned())

    def make_objective(self) -> Objective:
        return GeneratorObjective(
            self.generator,
            self.prediction,
            self.made_codes_by,
            self.optimizer,
            self.train.batch_size,
            stored_tokens=self.data.source == "tokens",
            accumulation=self.train.accumulation,
            overrides=self.mesh.overrides,
        )

    def check_layout(self, layout: Layout) -> None:
        train, together = self.train, self.generator.together
        check_layout(layout, train.batch_size, train.accumulation, self.stacks, together)
        if self.mesh.overrides:
            # To learn the parameters' names takes a while; without overrides nothing can be wrong.
            self.make_objective().axes()

    def arranged(self, source: Source) -> Source:
        levels = self.generator.levels
        return source if levels is None else with_levels(source, levels.names, levels.counts)

    def check_new(self) -> None:
        self.generator.check_new()

    def check_data(self, source: Source) -> None:
        found, evaluators = len(classes_of(source)), self.evaluators
        require(
            self.condition.in_data,
            f"config.condition.kind={self.condition.kind} is read from "
            f"{' and '.join(self.condition.spec(1))} of a batch, which {source.name} does not "
            "have; take kind=text, or give the objective batches of your own",
        )
        need_stored_states(self.condition, source)
        if any(hasattr(one, "sampling") for one in vars(evaluators).values()):
            # A condition that words do not tell refuses here, not at the first evaluation.
            self.condition.first(1, [""])
        if self.data.source == "tokens":
            levels = self.generator.levels
            need_stored_levels(levels and levels.names, self.made_codes_by.level, source)
        require(
            evaluators.linear_probe is None or found >= 2,
            f"config.evaluators.linear_probe needs classes and {source.name} has {found}; set it "
            "to None, or name data with some",
        )
        if evaluators.class_accuracy is not None and evaluators.class_accuracy.classifier_run:
            ClassifierJudge.open(evaluators.class_accuracy.classifier_run)

    def what_saw_labels(self) -> list[str]:
        """What makes a probe of this run less than unsupervised; empty where nothing does."""
        found = []
        if self.condition.kind != "nothing":
            found.append(
                f"the model was trained from {self.condition.drawn_from}, so its features are not "
                "unsupervised ones; config.condition.kind=nothing trains without"
            )
        tokenizer = RunFolder.to_read(self.tokenizer_run)
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
        elif tokenizer.read_config()["discriminator"]["kind"] == "projected":
            found.append(
                f"the tokenizer {self.tokenizer_run} had a discriminator on a network that has "
                "seen labels; choose another config.discriminator.kind for this use"
            )
        return found

    def make_evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        """Of a run that draws into several levels one for each; those of others bear its name."""
        levels = self.generator.levels
        if levels is None:
            return self._evaluators(objective, context)
        made = {}
        for name in levels.names:
            own = name == self.made_codes_by.level
            here = context if own else of_level(context, name, context.image_size)
            found = self._evaluators(objective.at(name), here)
            made |= {each if own else f"{each}_{name}": it for each, it in found.items()}
        return made

    def _evaluators(self, objective: Objective, context: Context) -> dict[str, Evaluator]:
        fns, configs, made = objective.predict_fns(), self.evaluators, {}
        if configs.validation_loss is not None:
            made["validation"] = ValidationLoss(fns["loss"], configs.validation_loss, context)
        if configs.samples is not None:
            made["samples"] = Samples(fns["generate"], self._drawing("samples"), context)
        if configs.prompts is not None:
            made["prompts"] = Prompts(fns["generate"], self._drawing("prompts"), context)
        if configs.concepts is not None:
            made["concepts"] = Concepts(fns["generate"], self._drawing("concepts"), context)
        if configs.class_accuracy is not None and configs.class_accuracy.classifier_run:
            made["class_accuracy"] = ClassAccuracy(
                fns["generate"], self._drawing("class_accuracy"), context
            )
        if configs.fd is not None and configs.fd.file:
            made["fd"] = DrawnDistance(
                fns["generate"], self._drawing("fd"), context, open_features(configs.fd)
            )
        if configs.clip_score is not None and configs.clip_score.file:
            made["clip_score"] = ClipScore(fns["generate"], self._drawing("clip_score"), context)
        if configs.text_probe is not None and configs.text_probe.path:
            made["text_probe"] = TextProbe(fns["text_features"], configs.text_probe, context)
        if configs.linear_probe is not None:
            for sentence in self.what_saw_labels():
                say(f"linear probe: {sentence}")
            blocks = self.generator.feature_blocks
            made["linear_probe"] = LinearProbe(
                fns["features"], configs.linear_probe, context, blocks
            )
        return made

    def flops(self) -> ModelFlops:
        """Of a run that draws into several levels the mean over its pictures."""
        levels, own = self.generator.levels, self._flops_into(self.made_codes_by.level)
        if levels is None:
            return own
        found = [self._flops_into(name).parts for name in levels.names]
        parts = {
            name: round(sum(s * each[name] for s, each in zip(levels.shares, found, strict=True)))
            for name in own.parts
        }
        return ModelFlops(parts, {n: f"{text}, mean of levels" for n, text in own.formula.items()})

    def _flops_into(self, level: str) -> ModelFlops:
        tokenizer, generator = self.made_codes_by.at(level), self.generator
        if generator.levels is not None:
            generator = generator.at(level)
        found = {name: (3 * n, f"3 {text}") for name, (n, text) in generator.flops().items()}
        if self.data.source != "tokens":
            image = image_spec(tokenizer.image_size)
            forward = traced(tokenizer.encode, tokenizer.init, image)
            found["tokenizer (forward)"] = (forward, "traced")
        parts = {name: number for name, (number, _) in found.items()}
        return ModelFlops(parts, {name: text for name, (_, text) in found.items()})
