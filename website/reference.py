"""Pages of the reference: one for each module, from its source; tables of all settings and of all that is logged."""

from __future__ import annotations

import ast
import re
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from website.roles import plain

ROOT = Path(__file__).resolve().parents[1]

TITLES = {"settings": "All settings", "metrics": "All that is logged"}

LEAD = """# Reference

Every public name of gsrl, from its docstring: what a module names in `__all__` is public. Beside it are the tables of
[all settings](settings.md) of agents, and of [all that they log](metrics.md).

| module | what is in it |
|---|---|
"""

SETTINGS_LEAD = """# All settings

Settings of all agents, with the defaults that they have as they come: each is a flag of `train`, and an argument of the
agent's constructor or of its policy. `gsrl list AGENT` says what is tuned for an environment, the agent's page what a
setting does.

| setting | what it is | default |
|---|---|---|
"""

METRICS_LEAD = """# All that is logged

From the pages of the agents, where more is said. Scalars are in TensorBoard under these names.

| scalar | unit | what it says | logged by |
|---|---|---|---|
"""


@dataclass(frozen=True)
class Module:
    """A public module, as its source tells it."""

    name: str
    path: str
    """Of its source, from the top of the repository."""
    summary: str
    names: dict[str, str]
    """What is public in it, with the module that it is imported from, ``""`` if it is defined here."""
    summaries: dict[str, str]
    is_package: bool

    @property
    def page(self) -> str:
        """Its page, below docs."""
        return f"reference/{self.name}.md"


def modules() -> dict[str, Module]:
    """All public modules of gsrl by name."""
    found = [_read(path) for path in sorted((ROOT / "gsrl").rglob("*.py"))]
    return {module.name: module for module in found if module is not None}


def _read(path: Path) -> Module | None:
    *parents, last = path.relative_to(ROOT).with_suffix("").parts
    parts = parents if last == "__init__" else [*parents, last]
    tree = ast.parse(path.read_text(encoding="utf-8"))
    summary = _summary(tree)
    if any(part.startswith("_") for part in parts) or summary.startswith("Moved to "):
        return None
    public: list[str] = []
    imported: dict[str, str] = {}
    summaries: dict[str, str] = {}
    for node, after in zip(tree.body, [*tree.body[1:], None], strict=True):
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING"):
            imported |= _imports(node.body)
        elif isinstance(node, ast.ImportFrom):
            imported |= _imports([node])
        elif isinstance(node, ast.ClassDef | ast.FunctionDef):
            summaries[node.name] = _summary(node)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            if isinstance(target, ast.Name) and isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
                summaries[target.id] = str(after.value.value).partition("\n")[0]
            if isinstance(target, ast.Name) and target.id == "__all__" and isinstance(node.value, ast.List):
                public = [name for entry in node.value.elts for name in _listed(entry)]
    if not public and last != "__init__":
        return None
    names = {name: imported.get(name, "") for name in public}
    where = path.relative_to(ROOT).as_posix()
    return Module(".".join(parts), where, summary, names, summaries, last == "__init__")


def _listed(entry: ast.expr) -> list[str]:
    return [*ast.literal_eval(entry.value)] if isinstance(entry, ast.Starred) else [ast.literal_eval(entry)]


