"""The program `babeldraw`: finds the command, shows help, turns a user's mistake into one line."""

import ast
import contextlib
import importlib
import logging as py_logging
import os
import re
import sys
from collections.abc import Sequence
from types import ModuleType

from absl import flags, logging
from ml_collections import ConfigDict

import babeldraw
from babeldraw.errors import UserError, drop_unraisable

COMMANDS = (
    "demo",
    "train",
    "sample",
    "caption",
    "evaluate",
    "probe",
    "features",
    "inspect",
    "compile",
    "vocabulary",
    "clusters",
    "prepare",
    "emoji",
    "tokenize",
    "encode",
    "score",
    "reconstruct",
    "import",
    "export",
    "bench",
)
# A module cannot be called `import`.
MODULES = {"import": "import_weights"}
# Commands whose first word says what to do: each is a module of its own, such as bench_decode.
PARTS = {
    "bench": ("attention", "codebook", "decode", "input", "train"),
    "score": ("measure", "train", "report"),
}
# Flags that are configs, where a command has them; their fields are --config.FIELD.
CONFIGS = ("config", "compare")
# By what Python says of a value that a flag cannot take: what it takes.
NEEDED = {"int()": "a whole number", "to float": "a number", "boolean": "true or false"}
USAGE = """babeldraw {version}: models that draw from text by predicting image tokens

usage: babeldraw COMMAND [flags]      babeldraw COMMAND --help

{commands}
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Runs one command and exits: 0, 2 for a user's mistake, 130 for an interrupt.

    Args:
      argv: the words after `babeldraw`; those of the process by default.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("help", "--help", "-h"):
        print(_usage())
        sys.exit(0)
    if words[0] == "--version":
        print(babeldraw.__version__)
        sys.exit(0)
    debug = "--debug" in words
    try:
        sys.exit(_run(words[0], [word for word in words[1:] if word != "--debug"]))
    except (UserError, OSError) as error:
        # An OSError is a full disk or a folder without the right to write: the user's to mend.
        if debug:
            raise
        print(f"babeldraw: error: {error}", file=sys.stderr)
        drop_unraisable()
        sys.exit(2)
    except KeyboardInterrupt:
        print("babeldraw: interrupted", file=sys.stderr)
        sys.exit(130)


def _run(name: str, words: list[str]) -> int:
    if name not in COMMANDS:
        raise UserError(f"{name!r} is not a command; the commands are {', '.join(COMMANDS)}")
    if name in PARTS and words and words[0] in PARTS[name]:
        name, words = f"{name} {words[0]}", words[1:]
    command = _module(name)
    if "--help" in words or "-h" in words:
        print(_help(name, command))
        return 0
    # absl's own flags are not used; unparsed, they would be told of with the first warning.
    flags.FLAGS.mark_as_parsed()
    logging.use_absl_handler()
    logging.get_absl_handler().setFormatter(Formatter("babeldraw: %(level)s: %(message)s"))
    logging.set_verbosity(logging.WARNING)
    values = _parse(name, command, words)
    return command.run(values) or 0


class Formatter(py_logging.Formatter):
    """The level in small letters, as errors are told."""

    def format(self, record: py_logging.LogRecord) -> str:
        record.level = record.levelname.lower()
        return super().format(record)


def _module(name: str) -> ModuleType:
    module = MODULES.get(name, name.replace(" ", "_"))
    return importlib.import_module(f"babeldraw.commands.{module}")


def _parse(name: str, command: ModuleType, words: list[str]) -> flags.FlagValues:
    """Flags of one command, values checked; each kind of mistake becomes a `UserError`."""
    values = flags.FlagValues()
    given, without = _sections_left_out(words)
    for flag, path in without:
        if path == "tokenizer":
            _check_alone(given, f"{flag}.{path}")
    into = []
    for flag in CONFIGS:
        given, fields = _into_other_sections(name, command, given, flag)
        into += fields
    argv = [f"babeldraw {name}", *given]
    command.define(values, argv)
    try:
        rest = values(argv)
        for flag, path in without:
            _leave_out(values[flag].value, path)
        for flag, path, text in into:
            _set_absent(values[flag].value, path, text)
        for flag, path in without:
            if path == "tokenizer":
                # Imported here: other commands need no experiment.
                from babeldraw.train.built_on import take_tokenizer

                take_tokenizer(values[flag].value)
    except flags.IllegalFlagValueError as error:
        raise UserError(_bad_value(error)) from error
    except flags.Error as error:
        raise UserError(_one_line(error)) from error
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        # ml_collections: a field that the config does not have, or a value of another type.
        raise UserError(_unknown_field(words, error)) from error
    except (OSError, ImportError, SyntaxError) as error:
        raise UserError(f"--config: {_one_line(error)}") from error
    words_flag = getattr(command, "WORDS", None)
    if words_flag and values[words_flag].value:
        values[words_flag].value = [*values[words_flag].value, *rest[1:]]
    elif len(rest) > 1:
        raise UserError(f"{rest[1]!r} is left over; flags look like --name=value")
    for flag_name in values:
        value = values[flag_name].value
        # In every path, as a shell has it where the sign stands first in a word.
        if isinstance(value, str) and value.startswith("~"):
            values[flag_name].value = os.path.expanduser(value)
    return values


def _check_alone(words: list[str], section: str) -> None:
    """Raises `UserError` for fields of a section that is taken from a run."""
    for word in words:
        if word.lstrip("-").startswith(f"{section}."):
            raise UserError(f"--{section}=None takes a run's section as it is; leave out {word}")


def _sections_left_out(words: list[str]) -> tuple[list[str], list[tuple[str, str]]]:
    """The words without those such as `--config.evaluators.samples=None`; flag and field of these.

    ml_collections takes None for a value, but not for a section.
    """
    kept, without = [], []
    for word in words:
        field = re.fullmatch(rf"--?({'|'.join(CONFIGS)})\.([\w.]+)=None", word)
        if field is None:
            kept.append(word)
        else:
            without.append((field[1], field[2]))
    return kept, without


def _into_other_sections(
    name: str, command: ModuleType, words: list[str], flag: str
) -> tuple[list[str], list[tuple[str, str, str]]]:
    """The words without those that set fields which the config does not have as it is, and these.

    Each with its flag, which is one of `CONFIGS`.

    For ml_collections a section that is None has no fields, and one of a kind has no other's.
    """
    overrides = {}
    for word in words:
        field = re.fullmatch(rf"--?{flag}\.([\w.]+)=(.*)", word, re.DOTALL)
        if field is not None and "." in field[1]:
            overrides[word] = (field[1], field[2])
    if not overrides:
        return words, []
    values = flags.FlagValues()
    # Only to look at the config: what is wrong with other words is said when they are read.
    fields = rf"--?({'|'.join(CONFIGS)})\."
    others = [word for word in words if not re.match(fields, word)]
    command.define(values, [f"babeldraw {name}", *others])
    try:
        values([f"babeldraw {name}", *others])
        config = values[flag].value
        absent = [word for word, (path, _) in overrides.items() if _is_absent(config, path)]
        switched = [path for path, kind in overrides.values() if _is_switched(config, path, kind)]
    except (flags.Error, AttributeError, KeyError, OSError, ImportError, SyntaxError, UserError):
        return words, []
    sections = tuple(path.removesuffix("kind") for path in switched)
    absent += [word for word, (path, _) in overrides.items() if path.startswith(sections)]
    apart = [overrides[word] for word in dict.fromkeys(absent)]
    # The kind first: the fields are then its own.
    apart.sort(key=lambda field: field[0] not in switched)
    return [word for word in words if word not in absent], [(flag, *field) for field in apart]


def _is_absent(config: ConfigDict, path: str) -> bool:
    """Whether the section of a field is there as None, or names only what is other in it."""
    *sections, _ = path.split(".")
    if _says_what_is_other(sections):
        return True
    for section in sections:
        if not isinstance(config, ConfigDict) or section not in config:
            return False
        config = config[section]
    return config is None


def _says_what_is_other(sections: list[str]) -> bool:
    """Whether it is the section of how an evaluator draws, of fields of `config.sampling`."""
    return sections[:1] == ["evaluators"] and sections[-1:] == ["sampling"]


def _is_switched(config: ConfigDict, path: str, kind: str) -> bool:
    """Whether a field says that a section is of another kind than it is."""
    *sections, name = path.split(".")
    for section in sections:
        if not isinstance(config, ConfigDict) or section not in config:
            return False
        config = config[section]
    return name == "kind" and isinstance(config, ConfigDict) and config["kind"] != kind


def _set_absent(config: ConfigDict, path: str, text: str) -> None:
    """Makes a section with its defaults where there is none yet, and sets one of its fields.

    Raises `KeyError` as ml_collections does where there is no such field.
    """
    *sections, name = path.split(".")
    if _says_what_is_other(sections):
        if name not in config["sampling"]:
            raise KeyError(f"'{name}'")
        *_, evaluator, _ = sections
        section = config["evaluators"][evaluator]
        own = section["sampling"]
        with section.unlocked(), section.ignore_type():
            section["sampling"] = ConfigDict({} if own is None else own.to_dict())
            section["sampling"][name] = config["sampling"][name]
    elif _is_absent(config, path):
        *outer, section = sections
        parent = config
        for part in outer:
            parent = parent[part]
        with parent.ignore_type():
            # Imported here: other commands need no experiment.
            from babeldraw.train.experiment import default_section

            parent[section] = ConfigDict(default_section(config.to_dict(), sections))
    whole = config
    for part in sections:
        config = config[part]
    if name not in config:
        raise KeyError(f"'{name}'")
    if name == "kind":
        from babeldraw.train.experiment import switch_kind

        switch_kind(whole, sections, text)
        return
    if isinstance(config[name], bool) and text.lower() in ("true", "false"):
        # As shells have it, and ml_collections takes it elsewhere.
        text = text.capitalize()
    with contextlib.suppress(ValueError, SyntaxError):
        text = ast.literal_eval(text)
    with config.ignore_type():
        config[name] = text


def _leave_out(config: ConfigDict, path: str) -> None:
    """Sets a field to None. Raises `KeyError`, as ml_collections does, where there is none."""
    *sections, name = path.split(".")
    for section in sections:
        config = config[section]
    if name not in config:
        raise KeyError(f"'{name}'")
    with config.ignore_type():
        config[name] = None


def _bad_value(error: Exception) -> str:
    """absl and ml_collections give Python's own words; this says what the flag takes."""
    text = _one_line(error)
    flag, _, reason = text.removeprefix("flag ").partition(": ")
    for sign, needed in NEEDED.items():
        if sign in reason:
            return f"{flag}: {needed} is needed"
    return text


