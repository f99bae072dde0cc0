"""Settings of a learner that is there already: honoured from the next step on, or refused with a sentence."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

__all__ = ["Setting", "fixed", "settings_of"]

Class = TypeVar("Class", bound=type)


class Setting:
    """An argument of a learner's constructor, as an attribute that can be assigned.

    Until the learner ``is_built`` it is a plain attribute. Then its ``change_setting(name, value)`` decides. Without a
    ``__get__`` it is read from the learner's ``__dict__``, as any other attribute.
    """

    def __set_name__(self, owner: type, name: str) -> None:
        """Takes the name."""
        self.name = name

    def __set__(self, learner: Any, value: Any) -> None:
        """Assigns it, or asks the learner to."""
        if learner.__dict__.get("is_built", False):
            learner.change_setting(self.name, value)
        else:
            learner.__dict__[self.name] = value


def settings_of(constructor: Callable[..., None], without: Sequence[str] = ()) -> tuple[str, ...]:
    """Arguments of a learner's constructor that a file holds: all but what it is built of, where, and how.

    Args:
        constructor: Its ``__init__``.
        without: Arguments that are none either.
    """
    names = inspect.getfullargspec(constructor)
    others = ("self", "policy", "env", "device", "compile", *without)
    return tuple(name for name in (*names.args, *names.kwonlyargs) if name not in others and not name.startswith("_"))


def fixed(*names: str) -> Callable[[Class], Class]:
    """Makes attributes of a class settings that cannot change once an object of it ``is_built``."""

    def decorate(cls: Class) -> Class:
        def change_setting(self: Any, name: str, value: Any) -> None:
            if value is not getattr(self, name):
                raise AttributeError(f"{name} must stay what it was when the {cls.__name__} was built: make a new one.")

        members: dict[str, Any] = {"change_setting": change_setting, "is_built": False}
        for name in names:
            members[name] = Setting()
            members[name].__set_name__(cls, name)
        for name, member in members.items():
            setattr(cls, name, member)
        return cls

    return decorate
