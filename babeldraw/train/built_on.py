"""The trained tokenizers that a run builds on: that they are there, and those that it was built on.

One that is frozen in its step or that it begins from (`tokenizer_run`), or on whose codes its loss
is (`proxy_run`).
"""

from collections.abc import Iterator
from typing import Any

import jax
from ml_collections import ConfigDict

from babeldraw.config import first_difference, require, to_dict
from babeldraw.data.records import Source
from babeldraw.drawing.tokenizer_run import TokenizerRun
from babeldraw.errors import UserError
from babeldraw.layers.block import without_compute
from babeldraw.models import t5
from babeldraw.objectives.base import TrainState
from babeldraw.runs.folder import RunFolder
from babeldraw.say import say
from babeldraw.sharding.batch import whole
from babeldraw.tokenizers.base import MAKES_CODES, Tokenizer, identity
from babeldraw.tokenizers.kinds import make_tokenizer, read_tokenizer
from babeldraw.train.base_experiment import Experiment


def check_tokenizers(experiment: Experiment) -> None:
    """Refuses tokenizers that are not there, or not those of the config's sections.

    Raises:
      UserError: naming the field, its value and what would do.
    """
    if begins_from_tokenizer(experiment):
        tokenizer_folder(experiment)
    check_frozen_tokenizers(experiment)


def take_tokenizer(config: ConfigDict) -> None:
    """Gives a config whose section `tokenizer` is None that of `tokenizer_run`, in place.

    Raises:
      UserError: that is no trained tokenizer.
    """
    if "tokenizer_run" not in config:
        return
    _, trained = _trained_tokenizer("tokenizer_run", config["tokenizer_run"])
    with config.unlocked(), config.ignore_type():
        config["tokenizer"] = ConfigDict(to_dict(trained))


def check_frozen_tokenizers(experiment: Experiment) -> None:
    """The same of those alone that stay as they are: a whole network may come from elsewhere."""
    if experiment.frozen_tokenizer:
        tokenizer_folder(experiment)
    if hasattr(experiment, "proxy_run"):
        for needed in make_tokenizer(experiment.tokenizer).needs.values():
            _, trained = _trained_tokenizer("proxy_run", experiment.proxy_run)
            _check_same(trained, needed.config, "config.tokenizer.proxy", experiment.proxy_run)


def begins_from_tokenizer(experiment: Experiment) -> bool:
    """Whether a tokenizer begins from parts of another run's."""
    return bool(getattr(experiment, "taken", ()))


def tokenizer_folder(experiment: Experiment) -> RunFolder:
    """The folder that `config.tokenizer_run` names: of a tokenizer with the config's sizes.

    Where what makes its codes is all that is taken, the sizes of that alone.

    Raises:
      UserError: it is none.
    """
    folder, trained = _trained_tokenizer("tokenizer_run", experiment.tokenizer_run)
    asked, where = experiment.tokenizer, str(folder.path)
    own = make_tokenizer(asked)
    require(
        own.draws or not experiment.frozen_tokenizer,
        f"config.tokenizer_run is {experiment.tokenizer_run}, whose tokenizer draws no pictures, "
        "trained as it was on another one's codes; train its second stage and name that",
    )
    require(
        not own.condition or not experiment.frozen_tokenizer or bool(experiment.states_shape),
        f"config.tokenizer_run is {experiment.tokenizer_run}, whose decoder draws beside states of "
        f"a text, and objective={experiment.objective} has none; name one without tokenizer.text",
    )
    free = own.free_fields
    if begins_from_tokenizer(experiment) and "decoder" not in experiment.taken:
        # A decoder may be another.
        make_codes = {"kind", *own.code_fields, *make_tokenizer(trained).code_fields}
        free = tuple(name for name in to_dict(asked) if name not in make_codes)
    whole = ", or all as there, by --config.tokenizer=None" if experiment.frozen_tokenizer else ""
    _check_same(trained, asked, "config.tokenizer", where, free, whole)
    return folder


def _trained_tokenizer(field: str, run: str) -> tuple[RunFolder, Any]:
    """A tokenizer's run folder and the section of its network.

    Raises:
      UserError: it is none.
    """
    if not run:
        raise UserError(f"config.{field} is empty; name the run folder of a trained tokenizer")
    folder = RunFolder.to_read(run)
    before = folder.read_config()
    if before["objective"] != "image_tokenizer":
        raise UserError(
            f"config.{field} is {run}, a run of {before['objective']}; "
            "name one that trained a tokenizer"
        )
    # Built, so that a field that is younger than the folder has its default there.
    return folder, read_tokenizer(before).config


