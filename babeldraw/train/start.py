"""How a run begins: what its folder already says, its vocabulary, its tokenizer, its batches."""

import itertools
import json
from typing import Any

import jax

from babeldraw.config import first_difference, require, to_dict
from babeldraw.data.beside import Beside, WithTexts
from babeldraw.data.config import DataConfig
from babeldraw.data.pipeline import TrainBatches
from babeldraw.data.records import Source, classes_of, has_pictures
from babeldraw.data.sources import open_source, open_texts
from babeldraw.data.text import Vocabulary, captions_in, train_vocabulary
from babeldraw.data.vocabularies import open_vocabulary
from babeldraw.errors import UserError
from babeldraw.evaluation.base import Context
from babeldraw.evaluation.pictures import perceptual_distances
from babeldraw.hosts.joining import ALONE, Alone, Hosts
from babeldraw.judges.perceptual import PerceptualNetwork
from babeldraw.layers.block import without_compute
from babeldraw.objectives.average import Averaged, begin_average
from babeldraw.objectives.base import Objective, TrainState
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.sharding.layout import Layout
from babeldraw.train.base_experiment import Experiment
from babeldraw.train.beside_text import check_same_encoder
from babeldraw.train.built_on import check_tokenizers, check_tokenizers_moved
from babeldraw.train.code_scale import with_code_scale, with_code_scale_kept
from babeldraw.train.experiment import parse
from babeldraw.train.requirements import need_read_path
from babeldraw.train.starts import begun, check_fits, check_start
from babeldraw.train.words import check_vocabulary, take_vocabulary

# Captions whose lengths are looked at before training.
CAPTIONS_CHECKED = 2000
# Sections that a run cannot change once it has begun: its weights and its data would not fit.
FIXED_SECTIONS = (
    "objective",
    "condition",
    "model",
    "prediction",
    "super_resolution",
    "tokenizer",
    "tokenizer_run",
    "proxy_run",
    "level",
    "levels",
    "data",
)
# And fields of `train`: the order of the data and what a step covers hang on them.
FIXED_FIELDS = ("seed", "batch_size", "ema")
# How the data are read, not which data: may change.
FREE_DATA_FIELDS = ("workers", "max_bad_share", "data_dir", "views")
# Of fixed sections what may change: how often a condition is dropped, and whether rows are packed.
FREE_FIELDS = {
    "config.condition": "dropout",
    "config.model": "packed",
    "config.levels": "packed",
}
# Paths of (section, field): what lies there is what counts. A tokenizer is in the checkpoint.
MOVABLE = (("data", "path"), ("", "tokenizer_run"), ("", "proxy_run"))


def check_resume(folder: RunFolder, experiment: Experiment) -> None:
    """Refuses to go on in a folder whose run was another one.

    Raises:
      UserError: the folder is no run folder, or a field of a fixed section differs.
    """
    if not folder.config_file.exists():
        _check_fresh(folder, experiment)
        return
    # What was measured when it began is as good as given.
    experiment = with_code_scale_kept(experiment, folder)
    before, now = _completed(folder.read_config()), to_dict(experiment)
    for name in FREE_DATA_FIELDS:
        now["data"][name] = before.get("data", {}).get(name)
    # They may have moved: `check_moved` asks whether they are the same where they are now.
    for section, name in MOVABLE:
        where, here = ((c[section] if section else c) for c in (before, now))
        if name in where and name in here:
            here[name] = where[name]
    parts = [(c.get("data", {}).get("mixture") or []) for c in (before, now)]
    for there, part in zip(*parts, strict=False):
        part["path"] = there["path"]
    if experiment.text_length and folder.vocabulary_file.exists():
        folder.check_vocabulary()
        # It may have fewer pieces than were asked for.
        size = open_vocabulary(folder.vocabulary_file).size
        now = to_dict(experiment.with_vocabulary(size)) | {"data": now["data"]}
        for _, name in MOVABLE[1:]:
            if name in before and name in now:
                now[name] = before[name]
    fixed = (*FIXED_SECTIONS, *experiment.also_fixed)
    parts = [(f"config.{name}", before.get(name), now.get(name)) for name in fixed]
    trained = before.get("train", {})
    parts += [(f"config.train.{n}", trained.get(n), now["train"][n]) for n in FIXED_FIELDS]
    for path, old_part, new_part in parts:
        # How a network is computed may change, and how often its condition is dropped.
        old_part, new_part = map(without_compute, (old_part, new_part))
        if path in FREE_FIELDS:
            name = FREE_FIELDS[path]
            old_part, new_part = _without(old_part, name), _without(new_part, name)
        difference = first_difference(old_part, new_part, path)
        if difference is not None:
            field, old, new = difference
            raise UserError(
                f"{folder.path} was trained with {field} = {old!r} and now it is {new!r}; set it "
                "back or give another workdir"
            )
    changed = first_difference(before, now, "config")
    if changed is not None:
        say(f"{changed[0]} was {changed[1]!r} before in {folder.path} and is {changed[2]!r} now")


