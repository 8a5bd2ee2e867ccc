"""What commands ask of their flags."""

from typing import Any

from absl import flags

from babeldraw.errors import UserError


def required(values: flags.FlagValues, name: str) -> Any:
    """The value of a flag that has no default. Raises `UserError` when it was not given."""
    value = values[name].value
    if value in (None, "", []):
        raise UserError(f"--{name} is missing; see --help for an example")
    return value
