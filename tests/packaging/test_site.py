"""The site has a page for every public name, and docstrings become links and equations."""

from __future__ import annotations

import base64
import importlib
import sys
from pathlib import Path

import pytest

pytest.importorskip("griffe")

import griffe

from website import reference, roles, tutorials

MODULES = reference.modules()


@pytest.mark.parametrize("name", MODULES)
def test_reference_has_what_a_module_makes_public(name: str) -> None:
    module = importlib.import_module(name)
    assert [*MODULES[name].names] == [*getattr(module, "__all__", [])]


def test_every_public_name_is_shown_or_linked() -> None:
    pages = reference.pages()
    for module in MODULES.values():
        for name, source in module.names.items():
            link, entry = f"[`{name}`][{module.name}.{name}]", f"::: {module.name}.{name}\n"
            if source.startswith("gsrl") or not source:
                assert link in pages[module.page], name
            if not source:
                assert entry in pages[module.page], name


def test_settings_and_scalars_have_rows() -> None:
    pages = reference.pages()
    assert "| `gamma` |" in pages["reference/settings.md"]
    assert "`0.99` (" in pages["reference/settings.md"]
    for scalar in ("`eval/mean_return`", "`train/entropy`", "`gradients/snr`", "`train/approx_kl`"):
        assert f"| {scalar} |" in pages["reference/metrics.md"]


@pytest.fixture(scope="module")
def package() -> griffe.Module:
    package = griffe.load("gsrl", search_paths=[reference.ROOT])
    assert isinstance(package, griffe.Module)
    return package


@pytest.mark.parametrize(
    ("scope", "text", "markdown"),
    [
        ("losses", ":func:`gae`", '<autoref identifier="gsrl.losses.gae" optional>`gae`</autoref>'),
        ("heads", ":mod:`gsrl.losses`", '<autoref identifier="gsrl.losses" optional>`losses`</autoref>'),
        (
            "comms",
            ":class:`~gsrl.DiscreteSAC`",
            '<autoref identifier="gsrl.algorithms.discrete_sac.DiscreteSAC" optional>`DiscreteSAC`</autoref>',
        ),
        ("losses", ":class:`torch.optim.Adam`", "`torch.optim.Adam`"),
        ("losses", r":math:`\gamma^k` of ``x``", r"$\gamma^k$ of `x`"),
        ("losses", "is\n\n.. math:: a =\n    b\n\nthen", "is\n\n$$\na = b\n$$\n\nthen"),
        ("losses", "Jang (1611.01144)", "Jang ([1611.01144](https://arxiv.org/abs/1611.01144))"),
        ("losses", "Example:\n    >>> 1", "Examples:\n    >>> 1"),
    ],
)
def test_docstring_in_markdown(package: griffe.Module, scope: str, text: str, markdown: str) -> None:
    assert roles.in_markdown(text, package[scope]) == markdown


def test_a_role_that_leads_nowhere_is_told(package: griffe.Module, caplog: pytest.LogCaptureFixture) -> None:
    assert roles.in_markdown(":func:`no_such_thing`", package["losses"]) == "`no_such_thing`"
    assert "gsrl.losses: nothing is called no_such_thing, which its docstring links to." in caplog.text


PAGE = """# A page

Some words.

```python
print(6 * 7)
from matplotlib.figure import Figure
figure = Figure(figsize=(1, 1))
```

```sh
echo from a shell
```

Last words.
"""


def test_a_tutorial_is_run_into_a_page_and_a_notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = tmp_path / "0-page.md"
    page.write_text(PAGE, encoding="utf-8")
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    made = tutorials.execute(page, tmp_path / "made")
    assert [each.text for each in made] == ["42", "from a shell"]
    assert [each.pictures for each in made] == [["0-page-0.png"], []]
    shown = tutorials.with_output(PAGE, made)
    assert "```\n\n```text\n42\n```\n\n![What this drew](0-page-0.png)\n" in shown
    notebook = tutorials.notebook(PAGE, made, tmp_path / "made")
    assert [cell["cell_type"] for cell in notebook["cells"]] == ["markdown", "code", "code", "markdown"]
    code = notebook["cells"][1]
    assert code["source"].startswith("print(6 * 7)\n")
    assert code["outputs"][0] == {"output_type": "stream", "name": "stdout", "text": "42\n"}
    assert base64.b64decode(code["outputs"][1]["data"]["image/png"]).startswith(b"\x89PNG")
    assert notebook["cells"][2]["source"] == "%%bash\necho from a shell"


def test_a_tutorial_that_fails_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.chdir(tmp_path)
    page = tmp_path / "0-page.md"
    page.write_text("```python\n1 / 0\n```\n", encoding="utf-8")
    with pytest.raises(ZeroDivisionError):
        tutorials.execute(page, tmp_path / "made")


def test_there_are_six_tutorials_in_the_navigation() -> None:
    navigation = (reference.ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page.name[0] for page in tutorials.sources()] == [*"123456"]
    assert all(f"tutorials/{page.name}\n" in navigation for page in tutorials.sources())
