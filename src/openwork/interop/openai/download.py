"""Fetch a released model by name: resumed where it was cut off, checked for size, whole or not at all.

Nothing is downloaded unless this is called. Files come from the release's public store; another one with the same
layout can be named.
"""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from collections.abc import Callable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from typing import cast

from openwork.errors import UserError
from openwork.interop.openai.tokenizer import TOKENIZER_FILES
from openwork.interop.openai.weights import CONFIG, WEIGHTS

STORE = "https://openaipublic.blob.core.windows.net/circuit-sparsity"
CHUNK = 1 << 20
TIMEOUT = 30
"""Seconds without an answer after which a download is given up."""
Progress = Callable[[str, int, int], None]
"""Called with a file's name, the bytes that are there, and the bytes that it has in all."""


def download(
    name: str, directory: str | Path, *, store: str = STORE, progress: Progress = lambda name, done, total: None
) -> Path:
    """The released model `name` (such as ``csp_yolo1``) in `directory`, with its tokenizer; returns the directory.

    A file that is whole is not fetched again; one that was cut off goes on where it was.

    Raises:
        UserError: no network, no such model, or a file of another size than announced.
    """
    if not re.fullmatch(r"[\w.-]+", name) or set(name) == {"."}:
        raise UserError(f"{name!r} is neither a directory nor the name of a released model; names look like csp_yolo1")
    directory = Path(directory)
    for file in (CONFIG, WEIGHTS):
        _fetch(f"{store}/models/{name}/{file}", directory / file, progress)
    for file in TOKENIZER_FILES:
        _fetch(f"{store}/tinypython/{file}", directory / file, progress)
    return directory


def _fetch(url: str, path: Path, progress: Progress) -> None:
    """The file at `url` as `path`, by way of ``path.part``, which stays when the download is cut off."""
    if path.exists():
        return
    part = path.with_name(path.name + ".part")
    done = part.stat().st_size if part.exists() else 0
    try:
        with _open(url, done) as response:
            if response.status != 206:
                done = 0  # the store sends the file from its beginning
            length = response.headers.get("Content-Length")
            if length is None:
                raise ValueError("the store does not tell its length, so a cut file would look whole")
            total = done + int(length)
            path.parent.mkdir(parents=True, exist_ok=True)  # not before there is something to keep
            with part.open("ab" if done else "wb") as file:
                while chunk := response.read(CHUNK):
                    file.write(chunk)
                    done += len(chunk)
                    progress(path.name, done, total)
    except urllib.error.HTTPError as error:
        if error.code == 416:  # the part is no beginning of what is there now
            part.unlink()
            return _fetch(url, path, progress)
        raise UserError(f"{url} answers {error.code} {error.reason}; check the model's name") from error
    except (OSError, HTTPException, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise UserError(
            f"cannot download {url} ({reason}); give a directory that holds the model, or run it again where there is "
            "a network: it goes on where it was"
        ) from error
    if done != total:
        raise UserError(f"{url} gave {done:,} of {total:,} bytes; run it again, it goes on where it was")
    part.replace(path)


def _open(url: str, start: int) -> HTTPResponse:
    headers = {"Range": f"bytes={start}-"} if start else {}
    return cast(HTTPResponse, urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=TIMEOUT))
