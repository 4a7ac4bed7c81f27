from __future__ import annotations

import re

import pytest

from openwork.viewer.page import STATIC


def luminance(colour: str) -> float:
    """Relative luminance of #rrggbb (WCAG 2.2)."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def schemes() -> list[dict[str, str]]:
    style = (STATIC / "page.css").read_text(encoding="utf-8")
    found = [
        dict(re.findall(r"--(\w+): (#\w{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.DOTALL)
    ]
    assert len(found) == 2
    return found


@pytest.mark.parametrize("scheme", schemes(), ids=["light", "dark"])
@pytest.mark.parametrize("text", ["ink", "quiet", "positive", "negative", "pass", "fail"])
@pytest.mark.parametrize("ground", ["ground", "panel"])
def test_every_text_colour_has_enough_contrast(scheme: dict[str, str], text: str, ground: str) -> None:
    one, other = sorted((luminance(scheme[text]), luminance(scheme[ground])))
    assert (other + 0.05) / (one + 0.05) >= 4.5
