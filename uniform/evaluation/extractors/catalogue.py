"""The feature extractors by name: where their code is, which published files they read, under which licence.

The entries stand in `extractors.toml`. A network's module is imported when it is opened; it has a function
`load(entry, folder, device) -> Extractor`.
"""

import importlib
import importlib.util
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from uniform.config import build, nearest, read_toml
from uniform.errors import ConfigError, WeightsError
from uniform.fingerprint import file_sha256

if TYPE_CHECKING:
    from uniform.evaluation.extractors.contract import Extractor

_FILE = Path(__file__).with_name("extractors.toml")
_log = logging.getLogger(__name__)
_PACKAGE = "uniform.evaluation.extractors"


@dataclass(frozen=True, kw_only=True)
class PublishedFile:
    """One published weights file."""

    name: str
    """The file's name as its authors publish it."""
    bytes: int
    """About its size."""
    url: str | None = None
    """Direct https address; None where there is none."""
    hub_id: str | None = None
    """Repository on the Hugging Face hub that holds it, or a copy of it; with `hub_path`, the path inside."""
    hub_path: str | None = None
    hub_type: Literal["model", "space"] = "model"
    sha256: str | None = None
    """Full digest where it is publicly known; otherwise the one that was found is recorded."""
    sha256_head: str | None = None
    """First digits of the digest, where the published name carries them."""
    optional: bool = False
    """Needed for texts only: an extractor opens without it."""
    package: str | None = None
    """Installed Python package that brings the file, with `package_path` inside; it is found, never imported."""
    package_path: str | None = None
    md5: str | None = None
    """MD5 where the publisher states it."""


@dataclass(frozen=True, kw_only=True)
class PublishedWeights:
    """The files of one network."""

    name: str
    kind: Literal["extractor"] = "extractor"
    licence: str
    non_commercial: bool = False
    publisher: str
    """Project that publishes the files, and where."""
    how: str
    """What a person does to get them where no fetch can."""
    files: tuple[PublishedFile, ...]

    @property
    def terms(self) -> str:
        """The licence, and what a user must not overlook in it."""
        return f"{self.licence} (non-commercial)" if self.non_commercial else self.licence

    @property
    def place(self) -> str:
        """Where the first file is: its package, its hub id or its host."""
        first = self.files[0]
        if first.package is not None:
            return f"Python package {first.package}"
        return first.hub_id or (first.url or "by hand").removeprefix("https://").split("/")[0]

    @property
    def bytes(self) -> int:
        """About the size of all files."""
        return sum(file.bytes for file in self.files)


@dataclass(frozen=True, kw_only=True)
class ExtractorEntry:
    """One extractor: a network, its input rule and its weights."""

    name: str
    """As in metric names."""
    module: str
    """Module inside this package."""
    weights: str | None = None
    """Name of its published weights; None where it carries or finds its own."""
    text_weights: str | None = None
    """Name of further published files that only texts need."""
    modality: tuple[Literal["video", "audio", "text"], ...]
    about: str
    """One line: what is measured with it, after whose protocol."""


@dataclass(frozen=True, kw_only=True)
class _Catalogue:
    weights: tuple[PublishedWeights, ...] = field(default=())
    extractor: tuple[ExtractorEntry, ...] = field(default=())


@cache
def _catalogue() -> _Catalogue:
    document = read_toml(_FILE)
    return build(_Catalogue, document.values, document)


@cache
def extractors() -> Mapping[str, ExtractorEntry]:
    """Every extractor by its name, in the file's order."""
    return {entry.name: entry for entry in _catalogue().extractor}


@cache
def evaluation_weights() -> Mapping[str, PublishedWeights]:
    """Every set of published weights by its name, in the file's order."""
    return {entry.name: entry for entry in _catalogue().weights}


def extractor_entry(name: str) -> ExtractorEntry:
    """The extractor called `name`. Raises ConfigError that names the nearest known one."""
    if name not in extractors():
        raise ConfigError(f"there is no extractor called '{name}'{nearest(name, extractors())}")
    return extractors()[name]


def weights_of(entry: ExtractorEntry) -> PublishedWeights:
    """The published weights of an extractor. Raises ConfigError where it has none."""
    if entry.weights is None:
        raise ConfigError(f"the extractor '{entry.name}' has no published weights of its own")
    return evaluation_weights()[entry.weights]


def default_folder() -> Path:
    """Where `uniform weights fetch` puts these files: below XDG_CACHE_HOME, else below ~/.cache."""
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "uniform" / "evaluation"


def module_name(entry: ExtractorEntry) -> str:
    """Dotted name of the module that holds the extractor."""
    return f"{_PACKAGE}.{entry.module}"


def find_file(weights: PublishedWeights, file: PublishedFile, folder: Path) -> Path | None:
    """A file of `weights`: in the sub-folder of the weights' name, where a fetch puts it, else in `folder` itself, else
    in the installed package that brings it.
    """
    places = (folder / weights.name / file.name, folder / file.name, *_in_package(file))
    return next((place for place in places if place.is_file()), None)


def find_weights(weights: PublishedWeights, folder: Path) -> tuple[Path, ...]:
    """The files of `weights` that are there, in the catalogue's order.

    Raises: WeightsError that says how to get a missing one that is not optional.
    """
    found = []
    for file in weights.files:
        path = find_file(weights, file, folder)
        if path is None and file.optional:
            continue
        if path is None:
            fetch = "" if file.package else f"Run: uniform weights fetch {weights.name} --copy-to {folder}. By hand: "
            raise WeightsError(
                f"{weights.name}: {file.name} is neither in {folder / weights.name} nor in {folder}. "
                f"{fetch}{weights.how}"
            )
        found.append(path)
    return tuple(found)


def _in_package(file: PublishedFile) -> list[Path]:
    """Where an installed package holds the file; looking it up runs none of the package's code."""
    spec = importlib.util.find_spec(file.package) if file.package else None
    if spec is None or file.package_path is None:
        return []
    return [Path(place) / file.package_path for place in spec.submodule_search_locations or ()]


def weights_sha256(name: str, folder: Path) -> dict[str, str]:
    """SHA-256 of every weights file of the extractor called `name`, by file name, without opening the network.

    Raises: ConfigError for an unknown name; WeightsError for a missing file.
    """
    entry = extractor_entry(name)
    if entry.weights is None:
        return {}
    return {path.name: file_sha256(path) for path in find_weights(weights_of(entry), folder)}


def open_extractor(name: str, weights_dir: Path, device: str = "cpu", *, require_known: bool = False) -> "Extractor":
    """The extractor called `name` with its published weights, on `device`.

    Args:
        name: in the catalogue.
        weights_dir: folder that holds the published files, by their published names.
        device: as torch names it: cpu, cuda, cuda:1.
        require_known: refuse files whose digest is not the published one; otherwise they are reported in the log, and
            their digest stands in `weights`.
    Raises: ConfigError for an unknown name or device; WeightsError for files that are missing, damaged or of another
        network.
    """
    from uniform.evaluation.extractors.running import torch_device

    entry = extractor_entry(name)
    module = importlib.import_module(module_name(entry))
    extractor: Extractor = module.load(entry, weights_dir, torch_device(device))
    for file in extractor.weights:
        if not file.known:
            line = f"{name}: {file.name} with sha256 {file.sha256} is not known as the published file"
            if require_known:
                raise WeightsError(f"{line}. Fetch the published one, or allow unknown weights.")
            _log.warning("%s; the digest stands in the results", line)
    return extractor
