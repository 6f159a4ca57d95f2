"""Sources on YouTube and other sites, fetched by yt-dlp in a small native format and checked before they count.

yt-dlp reports success where there is none (a page saved as a video, a file skipped by a size limit, leftovers of
another download). So each attempt has a fresh folder, must leave exactly the expected files, and none of them may be a
page. yt-dlp is imported on first use, which takes half a second and 100 MB.
"""

import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pipelines.clip import Row
from pipelines.fetching.address import checked_target, split_address
from pipelines.fetching.base import Fetched, FetchError
from pipelines.fetching.credentials import ProxyList, require_files
from pipelines.fetching.messages import clean_reason, code_of_message, code_of_status
from pipelines.fetching.probe import check_media
from pipelines.fetching.rate_limit import RateLimiter, retry_after_s
from pipelines.fetching.store import Made, MediaStore
from uniform.errors import ConfigError
from uniform.media.ffmpeg import ffmpeg_program

FORMAT = "w[height>=256]/wv*[height>=256]+wa/b/bv*+ba"
"""The smallest format that is large enough, one with both streams before two that must be merged; else the largest."""
BREAKS = ("connection", "timeout", "incomplete", "data_forbidden", "http_5xx", "dns")
"""Codes after which another attempt may do better at once."""
_SECRET = re.compile(r"token|secret|password|visitor_data|data_sync_id", re.IGNORECASE)
DEEPEST_CAUSE = 8
"""Errors within errors that are looked through for the answer of the host."""
REFUSALS = ("sign_in", "rate_limited", "http_429")
"""Codes that are about this machine, not about the video: they count for the host's breaker."""


@dataclass(frozen=True, kw_only=True)
class SiteOptions:
    """How yt-dlp asks. Secrets come from files, and are never written anywhere."""

    format: str = FORMAT
    largest_bytes: int = 2 << 30
    attempts: int = 2
    """For breaks on the way, and where the site says when to come back; any other refusal is not asked twice."""
    timeout_s: float = 20.0
    """For a connection, and for each read."""
    longest_s: float = 3_600.0
    """For one video; a drip is given up."""
    rate_bytes_per_s: int | None = None
    extractors: tuple[str, ...] = ("youtube",)
    """Names of yt-dlp extractors that may be used; "generic" with "html5" reads any page."""
    extractor_args: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Extractor or plug-in -> argument -> value, for instance youtube.player_client = "web,tv". "$NAME" stands for a
    variable of the environment; a token must be given so. Plug-ins that make PO tokens need only be installed."""
    cookies_file: str | None = None
    """Netscape cookies file; each attempt works on a copy."""
    proxies_file: str | None = None
    """One address a line, for instance socks5://user:password@host:port; a source always takes the same one."""
    user_agent: str | None = None
    impersonate: str | None = None
    """Browser whose TLS yt-dlp imitates, for instance "chrome"; needs the extra `impersonate`."""
    ffmpeg: str | None = None
    """Program that merges two streams; None takes the machine's own, else the one that comes with the toolkit."""

    def __post_init__(self) -> None:
        require_files(self, "sites", "cookies_file", "proxies_file")
        for table, arguments in self.extractor_args.items():
            for name, value in arguments.items():
                if _SECRET.search(name) and not value.startswith("$"):
                    raise ConfigError(
                        f"sites.extractor_args.{table}.{name} holds a secret, which a recipe must not: "
                        f'write "$NAME", and put it into the environment variable NAME'
                    )


