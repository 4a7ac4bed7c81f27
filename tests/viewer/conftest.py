"""A headless Chromium for the tests of the page; they are skipped, and say so, where there is none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from openwork.viewer.page import render
from openwork.viewer.payload import Payload
from openwork.viewer.picture import browser_flags, find_browser


@dataclass
class Opened:
    """A page in the browser, with what went wrong on it and what it asked for."""

    page: Page
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = find_browser()
    if path is None:
        pytest.skip("no Chromium or Chrome on this machine: the page is not tested in a browser")
    flags = [flag for flag in browser_flags() if flag != "--headless"]
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=path, args=flags)
        yield launched
        launched.close()


@pytest.fixture
def show(browser: Browser, tmp_path: Path) -> Iterator[Callable[..., Opened]]:
    """Opens a payload, or a file, in a window of some width; at the end no page may have had an error."""
    opened: list[Opened] = []

    def open_page(what: Payload | Path, *, width: int = 1280, dark: bool = False, hash: str = "") -> Opened:
        path = what if isinstance(what, Path) else tmp_path / f"page{len(opened)}.html"
        if not isinstance(what, Path):
            path.write_text(render(what), encoding="utf-8")
        page = browser.new_page(
            viewport={"width": width, "height": 900}, color_scheme="dark" if dark else "light", reduced_motion="reduce"
        )
        page.set_default_timeout(10_000)
        one = Opened(page)
        page.on("pageerror", lambda error: one.errors.append(str(error)))
        page.on("console", lambda message: one.errors.append(message.text) if message.type == "error" else None)
        page.on("request", lambda request: one.requests.append(request.url))
        page.goto(path.as_uri() + hash)
        opened.append(one)
        return one

    yield open_page
    for one in opened:
        one.page.close()
    assert [error for one in opened for error in one.errors] == []
    assert all(url.startswith(("file:", "blob:")) for one in opened for url in one.requests)
