"""The built site in a real browser: nothing fails, nothing is asked of another host, and no page is wider than a phone.

Needs `make docs`, playwright and Chromium; skipped where one of them is not there.
"""

from __future__ import annotations

import functools
import http.server
import shutil
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.common.wheels import ROOT

SITE = ROOT / "build" / "site"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"]
FLAGS += ["--disable-background-networking", "--disable-component-update", "--disable-sync"]
PAGES = [
    "index.html",
    "start.html",
    "tutorials/2-own-environment.html",
    "estimators.html",
    "agents/gumbel-sac.html",
    "reference/gsrl.losses.html",
    "reference/metrics.html",
    "compared.html",
]

playwright = pytest.importorskip("playwright.sync_api")
pytestmark = [
    pytest.mark.skipif(not (SITE / "index.html").exists(), reason="needs make docs"),
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium"),
]


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves files without a word."""

    def log_message(self, *args: Any) -> None:
        """Say nothing."""


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    handler = functools.partial(Quiet, directory=str(SITE))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with playwright.sync_playwright() as started:
        opened = started.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield opened
        opened.close()


@pytest.mark.parametrize("width", [1280, 390])
def test_pages_are_whole(browser: Any, address: str, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 844})
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("request", lambda asked: complaints.append(asked.url) if not local(asked.url, address) else None)
    for path in PAGES:
        page.goto(address + path)
        page.wait_for_load_state("networkidle")
        beyond = page.evaluate("document.documentElement.scrollWidth - innerWidth")
        assert (path, beyond, complaints) == (path, 0, [])
    page.close()


def local(url: str, address: str) -> bool:
    return url.startswith((address, "data:", "blob:"))


def test_search_finds_an_estimator(browser: Any, address: str) -> None:
    page = browser.new_page(viewport={"width": 1280, "height": 844})
    page.goto(address)
    page.get_by_placeholder("Search").first.fill("straight-through")
    page.wait_for_selector(".md-search-result__item", timeout=20_000)
    assert page.locator(".md-search-result__item").count() > 3
    page.close()
