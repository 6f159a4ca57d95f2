"""Fetch the source of each clip to the local disk. The only stage that uses the network."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pipelines.clip import Clip
from pipelines.fetching.archive import ArchiveFetcher
from pipelines.fetching.base import Fetched, Fetcher, FetchError
from pipelines.fetching.host_state import FileHostStates
from pipelines.fetching.http import HttpFetcher, HttpOptions
from pipelines.fetching.local import LocalFetcher
from pipelines.fetching.messages import clean_reason
from pipelines.fetching.rate_limit import HostRateLimiter
from pipelines.fetching.remote import RemoteFetcher
from pipelines.fetching.sites import SiteFetcher, SiteOptions
from pipelines.fetching.store import MediaStore
from pipelines.hosts import HostPolicy
from pipelines.stage import Context, Resources, Store, Work
from pipelines.stage_support.source_file import SOURCES, stored_path
from uniform.media.notes import SOURCE, Note
from uniform.spec import Spec

HOST_STATES_FOLDER = "pace"
"""Below the folder of sources; the name of version 0.3.0, which runs share."""
YOUTUBE = HostPolicy(requests_per_hour=250.0, burst=1)
"""yt-dlp's guide: about 300 videos an hour for a guest."""


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Fetches sources by their `source_kind`, each source once.

    Files from the network and from archives go to `sources` in the run directory, or to the folder of the option
    `sources`, which several runs can share. Local files stay where they are.
    """

    needs = ()
    gives = ("source", "source_bytes", "source_sha256", "source_format", "source_title", "source_fetched")
    reads = ("source_kind", "source_uri", "expected_digest")
    store = Store("table", "media")
    resources = Resources(cpus=0.25, memory_gb=1.5, waits=True)  # memory for a row group of a Parquet file of videos

    sources: str | None = None
    """Folder for fetched sources; None is `sources` in the run directory."""
    allow_hosts: tuple[str, ...] = ()
    """Hosts that are allowed to have private or local addresses."""
    refusals_h: float | None = 24.0
    """Hours for which a lasting refusal of a source is cached; None does not cache it."""
    rate_limit: HostPolicy = field(default_factory=HostPolicy)
    """Rate limit of hosts that `hosts` does not name."""
    hosts: Mapping[str, HostPolicy] = field(default_factory=lambda: {"youtube.com": YOUTUBE})
    http: HttpOptions = field(default_factory=HttpOptions)
    sites: SiteOptions = field(default_factory=SiteOptions)

    def provenance(self, spec: Spec) -> Mapping[str, Any]:
        """The requested format; nothing else about fetching changes a source."""
        return {"version": 1, "format": self.sites.format}

    def open(self, context: Context) -> Work:
        """The work, with one fetcher per kind of source."""
        folder = Path(self.sources).expanduser() if self.sources else context.folder / SOURCES
        store = MediaStore(folder, self.refusals_h, context.unblocked_at_s)
        rate_limiter = HostRateLimiter(
            (context.host_states or FileHostStates)(folder / HOST_STATES_FOLDER), self.rate_limit, self.hosts
        )
        archive = ArchiveFetcher(store, context.roots, self.http.largest_bytes)
        limits = (self.http.largest_bytes, self.http.slowest_bytes_per_s, self.http.window_s)
        remote = RemoteFetcher(store, rate_limiter, *limits)
        fetchers: Mapping[str, Fetcher] = {
            "local": LocalFetcher(context.roots),
            "archive": archive,
            "http": HttpFetcher(store, rate_limiter, self.http, self.allow_hosts),
            "youtube": SiteFetcher(store, rate_limiter, self.sites, self.allow_hosts),
            "hf": remote,
            "fsspec": remote,
        }
        return lambda clips: _fetch_all(clips, fetchers, archive, context.folder)


def _fetch_all(
    clips: Iterator[Clip], fetchers: Mapping[str, Fetcher], archive: ArchiveFetcher, folder: Path
) -> Iterator[Clip]:
    unit = list(clips)
    archive.expect(clip.row for clip in unit if clip.row.source_kind == "archive")
    for clip in unit:
        yield _fetch(clip, fetchers, folder)


def _fetch(clip: Clip, fetchers: Mapping[str, Fetcher], folder: Path) -> Clip:
    row = clip.row
    if row.source_kind not in fetchers:
        return clip.drop("no_fetcher", f"source kind '{row.source_kind}'; known are {', '.join(fetchers)}")
    try:
        fetched = fetchers[row.source_kind].fetch(row)
    except FetchError as error:
        return clip.drop(error.code, error.reason)
    if row.expected_digest is not None and fetched.sha256 != row.expected_digest:
        found = f"SHA-256 {fetched.sha256}, the listing promises {row.expected_digest}"
        return clip.drop("digest_mismatch", f"{clean_reason(row.source_uri)}: {found}")
    return _with_source(clip, fetched, folder)


def _with_source(clip: Clip, fetched: Fetched, folder: Path) -> Clip:
    for note in fetched.notes:
        clip = clip.note(Note(SOURCE, clean_reason(note)))
    return clip.with_fields(
        source=stored_path(fetched.path, folder),
        source_bytes=fetched.size_bytes,
        source_sha256=fetched.sha256,
        source_format=None if fetched.format is None else clean_reason(fetched.format),
        source_title=None if fetched.title is None else clean_reason(fetched.title),
        source_fetched=fetched.fetched,
    )
