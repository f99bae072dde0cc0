"""Sphinx's roles in docstrings, as links and equations of Markdown: an extension of Griffe."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from logging import getLogger

from griffe import Alias, AliasResolutionError, Class, Extension, Function, GriffeLoader, Module, Object

ROLE = re.compile(r":(class|func|meth|attr|data|mod|math):`([^`]+)`")
EQUATION = re.compile(r"^([ ]*)\.\. math:: (.*(?:\n\1[ ]+\S.*)*)", re.MULTILINE)
EXAMPLE = re.compile(r"^( *)Example:$", re.MULTILINE)
PAPER = re.compile(r"(?<![\w./\[-])(\d{4}\.\d{5})(?![\w\]])")
LITERAL = re.compile(r"``([^`]+)``")
OTHERS = {"gymnasium", "numpy", "pettingzoo", "sb3_contrib", "stable_baselines3", "torch"}

log = getLogger("mkdocs.plugins.roles")


def plain(text: str) -> str:
    """The text in Markdown, with names in the place of links."""
    return LITERAL.sub(r"`\1`", ROLE.sub(lambda found: _plain(*found.groups()), text))


def _plain(role: str, target: str) -> str:
    return f"${target}$" if role == "math" else f"`{target.rpartition('.')[2] if target[0] == '~' else target}`"


class Roles(Extension):
    """Rewrites the docstrings of a package, once all of it is read."""

    def on_package(self, *, pkg: Module, loader: GriffeLoader, **kwargs: object) -> None:
        """Rewrite them."""
        for obj in _objects(pkg):
            if obj.docstring is not None:
                obj.docstring.value = in_markdown(obj.docstring.value, obj)


def in_markdown(text: str, scope: Object) -> str:
    """A docstring as Markdown.

    Args:
        text: The docstring.
        scope: What it belongs to, from which names are looked up.
    """
    text = EXAMPLE.sub(r"\1Examples:", text)
    text = EQUATION.sub(_equation, text)
    text = ROLE.sub(lambda found: _role(found[1], found[2], scope), text)
    text = LITERAL.sub(r"`\1`", text)
    return PAPER.sub(r"[\1](https://arxiv.org/abs/\1)", text)


def _objects(obj: Object) -> Iterator[Object]:
    yield obj
    for member in obj.members.values():
        if not isinstance(member, Alias):
            yield from _objects(member)


def _equation(found: re.Match[str]) -> str:
    indent, equation = found.groups()
    lines = " ".join(line.strip() for line in equation.splitlines())
    return f"{indent}$$\n{indent}{lines}\n{indent}$$"


def _role(role: str, target: str, scope: Object) -> str:
    if role == "math":
        return f"${target}$"
    name = target.lstrip("~")
    shown = name.rpartition(".")[2] if target.startswith("~") else name.removeprefix("gsrl.")
    try:
        path = _path(name, scope)
    except AliasResolutionError:  # something of another package
        return f"`{shown}`"
    if path is None:
        if name.split(".")[0] not in OTHERS and not _inherits(scope):
            log.warning("%s: nothing is called %s, which its docstring links to.", scope.path, name)
        return f"`{shown}`"
    return f'<autoref identifier="{path}" optional>`{shown}`</autoref>'


def _path(name: str, scope: Object) -> str | None:
    """Where a name of a docstring leads, None where nothing of the package has it."""
    around: Object | None = scope.parent if isinstance(scope, Function) else scope
    first, _, rest = name.partition(".")
    while around is not None:
        if first in _members(around) and (found := _below(around, name)) is not None:
            return found
        around = around.parent
    return _below(scope.package, rest) if first == scope.package.name else None


def _members(obj: Object) -> Mapping[str, Object | Alias]:
    return obj.all_members if isinstance(obj, Class) else obj.members


def _below(obj: Object, name: str) -> str | None:
    for part in name.split("."):
        if part not in _members(obj):
            return None
        member = _members(obj)[part]
        obj = member.final_target if isinstance(member, Alias) else member
    return obj.canonical_path


def _inherits(obj: Object | None) -> bool:
    """Whether it may have members of a class of another package."""
    while obj is not None and not isinstance(obj, Class):
        obj = obj.parent
    if obj is None:
        return False
    bases = [base for cls in (obj, *obj.mro()) for base in cls.bases]
    return any(not getattr(base, "canonical_path", "").startswith("gsrl.") for base in bases)
