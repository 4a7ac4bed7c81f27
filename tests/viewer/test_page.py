from __future__ import annotations

import base64
import hashlib
import re

import pytest

from openwork.viewer import page
from openwork.viewer.page import STATIC, bundle, policy, render
from tests.viewer.payloads import quote_payload


def test_the_bundle_has_every_module_once_and_before_what_imports_it() -> None:
    whole = bundle()

    for module in STATIC.glob("*.js"):
        assert whole.count(f"// {module.name}\n") == 1
    assert not re.search(r"^(import|export)\b", whole, re.MULTILINE)
    assert whole.index("// dom.js") < whole.index("// drawing.js") < whole.index("// main.js")


def test_a_module_that_can_not_be_inlined_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    for source in ('import all from "./dom.js";\n', "export default 3;\n", 'const x = "</SCRIPT>";\n'):
        monkeypatch.setattr(page, "_static", lambda name, source=source: source)
        with pytest.raises(AssertionError):
            bundle()


def test_the_policy_allows_the_page_s_own_script_and_style_and_nothing_else() -> None:
    text = render(quote_payload())
    script = re.search(r'<script type="module">(.*?)</script>', text, re.DOTALL)
    style = re.search(r"<style>(.*?)</style>", text, re.DOTALL)
    assert script and style

    def source(found: re.Match[str]) -> str:
        return f"'sha256-{base64.b64encode(hashlib.sha256(found[1].encode()).digest()).decode()}'"

    assert policy(script[1], style[1]) in text
    assert f"default-src 'none'; script-src {source(script)}; style-src {source(style)};" in text


def test_the_page_names_no_place_on_the_network() -> None:
    text = render(quote_payload())

    addresses = set(re.findall(r"https?://[^\"'\s]+", text))
    assert addresses <= {"http://www.w3.org/2000/svg"}
    assert not re.search(r"<(link|img|iframe|object)\b|\bsrc=|@import|url\(", text)


def test_data_that_looks_like_the_template_is_left_alone() -> None:
    text = render(quote_payload(corpus=["{{policy}}", "{{script}}", " x"]))

    assert text.count("{{policy}}") >= 1
    assert text.count('<script type="module">') == 1
