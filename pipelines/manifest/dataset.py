"""A dataset as data: what its TOML file says. No dataset has code.

Every key with its meaning: data_manifests/README.md.
"""

import dataclasses
import re
from dataclasses import dataclass
from pathlib import Path

from pipelines.builtin import shipped_manifests
from pipelines.manifest.listing_schema import GLOB_FIELDS, Kind, Listing
from uniform.config import build, nearest, read_toml
from uniform.errors import ConfigError, ManifestError


@dataclass(frozen=True, kw_only=True)
class ManifestTable:
    """What a manifest's TOML file may say. Every key: data_manifests/README.md."""

    name: str
    """Lower case letters, digits and _; it names folders and is part of every clip id."""
    kind: Kind = "local"
    title: str = ""
    root: str = "."
    """Folder of the media files, relative to the TOML file."""
    license: str | None = None
    terms: str = ""
    citation: str = ""
    homepage: str = ""
    obtain: str = ""
    """Where the listing comes from, in words."""
    listing: Listing
    variant: tuple[Listing, ...] = ()
    """Other forms in which the listing is found in the wild."""

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[a-z][a-z0-9_]{0,63}", self.name):
            raise ConfigError(f"name is {self.name!r}; it must be lower case letters, digits and _, a letter first")
        try:
            Path(self.root).expanduser()
        except RuntimeError as error:
            raise ConfigError(f"root is {self.root!r}; there is no such home folder") from error
        if "\0" in self.root:
            raise ConfigError(f"root is {self.root!r}; it must be the path of a folder")
        needed = "source_id" if self.kind == "youtube" else "source_uri"
        for form in (self.listing, *self.variant):
            if not form.glob and getattr(form.columns, needed) is None:
                raise ConfigError(f"'{form.name}': columns.{needed} is missing; kind \"{self.kind}\" needs it")
            if form.glob:
                self._check_glob(form)

    def _check_glob(self, form: Listing) -> None:
        if self.kind not in ("local", "archive"):
            found = f'listing.glob finds files on disk; kind is "{self.kind}"'
            raise ConfigError(f'{found}, it must be "local" or "archive"')
        for name, key in form.wanted_columns().items():
            if name not in GLOB_FIELDS:
                found = f"'{form.name}': {key} names '{name}', which found files do not have"
                raise ConfigError(f"{found}{nearest(name, GLOB_FIELDS)}")


@dataclass(frozen=True)
class Manifest:
    """A manifest's table and where it was read."""

    path: Path
    table: ManifestTable

    @property
    def name(self) -> str:
        """Name of the dataset."""
        return self.table.name

    @property
    def kind(self) -> Kind:
        """Where its clips come from."""
        return self.table.kind

    @property
    def root(self) -> Path:
        """Absolute folder that local paths are relative to."""
        return (self.path.parent / Path(self.table.root).expanduser()).absolute()

    @property
    def forms(self) -> tuple[Listing, ...]:
        """Every form that its listing may have, the official one first."""
        return (self.table.listing, *self.table.variant)

    def with_root(self, root: Path) -> "Manifest":
        """The same dataset with its files in another folder."""
        return dataclasses.replace(self, table=dataclasses.replace(self.table, root=str(root.absolute())))


def read_manifest(path: Path) -> Manifest:
    """The manifest in the TOML file `path`. Raises ConfigError that names file, line and key."""
    document = read_toml(path)
    table = build(ManifestTable, document.values, document)
    forms = tuple(_with_defaults(form) for form in (table.listing, *table.variant))
    return Manifest(path.absolute(), dataclasses.replace(table, listing=forms[0], variant=forms[1:]))


def _with_defaults(form: Listing) -> Listing:
    if not form.glob or form.columns.source_uri is not None:
        return form
    return dataclasses.replace(form, columns=dataclasses.replace(form.columns, source_uri="path"))


def find_manifest(name: str) -> Path:
    """The path that `name` is, or the manifest of that name that comes with the toolkit. Raises ManifestError."""
    path = Path(name)
    if path.suffix in (".toml", ".parquet") or path.is_file():
        return path
    known = shipped_manifests()
    if name not in known:
        raise ManifestError(
            f"'{name}' is neither a TOML file nor a manifest that comes with the toolkit{nearest(name, known)}"
        )
    return known[name]