class SiteFetcher:
    """Fetches videos from sites into a store, whole and in a small native format.

    Args:
        store: receives the files.
        rate_limiter: one turn per video; yt-dlp's requests for one video follow each other closely.
        options: how to ask. Raises ConfigError where a file or variable of secrets is missing or no such thing.
        allow_hosts: names or addresses that may be private or local.
    """

    def __init__(
        self, store: MediaStore, rate_limiter: RateLimiter, options: SiteOptions, allow_hosts: tuple[str, ...] = ()
    ) -> None:
        self._store, self._rate_limiter, self._options = store, rate_limiter, options
        self._proxies = ProxyList(options.proxies_file) if options.proxies_file else None
        self._extractor_args = {
            table.lower(): {name: _from_environment(value).split(",") for name, value in arguments.items()}
            for table, arguments in options.extractor_args.items()
        }
        self._allowed = frozenset(host.lower() for host in allow_hosts)

    def fetch(self, row: Row) -> Fetched:
        """The row's source. Raises FetchError with a code."""
        key = self._store.key("youtube", "", row.source_uri)
        return self._store.once(key, lambda work: self._get(row.source_uri, key, work))

    def _get(self, uri: str, key: str, work: Path) -> Made:
        _, host = split_address(uri)
        if _is_youtube(host):
            host = "youtube.com"  # one site and one bucket, by whichever of its names
        else:
            checked_target(uri, self._allowed)
        for attempt in range(1, self._options.attempts + 1):
            self._rate_limiter.take(host)
            # Nothing of an earlier attempt may be gone on with: yt-dlp would sew strangers together.
            shutil.rmtree(work, ignore_errors=True)
            work.mkdir()
            try:
                with tempfile.TemporaryDirectory(prefix="uniform-fetch-") as private:
                    made = self._download(uri, key, work, Path(private))
            except FetchError as error:
                shutil.rmtree(work, ignore_errors=True)
                if error.code in REFUSALS or error.retry_after_s is not None:
                    self._rate_limiter.report(host, error.reason, error.retry_after_s)
                elif error.code not in BREAKS:  # a host that did not answer has not answered well
                    self._rate_limiter.report(host, None)
                hopeless = error.code not in BREAKS and error.retry_after_s is None
                if hopeless or attempt == self._options.attempts:
                    raise
            else:
                self._rate_limiter.report(host, None)
                return made
        raise AssertionError("unreachable: the last attempt returns or raises")

    def _download(self, uri: str, key: str, work: Path, private: Path) -> Made:
        from yt_dlp import YoutubeDL

        log = _Log()
        try:
            with YoutubeDL(self._parameters(key, work, private, log)) as downloader:
                info = downloader.extract_info(uri, download=False)
                self._check(info)
                info = downloader.process_ie_result(info, download=True)
        except FetchError:
            raise
        except Exception as error:  # an extractor may fail by any error, and none of them crosses processes
            raise _as_fetch_error(error, log) from None
        return self._result(info or {}, work, log)

    def _parameters(self, key: str, work: Path, private: Path, log: "_Log") -> dict[str, Any]:
        options = self._options
        parameters: dict[str, Any] = {
            "quiet": True,
            "noprogress": True,
            "color": "never",
            "logger": log,
            "outtmpl": str(work / "media.%(ext)s").replace("%(ext)s", "\0").replace("%", "%%").replace("\0", "%(ext)s"),
            "overwrites": True,
            "continuedl": False,
            "cachedir": False,
            "updatetime": False,
            "noplaylist": True,
            "allowed_extractors": list(options.extractors),
            "format": options.format,
            "merge_output_format": "mp4/mkv",
            "socket_timeout": options.timeout_s,
            "retries": 3,
            "fragment_retries": 3,
            "skip_unavailable_fragments": False,  # yt-dlp would report success for a video with holes
            "extractor_retries": 1,
            "file_access_retries": 1,
            "ratelimit": options.rate_bytes_per_s,
            "geo_bypass": False,
            "ffmpeg_location": options.ffmpeg or ffmpeg_program(),
            "progress_hooks": [self._guard(time.monotonic())],
            "extractor_args": self._extractor_args,
        }
        return parameters | self._identity(key, private)

    def _identity(self, key: str, private: Path) -> dict[str, Any]:
        """Parameters that say who asks: cookies, proxy, user agent."""
        options, parameters = self._options, dict[str, Any]()
        if options.cookies_file is not None:
            parameters["cookiefile"] = str(shutil.copy(Path(options.cookies_file).expanduser(), private / "cookies"))
        if self._proxies is not None:
            parameters["proxy"] = self._proxies.of(key).url
        if options.user_agent is not None:
            parameters["http_headers"] = {"User-Agent": options.user_agent}
        if options.impersonate is not None:
            from yt_dlp.networking.impersonate import ImpersonateTarget

            parameters["impersonate"] = ImpersonateTarget.from_str(options.impersonate)
        return parameters

    def _guard(self, began: float) -> Callable[[Mapping[str, Any]], None]:
        """A hook that ends a download which takes too long or grows too large, whatever was announced."""

        def watch(progress: Mapping[str, Any]) -> None:
            elapsed, size = time.monotonic() - began, int(progress.get("downloaded_bytes") or 0)
            if elapsed > self._options.longest_s:
                raise FetchError("too_slow", f"{size:,} bytes in {elapsed:.0f} s")
            announced = int(progress.get("total_bytes") or 0)
            if max(size, announced) > self._options.largest_bytes:
                found = f"{size:,} bytes came, {announced or '?'} are announced"
                raise FetchError("too_large", f"{found}, limit {self._options.largest_bytes:,}")

        return watch

    def _check(self, info: Mapping[str, Any] | None) -> None:
        """Judge what would be downloaded. Raises FetchError."""
        if not info:
            raise FetchError("unavailable", "yt-dlp found nothing at this address")
        if info.get("_type") in ("playlist", "multi_video") or "entries" in info:
            raise FetchError("not_media", "the page holds a list of videos; name one of them")
        if info.get("is_live") or info.get("live_status") in ("is_live", "is_upcoming", "post_live"):
            raise FetchError("live", f"live status {info.get('live_status')!r}")
        formats = info.get("requested_formats") or [info]
        announced = sum(int(form.get("filesize") or form.get("filesize_approx") or 0) for form in formats)
        if announced > self._options.largest_bytes:
            raise FetchError("too_large", f"{announced:,} bytes are announced, limit {self._options.largest_bytes:,}")
        for form in formats:
            if not _is_youtube(urlsplit(str(form.get("url") or "")).hostname or ""):
                checked_target(str(form.get("url") or ""), self._allowed)

    def _result(self, info: Mapping[str, Any], work: Path, log: "_Log") -> Made:
        """The one file that the download left. Raises FetchError where there is none, or something else."""
        files = [path for path in work.iterdir() if path.is_file() and path.suffix not in (".part", ".ytdl")]
        if len(files) != 1:
            found = ", ".join(sorted(path.name for path in files)) or "no file"
            raise FetchError("incomplete", clean_reason(f"yt-dlp reports success and leaves {found}. {log.last}"))
        path = files[0]
        size = path.stat().st_size
        if size > self._options.largest_bytes:
            raise FetchError("too_large", f"{size:,} bytes came, limit {self._options.largest_bytes:,}")
        check_media(path, whole=False)
        height = f"{info['height']}p" if info.get("height") else "unknown height"
        form = f"{info.get('format_id')}, {height}, {info.get('ext')}"
        metadata = {
            "uri": clean_reason(str(info.get("webpage_url") or "")),
            "title": clean_reason(str(info.get("title") or "")),
            "duration_s": info.get("duration"),
            "format": form,
        }
        return Made(path, path.suffix, metadata, (f"format {form}",))


