"""Draws pictures with a trained run: from prompts, of classes, or of whatever else it learned.

Writes one PNG per picture, a grid and a manifest; each PNG carries what was asked for, its seed and
settings. The same command goes on where it was broken off.

Example:
  babeldraw sample --workdir=runs/demo/text_to_image --num=4 --out=pictures \\
      --prompt="a small red circle left of a large blue square on a white background"

The best 2 of 16, as a contrastive captioner sees it (configs/demo/coca.py trains one):
  babeldraw sample --workdir=runs/demo/text_to_image --prompts=prompts.tsv --num=16 --keep=2 \\
      --judge=runs/coca

A hole in a picture filled, and pictures of a folder completed from their upper half on
(docs/editing.md):
  babeldraw sample --workdir=runs/demo/text_to_image --prompt="a red circle" --image=a.png \\
      --mask=hole.png
  babeldraw sample --workdir=runs/demo/text_to_image --prompt="a red circle" --image=halves \\
      --complete=0.5

Larger by super-resolution of codes, where the judge sees the small pictures, or of pixels, where it
sees the large ones (docs/super_resolution.md):
  babeldraw sample --workdir=runs/emoji_coglm --prompt="a cat" --num=8 --keep=1 \\
      --judge=runs/emoji_coglm --super_resolution=runs/emoji_enlarger,runs/emoji_refiner

By class, the half that a classifier holds for likeliest (docs/vim.md):
  babeldraw sample --workdir=runs/digits/vim --class=3,4 --num=16 --keep=8 \\
      --judge=runs/digits/classifier
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from babeldraw.commands.flags import define_cache, make_folder, required, use_cache
from babeldraw.commands.sample_edit import (
    Edits,
    check_editing,
    define_editing,
    recorded_editing,
)
from babeldraw.config import require
from babeldraw.data.image import center_crop
from babeldraw.data.states import read_features
from babeldraw.drawing.album import MOST_IN_GRID, Album, slug
from babeldraw.drawing.prompts import Prompt, read_prompts
from babeldraw.drawing.sampler import Picture, Sampler
from babeldraw.drawing.styles import STYLES, template
from babeldraw.errors import UserError
from babeldraw.models.condition import Asked
from babeldraw.prediction.kinds import PREDICTIONS
from babeldraw.say import ProgressReport, say
from babeldraw.sharding.mesh import MeshConfig

# What each picture depends on beside what is asked for and its seed: these go into the manifest.
RECORDED = ("style", "judge", "super_resolution", "tokenizer_run", "weights", "level")
STRINGS = {
    "workdir": (None, "A run folder of a generator."),
    "prompts": ("", "A text file with a prompt per line, or a .tsv table with a column Prompt."),
    "features": (
        "",
        "Of a run that draws from features: the .npz of `babeldraw encode --prompts`.",
    ),
    "style": (
        "",
        f"What each text is put into: {', '.join(STYLES)} (CogView2's words, in Chinese), or a "
        "template with one {} for the text; none: the text alone.",
    ),
    "tokenizer_run": (
        "",
        "A tokenizer run folder whose decoder draws; none: the one that the run was trained with.",
    ),
    "judge": (
        "",
        "What --keep goes by: the run folder of a contrastive captioner, a CogLM or a classifier, "
        "or a file of CLIP's weights with its words beside it.",
    ),
    "weights": ("", "ema or params; none: the average of the weights where the run keeps one."),
    "level": (
        "",
        "Of a run that draws into several of its tokenizer's, the one for all pictures; none: by "
        "the column Level of --prompts, else the run's own.",
    ),
    "out": ("pictures", "The folder to write to."),
}
LISTS = {
    "class": "Classes by name or number, separated by commas; or all, or none.",
    "super_resolution": "Run folders of what makes each picture larger, in order; none: as drawn.",
}
INTEGERS = {
    "num": (1, "Pictures of each thing."),
    "keep": (None, "Of these, the best are kept, by --judge; all of them unless given."),
    "seed": (0, "Seed of the first picture of each thing."),
    "batch_size": (16, "Pictures drawn at a time."),
    "model_parallel": (1, "Devices that share the generator."),
}


def define(values: flags.FlagValues, argv: list[str]) -> None:
    define_cache(values)
    define_editing(values)
    flags.DEFINE_multi_string("prompt", [], "What to draw; may be repeated.", flag_values=values)
    for name, (default, text) in STRINGS.items():
        flags.DEFINE_string(name, default, text, flag_values=values)
    for name, text in LISTS.items():
        flags.DEFINE_list(name, [], text, flag_values=values)
    for name, (number, text) in INTEGERS.items():
        flags.DEFINE_integer(name, number, text, flag_values=values)
    makers = {int: flags.DEFINE_integer, float: flags.DEFINE_float, str: flags.DEFINE_string}
    for name, (kind, predictions) in _settings().items():
        which = "" if len(predictions) == len(PREDICTIONS) else f" ({', '.join(predictions)})"
        makers[kind](name, None, f"{name}{which}; the run's own unless given.", flag_values=values)


def _settings() -> dict[str, tuple[type, list[str]]]:
    """Every setting of how to draw: its type, and the predictions that have it."""
    found: dict[str, tuple[type, list[str]]] = {}
    for kind, (prediction, *_) in PREDICTIONS.items():
        for field in dataclasses.fields(prediction.sampling):
            found.setdefault(field.name, (field.type, []))[1].append(kind)
    return found


def run(values: flags.FlagValues) -> int:
    _check(values)
    prompts = [Prompt(text) for text in values.prompt]
    prompts += read_prompts(values.prompts) if values.prompts else []
    workdir = required(values, "workdir")
    if values.style:
        template(values.style, "--style")
    use_cache(values)
    sampler = Sampler.from_run(
        workdir,
        stages=values.super_resolution,
        tokenizer_run=values.tokenizer_run,
        judge=values.judge,
        mesh=_mesh(values.model_parallel),
        weights=values.weights,
    )
    if values.level:
        sampler = sampler.at(values.level)
    if values.style:
        sampler = dataclasses.replace(sampler, style=values.style)
    said = {"text": [prompt.text for prompt in prompts], "class": values["class"].value}
    if values.features:
        said["features"] = read_features(values.features, f"--features={values.features}")
    words = sampler.condition.asked_by(said, sampler.lexicon)
    settings = _changed(values, sampler)
    level_of = None if values.level else _by_column(prompts, sampler)
    recorded = {name: values[name].value for name in RECORDED if values[name].value}
    edits = Edits.of(values, sampler)
    if edits is not None:
        require(level_of is None, "--image has codes of one level; name that by --level")
        recorded |= recorded_editing(values) | {"edited": edits.digest}
        count, edits = len(edits.files), edits.for_each(len(words))
        words, prompts = [*words] * count, prompts * count
    drawing = Drawing(
        sampler,
        Path(values.out),
        num=values.num,
        seed=values.seed,
        settings=settings,
        batch_size=values.batch_size,
        edits=edits,
        keep=values.keep,
        level_of=level_of,
        recorded=recorded,
        file_of=flat_file if edits is None else edits.file_of,
    )
    count = drawing.draw(words, prompts)
    say(f"{count} pictures, grid.png and manifest.jsonl in {drawing.folder}")
    return 0


def _by_column(prompts: Sequence[Prompt], sampler: Sampler) -> Callable[[Asked], str] | None:
    """What a table says of the level of each of its texts; None where it says nothing.

    Raises:
      UserError: it says two of one text.
    """
    levels: dict[str, str] = {}
    for prompt in prompts:
        other = levels.setdefault(prompt.text, prompt.level)
        require(
            other == prompt.level,
            f"the table has {prompt.text!r} at the levels {other!r} and {prompt.level!r}; draw it "
            "twice, by --level",
        )
    if not any(levels.values()):
        return None
    if sampler.drawer.generator.levels is None:
        say("the column Level is passed over: the run draws into one level")
        return None
    return lambda asked: levels.get(asked.text, "")


def _changed(values: flags.FlagValues, sampler: Sampler) -> Any:
    """The run's settings with those that flags give."""
    given = {name: values[name].value for name in _settings()}
    given = {name: value for name, value in given.items() if value is not None}
    own = {field.name for field in dataclasses.fields(sampler.defaults)}
    for name in given:
        if name not in own:
            kind = sampler.drawer.prediction.kind
            raise UserError(f"--{name} is no setting of {kind}, by which the run draws")
    return dataclasses.replace(sampler.defaults, **given)


