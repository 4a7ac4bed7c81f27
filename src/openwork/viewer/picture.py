"""A picture of a circuit for a text or a paper: the drawing of its page, saved as SVG by a headless Chromium."""

from __future__ import annotations

import html
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from openwork.errors import UserError
from openwork.files import write_atomically

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    *("--headless", "--disable-gpu", "--disable-quic", "--no-first-run"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
)
"""Flags for a browser that shows nothing and asks the network for nothing."""
AS_ROOT = ("--no-sandbox",)
"""Chromium has no sandbox for root."""
_PICTURE = re.compile(r'<pre id="picture">(.*?)</pre>', re.DOTALL)


def find_browser() -> str | None:
    """The path of a Chromium or Chrome, None where there is none."""
    return next((path for name in BROWSERS if (path := shutil.which(name))), None)


def browser_flags() -> list[str]:
    """Flags with which a browser runs here without a screen."""
    is_root = hasattr(os, "geteuid") and os.geteuid() == 0
    return [*QUIET, *(AS_ROOT if is_root else ())]


def picture(page: str | Path, out: str | Path, *, width: int = 1280, timeout: float = 120) -> None:
    """Save the drawing on `page` (a file that `write_page` wrote) as the SVG `out`, for a window `width` pixels wide.

    Its colours follow the reader's light or dark scheme.

    Raises:
        UserError: no browser, no such page, or a page that does not draw.
    """
    page, browser = Path(page).resolve(), find_browser()
    if browser is None:
        raise UserError(f"no Chromium or Chrome found to draw {page}; install one, or save the SVG from the open page")
    if not page.is_file():
        raise UserError(f"there is no page {page}; write it with `openwork view`")
    with tempfile.TemporaryDirectory() as profile:
        flags = [*browser_flags(), f"--user-data-dir={profile}", f"--window-size={width},1000", "--dump-dom"]
        try:
            run = subprocess.run(
                [browser, *flags, f"{page.as_uri()}#picture"], capture_output=True, timeout=timeout, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise UserError(f"{browser} did not draw {page} in {timeout:.0f} s; give it more time") from error
    found = _PICTURE.search(run.stdout.decode("utf-8", "replace"))
    if found is None:
        raise UserError(f"{page} drew nothing in {browser}; open it there and look at the console")
    write_atomically(out, html.unescape(found[1]) + "\n")
