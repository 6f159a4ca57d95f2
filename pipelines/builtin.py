"""Manifests and recipes that are installed with the toolkit."""

from pathlib import Path

_PACKAGE = Path(__file__).parent
_INSTALLED, _CHECKOUT = _PACKAGE / "data_manifests", _PACKAGE.parent / "data_manifests"


def shipped_manifests() -> dict[str, Path]:
    """TOML files of the datasets, by name."""
    return _by_name(_folder())


def shipped_recipes() -> dict[str, Path]:
    """TOML files of the recipes, by name."""
    return _by_name(_folder() / "recipes")


def _folder() -> Path:
    """An installation keeps `data_manifests/` inside this package, a checkout beside it."""
    return _INSTALLED if _INSTALLED.is_dir() else _CHECKOUT


def _by_name(folder: Path) -> dict[str, Path]:
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}