class _Log:
    """Receives what yt-dlp says; keeps the last words."""

    def __init__(self) -> None:
        self.last = ""

    def debug(self, message: str) -> None:
        """Progress and details: not kept."""

    def warning(self, message: str) -> None:
        """Kept: the reason often stands in a warning, and the error says only that it failed."""
        self.last = message

    def error(self, message: str) -> None:
        """Kept."""
        self.last = message


def _from_environment(value: str) -> str:
    if not value.startswith("$"):
        return value
    if value[1:] not in os.environ:
        raise ConfigError(f"the environment variable {value[1:]}, which sites.extractor_args names, is not set")
    return os.environ[value[1:]]


def _is_youtube(host: str) -> bool:
    return any(host == name or host.endswith(f".{name}") for name in ("youtube.com", "youtu.be", "googlevideo.com"))


def _as_fetch_error(error: Exception, log: _Log) -> FetchError:
    """yt-dlp's error as plain data: it holds live responses, which cannot leave this process."""
    message = str(error)
    code = code_of_message(message)
    response = _response(error)
    if code == "unknown" and response is not None:
        code = code_of_status(response.status)
    if code == "unknown" and log.last:
        code = code_of_message(log.last)
    if code == "unknown" and not type(error).__module__.startswith("yt_dlp"):
        code, message = "extractor", f"{type(error).__name__}: {message}"
    if code == "no_driver":
        message = f"{message.rstrip('. ')}. Install it: uv pip install 'uniform-toolkit[impersonate]'"
    rest_s = retry_after_s(response.headers.get("Retry-After")) if response is not None else None
    return FetchError(code, clean_reason(message), rest_s)


def _response(error: Exception) -> Any | None:
    """The HTTP answer that stands behind an error of yt-dlp; None where there is none."""
    current: Any = error
    for _ in range(DEEPEST_CAUSE):
        if current is None or isinstance(getattr(current, "status", None), int):
            break
        inner = (getattr(current, "exc_info", None) or (None, None))[1]
        current = inner or getattr(current, "cause", None) or current.__cause__ or current.__context__
    return getattr(current, "response", None)