def flat_file(number: int, picture: Picture) -> str:
    """The name of a picture of prompt `number`, all in one folder."""
    return f"{number:05d}_{slug(picture.asked.name)}_seed{picture.seed}.png"


@dataclasses.dataclass(frozen=True)
class Drawing:
    """Draws into a folder. For all but the following see `Sampler.sample`.

    Attributes:
      folder: where to; made where it is not there.
      edits: the pictures parts of which are drawn anew, one of each thing; None: there are none.
      keep: of the `num` pictures of each thing so many are written, the best first.
      recorded: what else made these pictures, for the manifest.
      file_of: from a prompt's number and a picture of it to its file in the folder.
    """

    sampler: Sampler
    folder: Path
    num: int = 1
    seed: int = 0
    settings: Any = None
    batch_size: int = 16
    edits: Edits | None = None
    keep: int | None = None
    level_of: Callable[[Asked], str] | None = None
    recorded: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    file_of: Callable[[int, Picture], str] = flat_file

    def draw(self, words: Sequence[Any], prompts: Sequence[Prompt] = ()) -> int:
        """Draws what is not there yet, and the grid.

        Args:
          words: of each thing.
          prompts: what a table says of some of them, in the words' order where there is one each.

        Returns:
          The number of pictures that are there.
        """
        settings = self.settings or self.sampler.defaults
        # Before the folder is touched: what cannot be drawn is said.
        asked = self.sampler.ask(words)
        self._check(settings)
        levels = [self.level_of(one) for one in asked] if self.level_of else []
        levels = [self.sampler.at(level).drawer.tokenizer.level for level in levels]
        columns = _columns(asked, prompts)
        _say_once(note for one in asked for note in self._notes(one))
        make_folder(self.folder, f"--out={self.folder}")
        names, each = [one.name for one in asked], self.keep or self.num
        fixed = {"step": self.sampler.step, "num": self.num, "first_seed": self.seed}
        fixed |= {**dataclasses.asdict(settings), **self.recorded}
        if self.sampler.cascade is not None:
            fixed["stages"] = self.sampler.cascade.told
        album = Album(self.folder, fixed, names, each, levels)
        left = album.open()
        if len(left) < len(names):
            say(f"{self.folder}: {len(names) - len(left)} of {len(names)} prompts are drawn")
        report = ProgressReport("sample", len(left) * self.num, unit="pictures")
        drawn: list[Picture] = []
        pictures = self._pictures(words, left, settings)
        for done, picture in enumerate(pictures, start=1):
            drawn.append(picture)
            report.update(-(-done * self.num // each))
            if len(drawn) == each:
                number = left[done // each - 1]
                album.add(number, self._entries(number, drawn, columns[number]))
                drawn = []
        report.close()
        lines = album.lines()
        shown = [self._shown(album.picture(line)) for line in lines[:MOST_IN_GRID]]
        album.write_grid(shown, each if each > 1 else 8)
        return len(lines)

    def _pictures(
        self, words: Sequence[Any], numbers: Sequence[int], settings: Any
    ) -> Iterator[Picture]:
        """Of things by their numbers."""
        asked = [words[number] for number in numbers]
        if self.edits is None:
            return self._drawn(asked, settings)
        how = {"num": self.num, "seed": self.seed, "settings": settings, "keep": self.keep}
        return self.edits.draw(self.sampler, asked, numbers, self.batch_size, **how)

    def _check(self, settings: Any) -> None:
        """Raises `UserError` where nothing can be drawn so."""
        if self.edits is None:
            self._drawn((), settings)
            return
        self.edits.check(self.sampler, self.num, self.seed, settings, self.batch_size, self.keep)

    def _drawn(self, words: Sequence[Any], settings: Any) -> Iterator[Picture]:
        return self.sampler.sample(
            words,
            self.num,
            self.seed,
            settings,
            self.batch_size,
            keep=self.keep,
            level_of=self.level_of,
        )

    def _shown(self, image: np.ndarray) -> np.ndarray:
        """For the grid, where edited pictures, of any size, are cut to the model's."""
        return image if self.edits is None else center_crop(image, self.sampler.image_size)

    def _notes(self, asked: Asked) -> tuple[str, ...]:
        judge = self.sampler.judge
        return asked.notes if judge is None else (*asked.notes, *judge.notes(asked))

    def _entries(
        self, number: int, pictures: Sequence[Picture], columns: Mapping[str, str]
    ) -> list[tuple[np.ndarray, dict[str, Any]]]:
        entries = []
        for picture in pictures:
            asked = picture.asked
            entry = {"file": self.file_of(number, picture), "seed": picture.seed, **asked.told}
            if picture.score is not None:
                entry |= {"score": round(picture.score, 6), "rank": picture.rank}
            if picture.level:
                entry["level"] = picture.level
            if self.edits is not None:
                entry["picture"] = self.edits.files[number].name
            if columns:
                entry["columns"] = dict(columns)
            entries.append((picture.image, entry))
        return entries


def _columns(asked: Sequence[Asked], prompts: Sequence[Prompt]) -> list[Mapping[str, str]]:
    """What a table says of each thing; of things that are more than its prompt, by their text."""
    if len(prompts) == len(asked):
        return [prompt.columns for prompt in prompts]
    by_text = {prompt.text: prompt.columns for prompt in prompts}
    return [by_text[one.text] if one.text in by_text else {} for one in asked]


def _check(values: flags.FlagValues) -> None:
    for name, least in (("num", 1), ("batch_size", 1), ("seed", 0), ("model_parallel", 1)):
        value = values[name].value
        if value < least:
            raise UserError(f"--{name} is {value}; at least {least} is needed")
    # Seeds are 32-bit: a larger one would draw the picture of a smaller one.
    if values.seed + values.num > 2**31:
        raise UserError(f"--seed is {values.seed}; at most {2**31 - values.num} is needed")
    if values.keep is not None and not 1 <= values.keep <= values.num:
        raise UserError(f"--keep is {values.keep} and --num {values.num}; give 1 to {values.num}")
    if values.keep is not None and not values.judge:
        raise UserError(
            f"--keep is {values.keep} of {values.num} and nothing says which are best; give --judge"
        )
    check_editing(values)


def _mesh(model: int) -> MeshConfig | None:
    if model == 1:
        return None
    return MeshConfig(data=1, model=model, rules="in_layer_serving")


def _say_once(lines) -> None:
    for line in dict.fromkeys(lines):
        say(line)
