"""The site has a page for every public name, and docstrings become links and equations."""

from __future__ import annotations

import importlib

import pytest

pytest.importorskip("griffe")

import griffe

from website import reference, roles

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
