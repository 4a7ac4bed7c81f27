from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Literal

import pytest

from openwork.config import from_dict, read_config, to_dict
from openwork.errors import UserError


@dataclass(frozen=True)
class Inner:
    width: int = 4
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"


@dataclass(frozen=True)
class Outer:
    inner: Inner = field(default_factory=Inner)
    names: tuple[str, ...] = ("x",)
    deep: bool = False
    limit: int | None = None


def test_later_sources_override_earlier_ones(tmp_path):
    path = tmp_path / "c.toml"
    path.write_text('deep = true\n[inner]\nwidth = 8\nkind = "b"\n')
    config = read_config(Outer, path, ["inner.width=16", "inner.rate=1/64", "limit=3", "names=p,q"])
    assert config == Outer(Inner(16, 1 / 64, "b"), ("p", "q"), True, 3)


def test_a_saved_config_reads_back_equal():
    config = Outer(Inner(8), ("p", "q"), True, 3)
    assert from_dict(Outer, to_dict(config)) == config
    assert json.loads(json.dumps(to_dict(config))) == to_dict(config)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("inner.widht=8", "did you mean 'inner.width'"),
        ("zzz=1", "known are deep, inner, limit, names"),
        ("inner.width=wide", "inner.width is 'wide'; it must be of type int"),
        ("inner.width=1.5", "of type int"),
        ("inner.rate=1/0", "of type float"),
        (f"inner.rate=1{'0' * 400}/1", "of type float"),
        ("inner.width=1e400", "of type int"),
        ("inner.kind=c", "choose one of a, b"),
        ("deep=maybe", "of type bool"),
        ("inner=3", "it has keys of its own"),
        ("nonsense", "write it as key=value"),
    ],
)
def test_a_bad_setting_is_one_line_that_says_how_to_mend_it(override, says):
    with pytest.raises(UserError, match=says) as caught:
        read_config(Outer, None, [override])
    assert "\n" not in str(caught.value)


def test_a_missing_or_broken_file_is_named(tmp_path):
    with pytest.raises(UserError, match=r"none\.toml"):
        read_config(Outer, tmp_path / "none.toml")
    (tmp_path / "bad.toml").write_text("= 3")
    with pytest.raises(UserError, match=r"bad\.toml is not valid TOML"):
        read_config(Outer, tmp_path / "bad.toml")
