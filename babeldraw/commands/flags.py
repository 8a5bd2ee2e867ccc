"""What commands ask of their flags."""

import contextlib
import dataclasses
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from absl import flags

from babeldraw.errors import UserError
from babeldraw.hosts.place import Place, find_place
from babeldraw.hosts.presence import Limits
from babeldraw.runs.compiled import use_compilation_cache


def required(values: flags.FlagValues, name: str) -> Any:
    """The value of a flag that has no default.

    Raises:
      UserError: it was not given, or it is a config file that cannot be read.
    """
    value = values[name].value
    try:
        # ml_collections says that a file cannot be read only when the config is used.
        getattr(value, "items", None)
    except OSError as error:
        reason = str(error).splitlines()[-1].rpartition("] ")[2]
        raise UserError(f"--{name} cannot be read: {reason}") from error
    if value in (None, "", []):
        raise UserError(f"--{name} is missing; see --help for an example")
    return value


def make_folder(folder: Path, flag: str) -> Path:
    """Makes the folder that `flag`, such as "--out=pictures", asks for.

    Raises:
      UserError: it cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{flag} cannot be made: {error}") from error
    return folder


@contextlib.contextmanager
def as_flags(names: Mapping[str, str]) -> Iterator[None]:
    """A library's `UserError` that speaks of its arguments, told by the flags that they come from.

    Args:
      names: arguments and their flags.
    """
    arguments = "|".join(map(re.escape, names))
    # As a library names one: `name=value`, `name is value`, `another name`.
    said = re.compile(rf"(?<![\w.-])({arguments})(?==| is )|(?<=another )({arguments})\b")
    try:
        yield
    except UserError as error:
        words = said.sub(lambda found: f"--{names[found[1] or found[2]]}", str(error))
        raise UserError(words) from error


def define_cache(values: flags.FlagValues) -> None:
    """The flag of a command that compiles programs."""
    flags.DEFINE_string(
        "compilation_cache",
        None,
        "A folder that keeps compiled programs for the next start, or off; none: "
        "JAX_COMPILATION_CACHE_DIR, else .compilation_cache beside the run folder.",
        flag_values=values,
    )


def use_cache(values: flags.FlagValues) -> None:
    """Keeps compiled programs as the flags say; once all hosts have joined."""
    workdir = values["workdir"].value if "workdir" in values else None
    # Of several runs, beside the first.
    workdir = workdir and workdir.partition(",")[0]
    use_compilation_cache(values.compilation_cache, workdir)


def define_hosts(values: flags.FlagValues) -> None:
    """The flags of a run on several hosts."""
    flags.DEFINE_string(
        "coordinator",
        None,
        "HOST:PORT of the first host; the port after it must be open too. With --hosts and --host; "
        "on TPU VMs, GKE and Slurm the environment tells all three.",
        flag_values=values,
    )
    flags.DEFINE_integer("hosts", None, "Number of hosts.", flag_values=values)
    flags.DEFINE_integer("host", None, "Which one this is, from 0.", flag_values=values)
    told = {
        "arrive": "Seconds until all hosts must be there.",
        "silence": "Seconds without a sign of life after which a host is lost.",
        "progress": "Seconds in which the run must move: the longest compilation or evaluation.",
    }
    for field in dataclasses.fields(Limits):
        flags.DEFINE_float(
            f"limit_{field.name}", field.default, told[field.name], flag_values=values
        )


def hosts_of(values: flags.FlagValues) -> tuple[Place | None, Limits]:
    """Which of how many hosts this is, None where it is alone; and the limits.

    Raises:
      UserError: flags that do not fit.
    """
    names = [field.name for field in dataclasses.fields(Limits)]
    limits = Limits(**{name: values[f"limit_{name}"].value for name in names})
    with as_flags({"coordinator": "coordinator", "count": "hosts", "index": "host"}):
        place = find_place(*(values[name].value for name in ("coordinator", "hosts", "host")))
    return place, limits
