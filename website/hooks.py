"""What MkDocs does for this site beside its plugins: links into the repository, equations, pages of the reference."""

from __future__ import annotations

import html
import json
import os
import re
import sys
import tomllib
from collections.abc import Iterator
from logging import getLogger
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from website import reference, tutorials  # noqa: E402

URLS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["urls"]
MODULES = reference.modules()
FENCE = re.compile(r"^( *)(```+|~~~+).*?^\1\2", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\[\]]*\])*)\]\(([^()\s]+)\)")
EQUATION = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
SPELLINGS = {"{aligned}": "{align*}", r"\arg": r"\mathrm{arg}\,", r"\_": "_"}
"""What latex2mathml does not know, and the same in words that it does."""

log = getLogger("mkdocs.plugins.site")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Take addresses from pyproject.toml, and put the reference at the end of the navigation."""
    config.site_url = URLS["Documentation"]
    config.extra["social"] = [{"icon": "material/source-repository", "link": URLS["Source"], "name": "Source"}]
    assert config.nav is not None
    config.nav.append({"Reference": reference.nav()})
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the reference, what tutorials make, and pictures that lie elsewhere in the repository."""
    for uri, text in reference.pages().items():
        files.append(File.generated(config, uri, content=text))
    tutorials.run_all()
    for page in tutorials.sources():
        made, folder = tutorials.made_of(page), tutorials.MADE / page.stem
        notebook = tutorials.notebook(page.read_text(encoding="utf-8"), made, folder)
        files.append(File.generated(config, f"tutorials/{page.stem}.ipynb", content=json.dumps(notebook)))
        for name in (name for each in made for name in each.pictures):
            files.append(File.generated(config, f"tutorials/{name}", abs_src_path=str(folder / name)))
    shown = {
        outside
        for file in files.documentation_pages()
        for picture, _, target in _links(file.content_string)
        if picture and (outside := _outside(file.src_uri, target)) is not None
    }
    for path in sorted(shown):
        files.append(File.generated(config, f"repository/{path}", abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Show what tutorials make, and turn relative links that leave docs into what the site has, or the repository.

    What the site has are the pages of modules, and copies of pictures.
    """
    source = ROOT / "docs" / page.file.src_uri
    if source in tutorials.sources():
        heading, _, rest = markdown.partition("\n")
        text = tutorials.with_output(rest, tutorials.made_of(source))
        markdown = f"{heading}\n\n[This page as a notebook]({source.stem}.ipynb)\n{text}"

    def replaced(found: re.Match[str]) -> str:
        picture, text, target = found.groups()
        outside = _outside(page.file.src_uri, target)
        if outside is None:
            return found.group()
        path, _, anchor = outside.partition("#")
        if not (ROOT / path).exists():
            log.warning("%s: the repository has no %s.", page.file.src_uri, path)
        if picture:
            up = os.path.relpath(f"repository/{path}", Path(page.file.src_uri).parent)
            return f"![{text}]({up})"
        page_of = {"gsrl": "reference/index.md", **{module.path: module.page for module in MODULES.values()}}
        if path in page_of and not anchor:
            return f"[{text}]({os.path.relpath(page_of[path], Path(page.file.src_uri).parent)})"
        kind = "tree" if (ROOT / path).is_dir() else "blob"
        return f"[{text}]({URLS['Source']}/{kind}/main/{path}{'#' if anchor else ''}{anchor})"

    parts, last = [], 0
    for fence in FENCE.finditer(markdown):
        parts += [LINK.sub(replaced, markdown[last : fence.start()]), fence.group()]
        last = fence.end()
    return "".join([*parts, LINK.sub(replaced, markdown[last:])])


def on_page_content(html_text: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Write equations as MathML, which browsers draw by themselves."""

    def equation(found: re.Match[str]) -> str:
        latex = html.unescape(found[3])
        for name, instead in SPELLINGS.items():
            latex = latex.replace(name, instead)
        mathml: str = convert(latex, display="inline" if found[2] == "(" else "block")
        if "\\" in mathml or "&amp;" in mathml or "<mi>&<" in mathml:
            log.warning("%s: %s cannot be written as MathML.", page.file.src_uri, latex)
        return mathml

    return EQUATION.sub(equation, html_text)


def on_page_context(context: dict[str, object], page: Page, config: MkDocsConfig, nav: object) -> dict[str, object]:
    """Say where a page can be edited: in docs, or where its docstrings are."""
    path = f"docs/{page.file.src_uri}"
    if page.file.generated_by is not None:
        path = next((module.path for module in MODULES.values() if module.page == page.file.src_uri), "")
    page.edit_url = f"{URLS['Source']}/edit/main/{path}" if path else None
    return context


def _links(markdown: str) -> Iterator[tuple[str, str, str]]:
    for found in LINK.finditer(FENCE.sub("", markdown)):
        picture, text, target = found.groups()
        yield picture, text, target


def _outside(page: str, target: str) -> str | None:
    """The path from the top of the repository of what a link leads to, None if that is in docs or on the web."""
    if re.match(r"[a-z]+:|#|/", target):
        return None
    path = os.path.normpath(f"docs/{Path(page).parent}/{target}")
    return None if path.startswith("docs/") else path
