"""What commands ask of their flags."""

from pathlib import Path
from typing import Any

from absl import flags

from babeldraw.errors import UserError


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
