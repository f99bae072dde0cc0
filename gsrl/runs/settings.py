"""Settings, read from the constructors that they belong to: names, types, defaults, and what their docstrings say."""

from __future__ import annotations

import inspect
import json
import math
import re
import reprlib
import tomllib
import types
import typing
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, make_dataclass
from pathlib import Path
from typing import Any, Literal

from gsrl.runs.errors import UsageError, similar

__all__ = [
    "SAME",
    "Setting",
    "from_toml",
    "is_a",
    "is_schedule",
    "make_settings",
    "parameters",
    "read_toml",
    "read_value",
    "setting_of",
    "shown",
    "to_toml",
    "type_name",
]

SAME: Any = inspect.Parameter.empty
"""What is left as the constructor has it."""

PLAIN = (int, float, bool, str, types.NoneType)
"""Types that can be written on a command line."""

REST = r"(?:[^.]|\.(?=\S))*"
"""The rest of a sentence; names have dots inside."""

IN_PYTHON = (
    rf"(?:[,;](?: a number,)?(?: or)?|,? it can be) a function (?:of|that makes) {REST}",
    rf"; a number of at least 0, or a schedule{REST}",
    rf", or a tuple such as {REST}|\.? Alternatively pass a tuple.*",
    rf": a name that \S+ knows, or an estimator{REST}",
    r"[,;]? [sS]ee (?:https?:.*|[\w.]+(?: with [\w.]+)?(?=[.;,]))|,? (?:NOTE|Note|IMPORTANT): .*",
)
"""What docstrings say of values that only Python can give, and where they point to."""


_REPR = reprlib.Repr()
_REPR.maxstring = _REPR.maxother = _REPR.maxlong = 80
shown = _REPR.repr
"""A value in an error, shortened where it is long or deep."""


@dataclass(frozen=True)
class Setting:
    """A setting; or what a card says of one otherwise than the constructor does."""

    default: Any = SAME
    type: Any = SAME
    help: str = SAME

    def over(self, other: Setting) -> Setting:
        """Returns this, with what it does not say as the other one says it."""
        pairs = ((self.default, other.default), (self.type, other.type), (self.help, other.help))
        return Setting(*(mine if mine is not SAME else there for mine, there in pairs))


def parameters(constructor: type[Any]) -> dict[str, tuple[inspect.Parameter, Mapping[str, Any]]]:
    """Returns the parameters of a class, each with the globals of its annotation.

    Those that a subclass hands on by ``**kwargs`` are its own too; not so what a class of gsrl's has ``**refused``.
    """
    found: dict[str, tuple[inspect.Parameter, Mapping[str, Any]]] = {}
    for cls in constructor.__mro__:
        function = vars(cls).get("__init__")
        if function is None:
            continue
        _, *own = inspect.signature(function).parameters.values()
        for each in own:
            if each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD):
                found.setdefault(each.name, (each, inspect.unwrap(function).__globals__))
        if not any(each.kind is each.VAR_KEYWORD and each.name != "refused" for each in own):
            break
    return found


def setting_of(name: str, constructors: tuple[type[Any], ...], own: Setting) -> Setting:
    """Returns a setting as the first constructor that has it says it is, but for what is its ``own``.

    Raises:
        TypeError: None has it; or it has no default, or a type that no command line can be read as.
    """
    found = Setting(type=None, help="")
    for constructor in constructors:
        if name in (known := parameters(constructor)):
            parameter, scope = known[name]
            kind = plain_type(_annotation(parameter, scope)) if own.type is SAME else own.type
            found = Setting(parameter.default, kind, _documented(constructor).get(name, ""))
            break
    chosen = own.over(found)
    default, kind = chosen.default, chosen.type
    if kind is None or default is SAME:
        missing = "type that can be written on a command line" if kind is None else "default"
        names = " or ".join(each.__name__ for each in constructors)
        raise TypeError(f"{name} must have a {missing}, but has none in {names}: give it, or leave the setting out.")
    if default is None and not _admits_none(kind):
        kind |= None
    if kind is float and isinstance(default, int):
        default = float(default)
    return Setting(default, kind, chosen.help)


def is_schedule(name: str, constructor: type[Any]) -> bool:
    """Whether a parameter may also be a function, of the progress of the training."""
    parameter, scope = parameters(constructor)[name]
    return any(typing.get_origin(each) is Callable for each in _members(_annotation(parameter, scope)))


def make_settings(
    card: str, settings: Mapping[str, Setting], reduce: Callable[[dict[str, Any]], tuple[Callable[..., Any], Any]]
) -> type[Any]:
    """Makes the dataclass of the settings of a card.

    Args:
        card: Name of the card.
        settings: Of it, by name.
        reduce: Of an object's values, what its ``__reduce__`` returns: a function of a module, and its arguments.
    """
    namespace = {"__reduce__": lambda self: reduce(dict(vars(self)))}
    fields = [(name, each.type, field(default=each.default)) for name, each in settings.items()]
    made = make_dataclass("Settings", fields, frozen=True, namespace=namespace)
    lines = [f"    {name}: {each.help}" for name, each in settings.items()]
    made.__doc__ = "\n".join([f"Settings of {card}.", "", "Args:", *lines])  # which the command line shows
    made.__module__, made.__qualname__ = reduce.__module__, f"{card}.Settings"
    return made


def type_name(kind: Any) -> str:
    """Returns a type as it is written in Python."""
    members = _members(kind)
    if len(members) > 1:
        return " | ".join(map(type_name, members))
    if kind is types.NoneType:
        return "None"
    return kind.__name__ if isinstance(kind, type) and not typing.get_args(kind) else str(kind).replace("typing.", "")


