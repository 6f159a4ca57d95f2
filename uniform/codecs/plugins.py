"""Codecs from outside the toolkit: by an entry point of an installed package, or by import path.

    [project.entry-points."uniform.codecs"]           # pyproject.toml of a package
    "video.my-vae" = "my_package.codecs:open_codec"   # KIND.NAME: then video = "my-vae" works everywhere

    open_video_codec("my_package.codecs:open_codec", spec)    # the same without an entry point

Both name a function, or a class, that is called as `factory(name, spec, **options)` and returns the codec. Its card
must hold that name. `uniform codec check NAME` verifies a codec (`uniform/codecs/conformance.py`).

An import path is code: it is taken from recipes, options and calls, never from a file of data. A checkpoint or shards
whose card names one are used only where the user names the same path (`recorded_name`).
"""

import importlib
import re
from collections.abc import Callable, Mapping
from importlib.metadata import entry_points
from typing import Any

from uniform.config import nearest
from uniform.errors import ConfigError

GROUP = "uniform.codecs"
"""Group of the entry points."""
TRUST = "trust"
"""Option of a codec: the import path that a card may name."""
_IMPORT_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*")

Factory = Callable[..., object]


def is_import_path(name: str) -> bool:
    """Whether a codec's name is an import path, "package.module:factory"."""
    return ":" in name


def plugin_names(kind: str) -> list[str]:
    """Names of the codecs of a kind that installed packages register."""
    prefix = f"{kind}."
    return sorted(
        point.name.removeprefix(prefix) for point in entry_points(group=GROUP) if point.name.startswith(prefix)
    )


def find_factory(kind: str, name: str, built_in: Mapping[str, str]) -> Factory:
    """The function that makes the codec `name`: built in, by import path, or by entry point, in this order.

    Raises: ConfigError for an unknown name, or where the code that the name leads to cannot be imported.
    """
    if name in built_in:
        return _imported(kind, name, built_in[name], "open_codec")
    if is_import_path(name):
        if not _IMPORT_PATH.fullmatch(name):
            raise ConfigError(f"{kind} codec '{name}': not an import path; wanted package.module:factory")
        module, _, factory = name.partition(":")
        return _imported(kind, name, module, factory)
    found = [point for point in entry_points(group=GROUP) if point.name == f"{kind}.{name}"]
    if len({point.value for point in found}) > 1:
        packages = ", ".join(sorted(point.dist.name for point in found if point.dist))
        raise ConfigError(f"{kind} codec '{name}' is registered by several packages ({packages}); remove all but one")
    if found:
        module, _, factory = found[0].value.partition(":")
        return _imported(kind, name, module, factory)
    known = sorted({*built_in, *plugin_names(kind)})
    raise ConfigError(
        f"there is no {kind} codec '{name}'{nearest(name, known)}; known: {', '.join(known)}. Your own codec: register "
        f"it as entry point '{kind}.{name}' of the group {GROUP}, or name it package.module:factory"
    )


def recorded_name(kind: str, name: str, options: Mapping[str, Any], where: str) -> tuple[str, dict[str, Any]]:
    """The name of a codec that a card names, and its options without `trust`.

    Args:
        name: from the card of a checkpoint or of shards.
        options: of the codec; "trust" holds an import path that the user trusts.
        where: what holds the card, for the error.
    Raises: ConfigError where the card names an import path that the user has not named: nothing is imported.
    """
    rest = {option: value for option, value in options.items() if option != TRUST}
    if is_import_path(name) and options.get(TRUST) != name:
        raise ConfigError(
            f"{where} names the {kind} codec '{name}', which is code outside the toolkit, and a file must not choose "
            f"code to run. If you trust that package: --codec {kind}.{TRUST}={name}"
        )
    return name, rest


def _imported(kind: str, name: str, module: str, factory: str) -> Factory:
    try:
        found = getattr(importlib.import_module(module), factory)
    except (ImportError, AttributeError) as error:
        raise ConfigError(
            f"{kind} codec '{name}': {module}:{factory} cannot be imported ({error}). Is its package installed in this "
            f"environment?"
        ) from error
    if not callable(found):
        raise ConfigError(f"{kind} codec '{name}': {module}:{factory} is {type(found).__name__}, not callable")
    return found  # type: ignore[no-any-return]
