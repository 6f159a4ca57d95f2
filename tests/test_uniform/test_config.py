from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal

import pytest

from uniform.config import build, read_toml
from uniform.errors import ConfigError
from uniform.model.config import ModelConfig
from uniform.renamed import warn_renamed


class Colour(StrEnum):
    RED = "red"
    GREEN = "green"


@dataclass(frozen=True, kw_only=True)
class Inner:
    width: int = 8
    rate: float = 0.5


@dataclass(frozen=True, kw_only=True)
class Outer:
    name: str
    inner: Inner = field(default_factory=Inner)
    many: tuple[Inner, ...] = ()
    colour: Colour = Colour.RED
    fit: Literal["crop", "squash"] = "crop"
    limit: int | None = None
    place: Path = Path()
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit == 0:
            raise ConfigError("limit is 0; it must be 1 or more")


def _read(tmp_path: Path, text: str) -> Outer:
    file = tmp_path / "c.toml"
    file.write_text(text, encoding="utf-8")
    document = read_toml(file)
    return build(Outer, document.values, document)


def test_every_supported_type_is_read(tmp_path: Path) -> None:
    text = """
name = "a"
colour = "green"
limit = 3
place = "x/y"
inner.rate = 1
options = {anything = [1, 2]}
[[many]]
width = 1
[[many]]
"""
    assert _read(tmp_path, text) == Outer(
        name="a",
        colour=Colour.GREEN,
        limit=3,
        place=Path("x/y"),
        inner=Inner(rate=1.0),
        options={"anything": [1, 2]},
        many=(Inner(width=1), Inner()),
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "'name' is missing"),
        ('name = "a"\nlimt = 3', "c.toml:2: unknown key 'limt'; did you mean 'limit'"),
        ('name = "a"\n[inner]\nwidht = 3', "c.toml:3: unknown key 'inner.widht'; did you mean 'width'"),
        ('name = "a"\n[[many]]\nwidth = 1\n[[many]]\nwidth = "b"', "'many\\[1\\].width' is 'b'; wanted a whole number"),
        ("name = 3", "c.toml:1: 'name' is 3; wanted text in quotes"),
        ('name = "a"\nlimit = true', "'limit' is True; wanted a whole number"),
        ('name = "a"\nlimit = 1.5', "'limit' is 1.5; wanted a whole number"),
        ('name = "a"\nlimit = 0', "it must be 1 or more"),
        ('name = "a"\ncolour = "gren"', "one of red, green; did you mean 'green'"),
        ('name = "a"\nfit = "cut"', "wanted one of crop, squash"),
        ('name = "a"\nmany = 3', "'many' is 3; wanted a list"),
        ('name = "a"\ninner = 3', "'inner' is 3; wanted a table"),
        ('name = "a', "not valid TOML"),
    ],
)
def test_an_error_names_line_key_found_and_wanted(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        _read(tmp_path, text)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    assert _read(tmp_path, '\ufeffname = "a"').name == "a"


def test_a_missing_file_and_a_file_that_is_not_utf_8_are_config_errors(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        read_toml(tmp_path / "none.toml")
    (tmp_path / "latin.toml").write_bytes('name = "é"'.encode("latin-1"))
    with pytest.raises(ConfigError, match="byte 8 is not UTF-8"):
        read_toml(tmp_path / "latin.toml")


def test_a_key_of_0_3_0_is_read_under_its_present_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = tmp_path / "model.toml"
    file.write_text("blind = true\n")
    document = read_toml(file)
    warn_renamed.cache_clear()  # it warns once per process

    config = build(ModelConfig, document.values, document)

    assert config.cross_modal_mask
    assert "'blind' is now called 'cross_modal_mask'" in caplog.text
