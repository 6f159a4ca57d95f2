"""Sources of a model's files: a folder, a single file, or a hub id through huggingface_hub and its cache.

The settings of huggingface_hub apply: HF_HOME, HF_TOKEN, HF_ENDPOINT, HF_HUB_OFFLINE. It resumes downloads and renames
a file only when it is complete.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from uniform.codecs.catalogue import published
from uniform.codecs.record import recorded_commit
from uniform.errors import WeightsError

_HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Source:
    """A folder of a model's files, on this machine or on the hub. Exactly one of `folder` and `hub_id` is set."""

    model: str
    """Name of the codec, for errors."""
    folder: Path | None = None
    hub_id: str | None = None
    revision: str | None = None
    """Branch, tag or commit on the hub; None is its main branch."""
    weight_file: Path | None = None
    """Set where the user named a file rather than a folder: it is used as the model's main weight file."""
    cache_only: bool = False
    """Use files of this machine only, no network."""

    def file(self, *names: str) -> Path:
        """Path of the first of `names` that exists, downloaded where missing.

        Args:
            names: paths inside the folder, best first.
        Raises: WeightsError that says which file, from where, and how to give a folder instead.
        """
        found = self.find(*names)
        if found is not None:
            return found
        if self.folder is not None:
            raise WeightsError(
                f"{self.model}: {self.folder} holds no {' and no '.join(names)}. Pass the folder that holds it."
            )
        raise WeightsError(
            f"{self.model}: {self.hub_id}"
            f" (revision {self.revision or 'main'}) holds no {' and no '.join(names)}. Check the id. {self._instead()}"
        )

    def find(self, *names: str) -> Path | None:
        """As `file`, but None where the folder or repository does not hold any of `names`.

        Raises: WeightsError where the hub cannot be reached.
        """
        if self.folder is not None:
            paths = [self.folder / name for name in names]
            return next((path for path in paths if path.is_file()), None)
        unreached: WeightsError | None = None
        for name in names:
            try:
                found = self._download(name, cache_only=self.cache_only or unreached is not None)
            except WeightsError as error:
                unreached = unreached or error  # another name may be in the cache; another request is useless
                continue
            if found is not None:
                return found
        if unreached is not None:
            raise unreached
        return None

    def at_commit_of(self, file: Path) -> "Source":
        """This source pinned to the commit that `file` came from, so that a model's files never mix two commits."""
        commit = commit_of(file)
        if self.hub_id is None or commit is None:
            return self
        return replace(self, revision=commit)

    def _download(self, name: str, *, cache_only: bool) -> Path | None:
        from huggingface_hub import _CACHED_NO_EXIST, constants, hf_hub_download, try_to_load_from_cache
        from huggingface_hub.errors import (  # type: ignore[attr-defined]
            HFValidationError,
            HTTPError,
            LocalEntryNotFoundError,
            RemoteEntryNotFoundError,
        )

        assert self.hub_id is not None, "a source without a folder has a hub id"
        try:
            return Path(hf_hub_download(self.hub_id, name, revision=self.revision, local_files_only=cache_only))
        except RemoteEntryNotFoundError:
            return None
        except LocalEntryNotFoundError as error:
            if try_to_load_from_cache(self.hub_id, name, revision=self.revision) is _CACHED_NO_EXIST:
                return None  # the cache records that the hub does not have the file
            offline = self.cache_only or constants.HF_HUB_OFFLINE
            why = "the hub is not used (offline)" if offline else "the hub cannot be reached"
            raise WeightsError(self._unreached(name, f"{why}, and the file is not in the cache")) from error
        except (OSError, HTTPError, HFValidationError) as error:
            first = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise WeightsError(self._unreached(name, first)) from error

    def _unreached(self, name: str, why: str) -> str:
        from huggingface_hub import constants

        return (
            f"{self.model}: {name} of {self.hub_id} (revision {self.revision or 'main'}) cannot be fetched from "
            f"{constants.ENDPOINT}: {why}. {self._instead()}"
        )

    def _instead(self) -> str:
        return (
            "Or fetch the files on another machine (uniform weights fetch) and pass their folder: the codec's option "
            'weights = "FOLDER".'
        )


def open_source(model: str, weights: str | None, revision: str | None, *, cache_only: bool = False) -> Source:
    """The source that a codec's `weights` option names.

    Args:
        model: name in the catalogue.
        weights: folder, weight file or hub id; None is the catalogue's hub id.
        revision: for the hub; None is the commit that `uniform weights fetch` recorded, else the catalogue's, else the
            main branch.
        cache_only: use no network.
    Raises: WeightsError where `weights` is neither an existing path nor a hub id.
    """
    entry = published(model)
    hub_id = entry.hub_id
    if weights is not None:
        path = Path(weights).expanduser()
        if path.is_dir():
            return Source(model=model, folder=path)
        if path.is_file():
            return Source(model=model, folder=path.parent, weight_file=path)
        if not _HUB_ID.fullmatch(weights) or weights.startswith("."):
            raise WeightsError(f"{model}: {weights}: no such folder or file, and not a hub id of the form owner/name")
        hub_id = weights
    if revision is None:
        revision = recorded_commit(hub_id) or (entry.revision if hub_id == entry.hub_id else None)
    return Source(model=model, hub_id=hub_id, revision=revision, cache_only=cache_only)


def commit_of(file: Path) -> str | None:
    """The commit that a file of the hub's cache belongs to; None for any other file."""
    for parent in file.parents:
        if parent.parent.name == "snapshots" and _COMMIT.fullmatch(parent.name):
            return parent.name
    return None