def _check_same(
    trained: Any, asked: Any, path: str, where: str, free: tuple[str, ...] = (), more: str = ""
) -> None:
    """Refuses a section that is not that of a trained tokenizer, but for the fields `free`.

    `more`: what else than to set a field would do.
    """
    if trained.kind != asked.kind:
        raise UserError(
            f"{path}.kind is {asked.kind!r} but {where} was trained with {trained.kind!r}; "
            f"set {trained.kind!r}{more}"
        )
    before, now = (_fields(section) for section in (trained, asked))
    for name in free:
        before.pop(name, None), now.pop(name, None)
    difference = first_difference(before, now, path)
    if difference is not None:
        field, old, new = difference
        raise UserError(
            f"{field} is {new!r} but {where} was trained with {old!r}; set {old!r}{more}"
        )


def _fields(section: Any) -> dict[str, Any]:
    """A tokenizer's section, less what decides nothing of a trained one."""
    fields = without_compute(to_dict(section))
    proxy = getattr(section, "proxy", None), fields.get("proxy")
    for whose, held in ((section, fields), proxy):
        for name in getattr(getattr(whose, "quantizer", None), "training_fields", ()):
            held["quantizer"].pop(name, None)
    return fields


def check_tokenizers_moved(
    folder: RunFolder, experiment: Experiment, before: dict[str, Any], state: TrainState
) -> None:
    """Refuses to go on with tokenizers at another path that are not those of the run.

    Args:
      folder: of the run.
      experiment: its config now.
      before: its config as it was.
      state: of its last checkpoint.

    Raises:
      UserError: one differs by its identity.
    """
    for name, tokenizer, held in _tokenizers_held(experiment, state):
        there = before.get(name, "")
        here = getattr(experiment, name, there)
        if here == there:
            continue
        kept = jax.tree.map(whole, tokenizer.part(held, MAKES_CODES))
        if TokenizerRun.open(here, level=tokenizer.level).identity != identity(tokenizer, kept):
            raise UserError(
                f"{folder.path} was trained with config.{name} = {there!r} and the tokenizer of "
                f"{here!r} is another; set it back or give another workdir"
            )
        say(f"the tokenizer of {folder.path} was at {there!r} and is the same at {here!r}")


def _tokenizers_held(
    experiment: Experiment, state: TrainState
) -> Iterator[tuple[str, Tokenizer, Any]]:
    """The trained tokenizers whose codes a run goes by: field, network, parameters."""
    if not hasattr(experiment, "tokenizer"):
        return
    tokenizer = make_tokenizer(experiment.tokenizer, getattr(experiment, "level", ""))
    if experiment.frozen_tokenizer:
        yield "tokenizer_run", tokenizer, state.frozen["tokenizer"]
    elif not set(MAKES_CODES) & set(getattr(experiment, "train_groups", MAKES_CODES)):
        # Else it began there and went on; nothing is read from there again.
        yield "tokenizer_run", tokenizer, state.params if state.ema is None else state.ema
    if hasattr(experiment, "proxy_run"):
        for name, needed in tokenizer.needs.items():
            yield "proxy_run", needed, state.frozen[name]


def check_stored_tokens(experiment: Experiment, state: TrainState, source: Source) -> None:
    """Refuses stored tokens that another tokenizer than the run's made, fresh or going on."""
    if experiment.data.source != "tokens":
        return
    # Codes of all levels bear the name of the first.
    level = experiment.level if experiment.generator.levels is None else ""
    tokenizer = make_tokenizer(experiment.tokenizer, level)
    kept = tokenizer.part(state.frozen["tokenizer"], MAKES_CODES)
    own = identity(tokenizer, jax.tree.map(whole, kept))
    stored = source.tokenizer
    if stored != own:
        raise UserError(
            f"config.data.path={experiment.data.path} holds tokens of the tokenizer {stored} and "
            f"config.tokenizer_run={experiment.tokenizer_run} is {own}; name the run that made them"
        )


def check_stored_states(experiment: Experiment, state: TrainState, source: Source) -> None:
    """Refuses stored states of captions that another encoder than the run's made.

    A run that draws from features has none, and reads whatever fits.
    """
    reads_stored = getattr(getattr(experiment, "condition", None), "stored", False)
    if not reads_stored or "text_encoder" not in state.frozen:
        return
    own, stored = t5.identity(state.frozen["text_encoder"]), source.states.encoder
    if stored != own:
        raise UserError(
            f"config.data.path={experiment.data.path} holds states of the encoder {stored} and "
            f"config.condition.weights={experiment.condition.files['text_encoder']} is {own}; name "
            "the weights that made them"
        )