def _imports(nodes: list[ast.stmt]) -> dict[str, str]:
    return {
        alias.asname or alias.name: node.module or ""
        for node in nodes
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


def _summary(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    text, *_ = (ast.get_docstring(node) or "").split("\n\n")
    return " ".join(text.split())


def pages() -> dict[str, str]:
    """All pages by where they are below docs, in Markdown."""
    known = modules()
    found = {module.page: _page(module, known) for module in known.values()}
    rows = [f"| [`{module.name}`]({module.name}.md) | {_cell(module.summary)} |" for module in known.values()]
    found["reference/index.md"] = LEAD + "\n".join(rows) + "\n"
    found["reference/settings.md"] = SETTINGS_LEAD + "\n".join(_settings()) + "\n"
    found["reference/metrics.md"] = METRICS_LEAD + "\n".join(_metrics()) + "\n"
    return found


def nav() -> list[object]:
    """The reference as a part of the navigation: modules of a package stand together."""
    known = modules()
    groups: dict[str, list[object]] = {name: [] for name in known if name.count(".") == 1}
    for module in known.values():
        top = ".".join(module.name.split(".")[:2])
        if module.name != "gsrl":
            groups[top].append({module.name.removeprefix("gsrl."): module.page})
    entries: list[object] = [*(pages[0] if len(pages) == 1 else {top[5:]: pages} for top, pages in groups.items())]
    tables = [{title: f"reference/{name}.md"} for name, title in TITLES.items()]
    return ["reference/index.md", *tables, {"gsrl": known["gsrl"].page}, *entries]


def _page(module: Module, known: dict[str, Module]) -> str:
    below = [other for other in known.values() if other.name.rpartition(".")[0] == module.name]
    here = [name for name, source in module.names.items() if source not in known and not _is_of_others(source)]
    heading = "      show_root_heading: true\n      heading_level: 1\n      show_source: false"
    parts = [f"::: {module.name}\n    options:\n      members: false\n{heading}"]
    if module.names:
        rows = [f"| {_link(module, name)} | {_what(module, name, known)} |" for name in module.names]
        parts.append("\n".join(["| name | what it is |", "|---|---|", *rows]))
    if below:
        rows = [f"| [`{other.name}`]({other.name}.md) | {_cell(other.summary)} |" for other in below]
        parts.append("\n".join(["| module | what is in it |", "|---|---|", *rows]))
    options = ["show_root_heading: true", "show_root_full_path: false", "show_root_toc_entry: true"]
    indented = "\n      ".join(["    options:", *options])
    parts += [f"::: {module.name}.{name}\n{indented}" for name in here]
    return "\n\n".join(parts) + "\n"


def _is_of_others(source: str) -> bool:
    return source != "" and source.partition(".")[0] != "gsrl"


def _link(module: Module, name: str) -> str:
    source = module.names[name]
    return f"`{source}.{name}`" if _is_of_others(source) else f"[`{name}`][{module.name}.{name}]"


def _what(module: Module, name: str, known: dict[str, Module]) -> str:
    if f"{module.name}.{name}" in known:
        return _cell(known[f"{module.name}.{name}"].summary)
    source = known.get(module.names.get(name, ""))
    return _cell(module.summaries.get(name, "")) if source is None else _what(source, name, known)


def _cell(text: str) -> str:
    text = re.sub(r"\$[^$]+\$", lambda found: found.group().replace("|", r"\vert "), plain(text))
    return text.replace("|", "\\|")


def _settings() -> list[str]:
    from gsrl.runs.cards import cards, load_zoo

    load_zoo("agents")
    found: dict[tuple[str, str], dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
    for card in cards():
        for row in card.table().splitlines()[2:]:
            name, default, text = re.split(r"(?<!\\) \| ", row.strip("| "), maxsplit=2)
            found[name, text][default].append(card.name)
    rows = []
    for (name, text), defaults in sorted(found.items()):
        agents = ["; ".join(f"{default} ({', '.join(agents)})" for default, agents in defaults.items())]
        rows.append(f"| {name} | {_cell(text)} | {''.join(agents)} |")
    return rows


def _metrics() -> list[str]:
    rows = []
    for page in sorted((ROOT / "docs" / "agents").glob("*.md")):
        _, _, section = page.read_text(encoding="utf-8").partition("\n## What is logged\n")
        header: list[str] = []
        for line in section.partition("\n## ")[0].splitlines():
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            if not cells:
                header = []
            elif not header:
                header = cells
            elif cells[0].startswith("`"):
                by = dict(zip(header, cells, strict=True))
                link = f"[{page.stem}](../agents/{page.name}#what-is-logged)"
                who = f"{by['of']}, {link}" if "of" in by else link
                rows.append(f"| {by['scalar']} | {by.get('unit', '')} | {by['what it says']} | {who} |")
    return sorted(rows)