def _without(section: Any, name: str) -> Any:
    """A section without a field, at any depth."""
    if not isinstance(section, dict):
        return section
    return {k: _without(value, name) for k, value in section.items() if k != name}


def _completed(config: dict[str, Any]) -> dict[str, Any]:
    """A run's config in which each field that is younger than the run has its default."""
    try:
        return to_dict(parse(config))
    except UserError:
        # Of another version altogether: the comparison says where.
        return config


def check_moved(
    folder: RunFolder,
    experiment: Experiment,
    batches: TrainBatches,
    progress: dict[str, Any],
    state: TrainState,
) -> None:
    """Refuses to go on with data or a tokenizer at another path that are not those of the run.

    Raises:
      UserError: the data differ by their fingerprint, the tokenizer by its identity.
    """
    before = _completed(folder.read_config())
    check_tokenizers_moved(folder, experiment, before, state)
    here = _paths(to_dict(experiment)["data"])
    there = _paths(before.get("data", {}))
    if here == there:
        return
    if not batches.same_data(progress["batches"]):
        raise UserError(
            f"{folder.path} was trained with config.data.path = {there} and the data at {here} "
            "are others; set it back or give another workdir"
        )
    say(f"the data of {folder.path} were at {there} and are the same at {here}")


def _paths(data: dict[str, Any]) -> str:
    """Where data lie, for people; several of a mixture."""
    parts = [part["path"] for part in data.get("mixture") or ()]
    return ", ".join(map(repr, parts or [data.get("path", "")]))


def _check_fresh(folder: RunFolder, experiment: Experiment) -> None:
    """What can be said before anything is made: the folder is free, the tokenizer is there."""
    if folder.path.exists():
        if not folder.path.is_dir():
            raise UserError(f"workdir={folder.path} is a file; name a folder")
        # Hidden ones are what a kill leaves of a file that was being written.
        names = {path.name for path in folder.path.iterdir() if not path.name.startswith(".")}
        if not names <= {"text.model", "codes.json", "checkpoints"}:
            raise UserError(
                f"{folder.path} is not empty and holds no config.json; give another workdir"
            )
    experiment.check_new()
    check_tokenizers(experiment)
    if experiment.uses_perceptual:
        PerceptualNetwork(experiment.perceptual).load()
    if hasattr(experiment, "perceptual"):
        # Those of the figures too, or a file that is not there would be told after compiling.
        perceptual_distances({}, experiment.perceptual)
    for start in (*experiment.own_starts, *experiment.starts):
        check_start(start)
    check_vocabulary(experiment, folder)


def classes_learned(experiment: Experiment, source: Source) -> tuple[str, ...]:
    """Names of the classes that a run learns, by number; none where it learns none."""
    return classes_of(source) if experiment.num_classes else ()


def check_data(experiment: Experiment, source: Source) -> None:
    """Refuses data whose classes are not those that the config counts, and a judge of none."""
    asked = experiment.num_classes
    unlabelled = getattr(source, "unlabelled", 0)
    found = len(classes_of(source))
    if asked and unlabelled and found:
        say(f"{unlabelled} of {len(source)} pictures of {source.name} have no class")
    if asked not in (0, found):
        raise UserError(
            f"config.{experiment.classes_in} is {asked} and {source.name} has "
            f"{f'{found} classes; set {found}' if found else 'no classes; name data with some'}"
        )
    experiment.check_data(source)


def finished_figures(folder: RunFolder, experiment: Experiment) -> dict[str, float] | None:
    """The figures of report.json when the run has done all its steps, else None."""
    if not folder.report_file.exists():
        return None
    figures = json.loads(folder.report_file.read_text())
    step = figures.pop("step")
    return figures if step >= experiment.train.steps else None


def resolve(
    experiment: Experiment, folder: RunFolder, source: Source, hosts: Hosts | Alone = ALONE
) -> tuple[Experiment, Vocabulary | None]:
    """Completes an experiment by what its data say: its codes' scale, its vocabulary.

    A vocabulary is that of the run whose words it begins with, or the one that there is, or trained
    on the captions of its data.
    """
    experiment = with_code_scale(experiment, folder, source, hosts)
    if not experiment.text_length:
        return experiment, None
    if hosts.index == 0 and not folder.vocabulary_file.exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        if not take_vocabulary(experiment, folder):
            _train_vocabulary(experiment, folder, source)
    hosts.meet("vocabulary")
    vocabulary = open_vocabulary(folder.vocabulary_file)
    _check_captions(experiment, source, vocabulary)
    return experiment.with_vocabulary(vocabulary.size), vocabulary


def _train_vocabulary(experiment: Experiment, folder: RunFolder, source: Source) -> None:
    captions, asked = source.captions(), experiment.vocab_size
    size = train_vocabulary(captions, folder.vocabulary_file, asked)
    fewer = "" if size >= asked else f" ({asked} were asked for; the captions carry no more)"
    say(f"vocabulary of {size} pieces in {folder.vocabulary_file}{fewer}")


