"""Have each clip's source on this machine's disk. The only stage that may touch the network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pipelines.clip import Clip
from pipelines.fetching.base import Fetched, Fetcher, FetchError
from pipelines.fetching.local import LocalFetcher
from pipelines.stage import Context, Resources, Store, Work
from uniform.spec import Spec


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Fetches by the row's `source_kind`; several clips of one source fetch it once."""

    needs = ()
    gives = ("source", "source_bytes", "source_sha256")
    store = Store("table", "media")
    resources = Resources(cpus=0.25, memory_gb=0.5)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """How a source is had changes nothing in what it is: only the version counts."""
        return {"version": 1}

    def open(self, context: Context) -> Work:
        """The fetchers of this worker, by kind."""
        fetchers: Mapping[str, Fetcher] = {"local": LocalFetcher(context.roots)}
        return lambda clips: _fetch_all(clips, fetchers)


def _fetch_all(clips: Iterator[Clip], fetchers: Mapping[str, Fetcher]) -> Iterator[Clip]:
    for clip in clips:
        yield _fetch(clip, fetchers)


def _fetch(clip: Clip, fetchers: Mapping[str, Fetcher]) -> Clip:
    row = clip.row
    if row.source_kind not in fetchers:
        return clip.fail("no_fetcher", f"source kind '{row.source_kind}'; this stage fetches {', '.join(fetchers)}")
    try:
        fetched = fetchers[row.source_kind].fetch(row)
    except FetchError as error:
        return clip.fail(error.code, error.reason)
    if row.expected_digest is not None and fetched.sha256 != row.expected_digest:
        found = f"SHA-256 {fetched.sha256}, the listing promises {row.expected_digest}"
        return clip.fail("digest_mismatch", f"{row.source_uri!r}: {found}")
    return _with_source(clip, fetched)


def _with_source(clip: Clip, fetched: Fetched) -> Clip:
    for note in fetched.notes:
        clip = clip.note(note)
    return clip.with_fields(source=str(fetched.path), source_bytes=fetched.size_bytes, source_sha256=fetched.sha256)