def read_value(text: str, kind: Any) -> Any:
    """Returns what a text is as a value of a type of settings.

    Raises:
        ValueError: It is none.
    """
    members = _members(kind)
    if bool in members and text.lower() in ("true", "false"):
        return text.lower() == "true"
    for each in members:
        if each in (int, float):
            with suppress(ValueError):
                return each(text)
    words = [word for each in members if typing.get_origin(each) is Literal for word in typing.get_args(each)]
    if text in words or (text and str in members):
        return text
    raise ValueError(f"text must be {type_name(kind)}, but got {text!r}.")


def plain_type(annotation: Any) -> Any:
    """Returns what of a type can be written on a command line, numbers before words; None for nothing."""
    members = _members(annotation)
    words = tuple(word for each in members if typing.get_origin(each) is Literal for word in typing.get_args(each))
    kept: list[Any] = [kind for kind in (bool, int, float) if kind in members]
    kept += [Literal[words]] if words else []
    kept += [kind for kind in (str, types.NoneType) if kind in members]
    kept += [each for each in members if typing.get_origin(each) is tuple and typing.get_args(each)[1:] == (...,)]
    made = None
    for kind in kept:
        made = kind if made is None else made | kind
    return made


def _members(annotation: Any) -> list[Any]:
    """The types of a union, of unions inside it too; a type by itself."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return [annotation]
    return [each for argument in typing.get_args(annotation) for each in _members(argument)]


def _admits_none(kind: Any) -> bool:
    return types.NoneType in _members(kind)


def _annotation(parameter: inspect.Parameter, scope: Mapping[str, Any]) -> Any:
    text = parameter.annotation
    return eval(text, dict(scope)) if isinstance(text, str) else text  # written in the source, as the default is


def _documented(constructor: type[Any]) -> dict[str, str]:
    """What docstrings say of parameters: Google's form, and Sphinx's, which is Stable-Baselines3's."""
    found: dict[str, str] = {}
    for cls in reversed(constructor.__mro__):
        doc = inspect.cleandoc(vars(cls).get("__doc__") or "")
        section = re.search(r"^Args:\n((?:(?: {4}.*)?\n?)+)", doc, re.MULTILINE)
        _, *google = re.split(r"^ {4}(\w+): ", section[1], flags=re.MULTILINE) if section else [""]
        _, *sphinx = re.split(r"^:param (\w+): ", doc, flags=re.MULTILINE)
        found |= {name: _sentence(text) for name, text in zip(*[iter(google or sphinx)] * 2, strict=True)}
    return found


def _sentence(text: str) -> str:
    """A docstring's words on a parameter as they stand on a command line."""
    text = " ".join(text.split("\n\n")[0].split())
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text).replace("``", "")
    for pattern in IN_PYTHON:
        text = re.sub(pattern, "", text)
    text = text.strip()
    return text if not text else text[0].upper() + text[1:] + ("" if text.endswith(".") else ".")


# Files


def read_toml(path: Path) -> dict[str, Any]:
    """Reads a file in TOML.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
    except RecursionError as error:
        raise UsageError(f"{path} cannot be read: it is nested too deeply") from error
    except ValueError as error:  # of tomllib; and of numbers with thousands of digits
        raise UsageError(f"{path} is not TOML: {error}") from error


def from_toml(value: Any, kind: Any) -> Any:
    """Returns a value of TOML as one of a setting's type; TOML has neither tuples nor None, which is ``"none"``.

    Raises:
        ValueError: It is none; the message says what it must be.
    """
    try:
        return _converted(value, kind)
    except (ValueError, OverflowError):
        choices = [choice for choice in typing.get_args(kind) if isinstance(choice, str)]
        near = similar(value, choices) if isinstance(value, str) else []
        hint = f"; did you mean {' or '.join(near)}?" if near else ""
        raise ValueError(f"must be {type_name(kind)}, but got {shown(value)}{hint}") from None


def to_toml(values: Mapping[str, Any]) -> str:
    """Returns settings as a file in TOML that :func:`from_toml` reads."""
    return "".join(f"{name} = {_toml(value)}\n" for name, value in values.items())


def _toml(value: Any) -> str:
    if value is None:
        return '"none"'
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_toml, value))}]"
    # JSON's texts and truth values are TOML's, but for a control character.
    return (
        json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        if isinstance(value, bool | str)
        else repr(value)
    )


def is_a(value: Any, kind: Any) -> bool:
    """Whether a value of TOML is of a type; a whole number is a number, and no truth value is."""
    if typing.get_origin(kind) is list:
        return isinstance(value, list) and all(is_a(item, typing.get_args(kind)[0]) for item in value)
    if isinstance(value, bool):
        return kind is bool
    return isinstance(value, int | float if kind is float else kind)


def _converted(value: Any, hint: Any) -> Any:
    """A value of TOML as one of a setting's type.

    Raises:
        ValueError: It is none.
    """
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        for argument in sorted(arguments, key=lambda one: one is str):  # a text may be "none", or any other
            try:
                return _converted(value, argument)
            except ValueError:
                continue
    elif hint is type(None):
        if value == "none":
            return None
    elif origin is typing.Literal:
        if value in arguments:
            return value
    elif origin is tuple:
        if isinstance(value, list):
            return tuple(_converted(item, arguments[0]) for item in value)
    elif is_a(value, hint) and not (hint is float and math.isnan(float(value))):
        return hint(value)
    raise ValueError(value)
