"""Parsing and checks of recipe options, by their fields' types.

Imports no torch.
"""

import enum
import functools
import math
import types
import typing
from collections.abc import Sequence
from typing import Any

from efficientquant.errors import RecipeFormatError

BOOLEANS = {"true": True, "false": False}
SEPARATOR = "+"  # commas separate recipes, colons separate options
KINDS = "bool, int, float, str, StrEnum, Literal, X | None and tuple[X, ...]"


@functools.cache
def option_types(recipe_class: type) -> dict[str, Any]:
    """Return the type of each field of a recipe's class."""
    return typing.get_type_hints(recipe_class)


def parse_option(field: str, text: str, kind: Any, default: object = None) -> Any:
    """Return an option's value from text.

    For a plain `tuple`, the values of `default` give the types. Raises RecipeFormatError when a number cannot be read.
    """
    kind, is_optional = _split_none(kind)
    if text.lower() == "none" and (is_optional or kind in (int, float)):
        return None  # check_option refuses it where it is impossible
    parts = _parts(kind, default, text.count(SEPARATOR) + 1)
    if parts is not None:
        texts = text.split(SEPARATOR)
        # Text beyond a fixed number of values is read too, so that check_option can count it.
        kinds = [*parts, *[parts[-1]] * (len(texts) - len(parts))]
        return tuple(parse_option(field, part, part_kind) for part, part_kind in zip(texts, kinds, strict=False))
    if kind is bool:
        return BOOLEANS.get(text.lower(), text)
    if kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            raise RecipeFormatError(field, f"{text!r} is not a number; {_possible(kind)}") from None
    return next((choice for choice in typing.get_args(kind) if str(choice) == text), text)


def option_text(value: object) -> str:
    """Return an option's value as a user writes it."""
    if isinstance(value, tuple):
        return SEPARATOR.join(map(option_text, value))
    return str(value).lower() if isinstance(value, bool) or value is None else str(value)


def check_option(field: str, value: object, kind: Any) -> Any:
    """Check an option's value and convert it to its field's type.

    Text becomes an enumeration's member and a list becomes a tuple, so that JSON can be read back. Raises
    RecipeFormatError for a value that the option cannot have, and for a type that no option can have.
    """
    kind, is_optional = _split_none(kind)
    if value is None and is_optional:
        return None
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        fits = str(value) in set(kind)
        value = kind(str(value)) if fits else value
    elif typing.get_origin(kind) is typing.Literal:
        fits = value in typing.get_args(kind)
    elif kind is tuple or typing.get_origin(kind) is tuple:
        return _check_tuple(field, value, kind)
    elif kind is float:
        fits = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    elif kind in (bool, int, str):
        fits = type(value) is kind
    else:
        raise RecipeFormatError(field, f"has a type that no option can have; {KINDS} are possible")
    if not fits:
        shown = "none" if value is None else str(value) if kind in (int, float) else repr(str(value))
        raise RecipeFormatError(field, f"{shown}; {_possible(kind)}{', or none' if is_optional else ''}")
    return value


def is_optional(kind: Any) -> bool:
    """Tell whether an option may be none."""
    return _split_none(kind)[1]


def _check_tuple(field: str, value: object, kind: Any) -> tuple[Any, ...]:
    if not isinstance(value, (list, tuple)):
        raise RecipeFormatError(field, f"{value!r}; it must be several values, as in 1{SEPARATOR}2")
    parts = _parts(kind, value, len(value))
    if parts is None or len(parts) != len(value):
        raise RecipeFormatError(field, f"{len(value)} values; {len(parts or ())} are possible")
    return tuple(check_option(field, part, part_kind) for part, part_kind in zip(value, parts, strict=True))


def _split_none(kind: Any) -> tuple[Any, bool]:
    """Return a type without None, and whether it allowed None."""
    if typing.get_origin(kind) not in (typing.Union, types.UnionType):
        return kind, False
    others = [part for part in typing.get_args(kind) if part is not types.NoneType]
    return (others[0] if len(others) == 1 else kind), len(others) < len(typing.get_args(kind))


def _parts(kind: Any, example: object, count: int) -> Sequence[Any] | None:
    """Return the types of a tuple's `count` values, None for another type."""
    if kind is tuple:
        values = example if isinstance(example, (list, tuple)) and example else [""]
        return [type(value) for value in values] if len(values) == count else [type(values[0])] * count
    if typing.get_origin(kind) is not tuple:
        return None
    part_kinds = typing.get_args(kind)
    return [part_kinds[0]] * count if part_kinds[1:] == (...,) else part_kinds


def _possible(kind: Any) -> str:
    if isinstance(kind, type) and issubclass(kind, enum.StrEnum):
        return f"it must be one of {', '.join(kind)}"
    if typing.get_origin(kind) is typing.Literal:
        return f"it must be one of {', '.join(map(str, typing.get_args(kind)))}"
    return {
        bool: "it must be true or false",
        int: "it must be a whole number",
        float: "it must be a finite number",
        str: "it must be text",
    }[kind]
