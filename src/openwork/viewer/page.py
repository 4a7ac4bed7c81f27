"""The page as one file: the template, style, modules and data of ``static/`` and a payload, put together.

The modules are ordinary ES modules that import each other by relative path; inside one file they share a single module
scope, so that no two may have a top-level name in common. A Content-Security-Policy in the page forbids every request,
and every script and style but these, which it names by hash: text from a corpus can't run, and nothing leaves the
reader's machine.
"""

from __future__ import annotations

import base64
import hashlib
import html
import re
from pathlib import Path

from openwork.viewer.payload import Payload, to_json

STATIC = Path(__file__).parent / "static"
ENTRY = "main.js"
_IMPORT = re.compile(r'^import \{[^}]*\} from "\./(?P<module>[\w-]+\.js)";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export (?=(async )?(function|const|class) )", re.MULTILINE)
_OTHER = re.compile(r"^(import|export)\b.*", re.MULTILINE)


def render(payload: Payload) -> str:
    """The whole page, as text."""
    style, script = _static("page.css"), bundle()
    parts = {
        "policy": policy(script, style),
        "title": html.escape(f"{payload.task.name}: a circuit"),
        "style": style,
        "script": script,
        "payload": to_json(payload),
    }
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _static("page.html"))


def policy(script: str, style: str) -> str:
    """The Content-Security-Policy: nothing from the network, no script but `script`, no style but `style`."""
    allowed = {
        "default-src": "'none'",
        "script-src": _hash_source(script),
        "style-src": _hash_source(style),
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{directive} {source}" for directive, source in allowed.items())


def bundle(entry: str = ENTRY) -> str:
    """The module `entry` and all that it imports as one module, what is imported before what imports it."""
    texts: dict[str, str] = {}

    def add(name: str) -> None:
        if name in texts:
            return
        source = _static(name)
        for match in _IMPORT.finditer(source):
            add(match["module"])
        source = _EXPORT.sub("", _IMPORT.sub("", source))
        assert not _OTHER.search(source), f"{name}: cannot inline {_OTHER.search(source)}"
        texts[name] = f"// {name}\n{source}"

    add(entry)
    whole = "\n".join(texts.values())
    assert "</script" not in whole.lower() and "<!--" not in whole, "a module would end its own script element"
    return whole


def _hash_source(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


def _static(name: str) -> str:
    return (STATIC / name).read_text(encoding="utf-8")
