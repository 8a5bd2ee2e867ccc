"""From an `ml_collections` config to frozen, typed dataclasses: the one place that reads configs.

A default lives in its dataclass and nowhere else; an unknown field, a missing one or a value of the
wrong type is a `UserError` that names the field by its full path.
"""

import dataclasses
import difflib
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any

from babeldraw.errors import UserError


# Of its own identity, so that such a type may be optional: a union asks for hashes.
@dataclasses.dataclass(frozen=True, eq=False)
class OfKind:
    """Beside a field's type: the section is of one of several dataclasses, by its field `kind`.

    Attributes:
      table: the first of each entry is the dataclass.
    """

    table: Mapping[str, tuple[type, ...]]

    def build(self, value: Any, path: str) -> Any:
        """The section. Raises `UserError` where `kind` is missing or unknown."""
        if any(isinstance(value, cls) for cls, *_ in self.table.values()):
            return value
        kinds = ", ".join(self.table)
        if not hasattr(value, "items"):
            raise UserError(f"{path} is {value!r}; a section with fields is needed")
        if "kind" not in value:
            raise UserError(f"{path}.kind is missing; the kinds are {kinds}")
        if value["kind"] not in self.table:
            raise UserError(f"{path}.kind is {value['kind']!r}; the kinds are {kinds}")
        return build(self.table[value["kind"]][0], value, path)


def build(cls: type, config: Mapping[str, Any], path: str = "config") -> Any:
    """Makes an instance of the dataclass `cls` from `config`, nested dataclasses included.

    Args:
      cls: a dataclass; field types may be int, float, bool, str, tuple[...], another dataclass,
        `X | None`, or `Annotated[Any, OfKind(...)]`.
      config: a mapping with a value per field; fields with a default may be absent.
      path: how the user calls this section, for messages.

    Raises:
      UserError: unknown field, missing field, or a value of another type than declared; and
        whatever the dataclass's own `__post_init__` finds wrong.
    """
    if not isinstance(config, Mapping) and not hasattr(config, "items"):
        raise UserError(f"{path} is {config!r}; a section with fields is needed")
    hints = typing.get_type_hints(cls, include_extras=True)
    fields = {field.name: field for field in dataclasses.fields(cls) if field.init}
    for name in config:
        if name not in fields:
            raise UserError(f"{path}.{name} is not a field; {_suggest(name, fields)}")
    values = {}
    for name, field in fields.items():
        if name in config:
            values[name] = _convert(hints[name], config[name], f"{path}.{name}")
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise UserError(
                f"{path}.{name} is missing; a value of type {_say(hints[name])} is needed"
            )
    try:
        return cls(**values)
    except UserError as error:
        text = str(error)
        raise UserError(text if text.startswith(path) else f"{path}: {text}") from None


def to_dict(value: Any, defaults: bool = True) -> Any:
    """The inverse of `build`: plain dicts, lists and scalars that JSON can hold.

    Args:
      value: a section, or what may stand in one.
      defaults: with the fields of a section that are as by default; those inside them stay.
    """
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            f.name: to_dict(getattr(value, f.name))
            for f in dataclasses.fields(value)
            if f.init and (defaults or getattr(value, f.name) != f.default)
        }
    if isinstance(value, (tuple, list)):
        return [to_dict(item) for item in value]
    if isinstance(value, Mapping) or hasattr(value, "items"):
        return {name: to_dict(item) for name, item in value.items()}
    return value


def first_difference(before: Any, now: Any, path: str) -> tuple[str, Any, Any] | None:
    """The first field in which two trees of JSON differ, with both values."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in [*before, *(name for name in now if name not in before)]:
            found = first_difference(before.get(name), now.get(name), f"{path}.{name}")
            if found is not None:
                return found
        return None
    return None if before == now else (path, before, now)


def require(condition: bool, message: str) -> None:
    """Raises `UserError(message)` unless the condition holds."""
    if not condition:
        raise UserError(message)


def require_positive(section: Any, path: str, *names: str) -> None:
    """Raises `UserError` where a number of a section is below 1: of these names, or any field."""
    for name in names or [field.name for field in dataclasses.fields(section)]:
        value = getattr(section, name)
        require(value >= 1, f"{path}.{name} is {value}; at least 1 is needed")


def require_choice(section: Any, name: str, choices: Iterable[str]) -> None:
    """Raises `UserError` where a field of a section is none of its choices."""
    value = getattr(section, name)
    require(value in choices, f"{name} is {value!r}; the choices are {', '.join(choices)}")


def _convert(hint: Any, value: Any, path: str) -> Any:
    if hint is Any:
        return value
    if typing.get_origin(hint) is typing.Annotated:
        (of_kind,) = hint.__metadata__
        return of_kind.build(value, path)
    if _is_optional(hint):
        return None if value is None else _convert(_inner(hint), value, path)
    if dataclasses.is_dataclass(hint):
        return value if isinstance(value, hint) else build(hint, value, path)
    if typing.get_origin(hint) is tuple:
        return _convert_tuple(hint, value, path)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is int and isinstance(value, bool) or not isinstance(value, hint):
        # A section in place of a value prints over several lines.
        shown = " ".join(repr(value).split())
        raise UserError(f"{path} is {shown}; a value of type {_say(hint)} is needed")
    return value


def _convert_tuple(hint: Any, value: Any, path: str) -> tuple:
    hints = typing.get_args(hint)
    if dataclasses.is_dataclass(hints[0]) and _is_one_section(value):
        # `({...})` is what a tuple of one is without its comma.
        shown = " ".join(repr(value).split())
        raise UserError(f"{path} is {shown}; sections are needed, one as ({{...}},) with the comma")
    if not isinstance(value, (tuple, list)):
        raise UserError(f"{path} is {value!r}; a value of type {_say(hint)} is needed")
    if len(hints) == 2 and hints[1] is Ellipsis:
        hints = (hints[0],) * len(value)
    if len(hints) != len(value):
        raise UserError(f"{path} is {tuple(value)!r}; {len(hints)} values are needed")
    return tuple(
        _convert(h, v, f"{path}[{i}]") for i, (h, v) in enumerate(zip(hints, value, strict=True))
    )


def _is_one_section(value: Any) -> bool:
    """Whether a section, or the names of its fields alone, stands where several are wanted."""
    names = isinstance(value, (tuple, list)) and any(isinstance(one, str) for one in value)
    return names or isinstance(value, str) or hasattr(value, "items")


def _is_optional(hint: Any) -> bool:
    return typing.get_origin(hint) in (types.UnionType, typing.Union)


def _inner(hint: Any) -> Any:
    (inner,) = (arg for arg in typing.get_args(hint) if arg is not type(None))
    return inner


def _say(hint: Any) -> str:
    return str(hint) if typing.get_args(hint) else hint.__name__


def _suggest(name: str, fields: Mapping[str, Any]) -> str:
    close = difflib.get_close_matches(name, fields, n=1)
    return f'did you mean "{close[0]}"?' if close else f"the fields are {', '.join(sorted(fields))}"