def _unknown_field(words: list[str], error: Exception) -> str:
    """ml_collections names the part of a field that it did not find; this adds those before it."""
    text = _one_line(error).replace("\\", "")
    for word in words:
        parts = word.lstrip("-").partition("=")[0].split(".")
        unknown = [i for i, part in enumerate(parts) if i and f"'{part}'" in text]
        if parts[0] in CONFIGS and unknown:
            hint = text.partition("Did you mean ")[2].partition(" instead")[0]
            field = ".".join(parts[: unknown[-1] + 1])
            return f"{field} is not a field" + (f"; did you mean {hint}?" if hint else "")
    return text


def _one_line(error: Exception) -> str:
    text = error.args[0] if error.args and isinstance(error.args[0], str) else str(error)
    return " ".join(text.replace("\\n", " ").split())


def _usage() -> str:
    lines = []
    for name in COMMANDS:
        doc = _module(name).__doc__ or ""
        lines.append(f"  {name:<11} {doc.strip().splitlines()[0]}")
    return USAGE.format(version=babeldraw.__version__, commands="\n".join(lines))


def _help(name: str, command: ModuleType) -> str:
    values = flags.FlagValues()
    command.define(values, [f"babeldraw {name}"])
    lines = [f"babeldraw {name}: {(command.__doc__ or '').strip()}", "", "flags:"]
    for flag_name in sorted(values):
        flag = values[flag_name]
        default = "" if flag.default in (None, "") else f" (default: {flag.default})"
        lines.append(f"  --{flag_name}: {' '.join((flag.help or '').split())}{default}")
    lines.append("  --debug: show the traceback of a mistake")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