def _check_captions(experiment: Experiment, source: Source, vocabulary: Vocabulary) -> None:
    """Refuses captions of another language than the vocabulary's, and says what is cut."""
    limit = experiment.text_length
    said = (text for caption in source.captions() for text in captions_in(caption))
    captions = list(itertools.islice(said, CAPTIONS_CHECKED))
    written = "".join(captions)
    require(
        vocabulary.knows(written),
        f"most letters of the captions of {source.name} are not in the run's vocabulary: it has "
        "not their language; choose another config.data.language, or another vocabulary",
    )
    if unknown := vocabulary.unknown("".join(sorted(set(written)))):
        say(
            f"the captions hold {len(unknown)} characters that the vocabulary has no piece for, "
            f"such as {unknown[:12]!r}: they read as one unknown piece"
        )
    lengths = vocabulary.lengths(captions)
    cut = sum(length > limit for length in lengths)
    if cut:
        say(
            f"{cut} of the first {len(lengths)} captions have more than "
            f"config.{experiment.text_in}={limit} tokens (up to {max(lengths)}) and are cut"
        )


def open_train_source(experiment: Experiment) -> Source:
    """The data to train on, with texts beside them where there are some.

    Raises:
      UserError: pictures are needed and it has none.
    """
    data, seed = experiment.data, experiment.train.seed
    need_read_path(data, "config.data")
    if not experiment.reads_pictures:
        return open_texts(data, data.split, seed)
    source = open_source(
        data,
        data.split,
        max(experiment.image_size),
        seed,
        require_captions=experiment.text_length > 0,
    )
    require(
        has_pictures(source),
        f"config.data.source is {data.source!r}, texts without pictures, and "
        f"objective={experiment.objective} learns from pictures; name data that have some",
    )
    source, beside = experiment.arranged(source), experiment.texts_beside
    return source if beside is None else Beside(source, _open_beside(beside, seed))


def _open_beside(texts: DataConfig, seed: int) -> Source:
    need_read_path(texts, "config.text_data")
    try:
        return open_texts(texts, texts.split, seed)
    except UserError as error:
        # The fields of a section know that of most runs.
        said = str(error).replace("data.", "config.text_data.")
        said = said if "config.text_data." in said else f"config.text_data: {said}"
        raise UserError(said) from error


def open_batches(
    experiment: Experiment, vocabulary: Vocabulary | None, source: Source | None = None
) -> TrainBatches | WithTexts:
    """This host's batches from step 0 on, of a source that is open; None: it is opened here."""
    source = open_train_source(experiment) if source is None else source
    batches = _batches(experiment, experiment.data, vocabulary, source)
    if experiment.texts_beside is None:
        return batches
    texts = _batches(experiment, experiment.texts_beside, vocabulary, source.texts_beside)
    return WithTexts(batches, texts)


def _batches(
    experiment: Experiment, data: DataConfig, vocabulary: Vocabulary | None, source: Source
) -> TrainBatches:
    return TrainBatches(
        source,
        batch_size=experiment.train.batch_size,
        image_size=experiment.image_size,
        seed=experiment.train.seed,
        vocabulary=vocabulary,
        text_length=experiment.text_length,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        crop=data.crop,
        workers=data.workers,
        max_bad_share=data.max_bad_share,
        captions=data.captions,
    )


def initial_state(
    experiment: Experiment, objective: Objective, key: jax.Array, places: TrainState
) -> TrainState:
    """Fresh weights, each made where it lives; those that come from elsewhere in their places."""
    check_tokenizers(experiment)
    # Before anything is compiled.
    abstract = jax.eval_shape(objective.init, key)
    for start in (*experiment.own_starts, *experiment.starts):
        check_fits(abstract, start, experiment.class_rows)
    state = jax.jit(objective.init, out_shardings=places)(key)
    for start in experiment.own_starts:
        state = begun(state, start, quiet=True)
    for start in experiment.starts:
        state = begun(state, start, experiment.class_rows)
    check_same_encoder(experiment, state)
    return state if state.ema is None else begin_average(state)


def whole_objective(experiment: Experiment) -> Objective:
    """What the config trains, with an average of its weights where one is asked for."""
    objective, ema = experiment.make_objective(), experiment.train.ema
    return objective if ema is None else Averaged(objective, ema)


def moved(progress: dict[str, Any], layout: Layout, hosts: Hosts | Alone) -> str:
    """What is said of a checkpoint that was made on another mesh or number of hosts."""
    here = {**layout.mesh.shape, "hosts": hosts.count}
    before = progress.get("mesh", here)
    if before == here:
        return ""

    def told(mesh: dict[str, int]) -> str:
        return " x ".join(f"{name} {size}" for name, size in mesh.items() if size > 1) or "1 device"

    return f", saved on {told(before)} and now split over {told(here)}"


def evaluation_context(
    experiment: Experiment,
    mesh: jax.sharding.Mesh,
    vocabulary: Vocabulary | None,
    classes: tuple[str, ...],
) -> Context:
    """What the run's evaluators need to know."""
    return Context(
        data=experiment.data,
        image_size=experiment.image_size,
        seed=experiment.train.seed,
        mesh=mesh,
        vocabulary=vocabulary,
        text_length=experiment.text_length,
        classes=classes,
        condition=getattr(experiment, "condition", None),
    )
