"""Credentials: proxies and cookies. They come from files or the environment, and are never shown.

An error names the file and the line, not the content; the text of a proxy is its host and port.
"""

import base64
import urllib.request
from dataclasses import dataclass, field
from http.client import HTTPResponse
from http.cookiejar import CookieJar, LoadError, MozillaCookieJar
from pathlib import Path
from urllib.parse import unquote, urlsplit

from uniform.errors import ConfigError

SCHEMES = ("http", "https", "socks4", "socks4a", "socks5", "socks5h")


@dataclass(frozen=True)
class Proxy:
    """One proxy. Its text is free of secrets."""

    url: str = field(repr=False)
    """As yt-dlp takes it, password included."""
    scheme: str
    host: str
    port: int

    def __str__(self) -> str:
        return f"{self.scheme}://{self.host}:{self.port}"

    @property
    def headers(self) -> dict[str, str]:
        """The header that carries user and password."""
        parts = urlsplit(self.url)
        if parts.username is None:
            return {}
        words = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        return {"Proxy-Authorization": f"Basic {base64.b64encode(words.encode()).decode()}"}


class ProxyList:
    """The proxies of a file.

    Args:
        file: one address a line, "http://user:password@host:port".
        schemes: kinds of proxies that the caller supports.
    Raises: ConfigError where a line is no such address, or there is none.
    """

    def __init__(self, file: str, schemes: tuple[str, ...] = SCHEMES) -> None:
        lines = enumerate(Path(file).expanduser().read_text(encoding="utf-8").splitlines(), start=1)
        self._proxies = [_proxy(line.strip(), f"{file}, line {at}", schemes) for at, line in lines if line.strip()]
        if not self._proxies:
            raise ConfigError(f"{file} names no proxy. Write one address a line: http://user:password@host:port")

    def of(self, key: str) -> Proxy:
        """The proxy of a source, given its key in hex digits: always the same one."""
        return self._proxies[int(key, 16) % len(self._proxies)]


def environment_proxy(scheme: str, host: str) -> Proxy | None:
    """The proxy that http_proxy, https_proxy and no_proxy name for a host; None for none. Raises ConfigError."""
    named = urllib.request.getproxies().get(scheme)
    if not named or urllib.request.proxy_bypass(host):
        return None
    return _proxy(named if "://" in named else f"http://{named}", f"{scheme}_proxy of the environment", ("http",))


class Cookies:
    """The cookies of a Netscape cookies file; without a file, none.

    Raises: ConfigError where it is no such file.
    """

    def __init__(self, file: str | None) -> None:
        self._jar = CookieJar()
        if file is not None:
            self._jar = _cookies(Path(file).expanduser())

    def session(self) -> "CookieSession":
        """A copy for one source: cookies that hosts set on the way to it end with it."""
        return CookieSession(self._jar)


class CookieSession:
    """The cookies of one source: those of the file, and those that its hosts set along its redirects."""

    def __init__(self, jar: CookieJar) -> None:
        self._jar = CookieJar()
        for cookie in jar:
            self._jar.set_cookie(cookie)

    def headers(self, url: str) -> dict[str, str]:
        """The Cookie header of a request for `url`: each cookie goes to its own host only."""
        request = urllib.request.Request(url)  # noqa: S310 - only the jar reads it
        self._jar.add_cookie_header(request)
        cookie = request.get_header("Cookie")
        return {} if cookie is None else {"Cookie": cookie}

    def keep(self, url: str, response: HTTPResponse) -> None:
        """Keep the cookies that the response to `url` sets."""
        request = urllib.request.Request(url)  # noqa: S310 - only the jar reads it
        self._jar.extract_cookies(response, request)


def require_files(options: object, table: str, *names: str) -> None:
    """Raises ConfigError where an option names a file of secrets that is not there."""
    for name in names:
        value = getattr(options, name)
        if value is not None and not Path(value).expanduser().is_file():
            raise ConfigError(f"{table}.{name} is {value!r}, which is no file. Check the path.")


def _cookies(file: Path) -> MozillaCookieJar:
    jar = MozillaCookieJar()
    try:
        jar.load(str(file), ignore_discard=True, ignore_expires=True)
    except (LoadError, UnicodeDecodeError):  # their texts may hold a line of the file: they are not passed on
        raise ConfigError(f"{file} is no Netscape cookies file: its first line must say so") from None
    for cookie in jar:
        if cookie.expires == 0:  # how browsers' exports write the end of the session
            cookie.expires, cookie.discard = None, True
    return jar


def _proxy(text: str, where: str, schemes: tuple[str, ...]) -> Proxy:
    wanted = f"wanted {' or '.join(schemes)}://user:password@host:port"
    try:
        parts = urlsplit(text)
        scheme, host, port = parts.scheme.lower(), parts.hostname, parts.port
    except ValueError:  # its text may hold the password: it is not passed on
        scheme, host, port = "", None, None
    if scheme not in schemes or not host:
        raise ConfigError(f"{where}: no proxy address that can be used here; {wanted} (not shown: it may be secret)")
    return Proxy(text, scheme, host, port or {"http": 80, "https": 443}.get(scheme, 1080))
