"""Messages of yt-dlp, HTTP, TLS and the operating system to the ledger's codes.

Sites phrase refusals as they like and change them, so patterns are loose and without letter case; the first that fits
decides, so the order counts: "Video unavailable" stands before many more telling sentences. What no pattern knows is
`unknown`, which is transient, so that nothing is lost by a new phrase.
"""

import re

_PATTERNS: tuple[tuple[str, str], ...] = (
    # the machine
    ("no_driver", r"impersonate target .* is not available"),
    ("disk_full", r"no space left on device|errno 28\b|disk quota exceeded|errno 122\b"),
    ("out_of_memory", r"cannot allocate memory|errno 12\b"),
    # the site refuses the machine: these must come before anything about the video
    ("sign_in", r"confirm you.{0,3}re not a bot|captcha|login required|unusual traffic"),
    ("rate_limited", r"content isn.t available, try again later|session has been rate.limited"),
    ("rate_limited", r"rate.limit(ed)? (by|reached)"),
    ("http_429", r"http error 429|too many requests|\b429 client error"),
    # the video
    ("private", r"private video|video is private"),
    ("terminated", r"account associated with this video has been (terminated|closed)|user has closed their"),
    ("members", r"members.only|channel.s members|join this channel|music premium members"),
    ("members", r"requires payment|rental.{0,3} videos"),
    ("members", r"http error 402|payment required"),
    ("age", r"confirm your age|age.restricted|inappropriate for some users"),
    ("region", r"(not|hasn.t) (been )?made this video available|available in your (country|location|region)"),
    ("region", r"blocked it in your country|geo.?restrict|not available from your location"),
    ("removed", r"has been removed|removed by the (user|uploader)|violat(es|ing|ed) youtube|community guidelines"),
    ("removed", r"copyright (claim|grounds)|no longer available|video does not exist"),
    ("drm", r"\bdrm\b"),
    ("live", r"live event (will begin|has ended)|premieres in|will begin in|recording is not available"),
    ("no_format", r"requested format is not available|no video formats found|only images are available"),
    ("extractor", r"page needs to be reloaded|unable to extract|nsig extraction failed|challenge solving failed"),
    ("unavailable", r"video unavailable|video is (not available|unavailable)|content is not available"),
    ("unavailable", r"is not available on this app"),
    ("not_media", r"unsupported url|no video could be found|not a valid url"),
    # the way there
    ("proxy", r"proxyerror|unable to connect to proxy|tunnel connection failed|407 proxy"),
    ("dns", r"getaddrinfo failed|name or service not known|nodename nor servname|no address associated with hostname"),
    ("dns", r"temporary failure in name resolution|failed to resolve|name resolution"),
    ("tls", r"certificate.verify.failed|\bssl\b|\btls\b|certificate is not valid|certificate has expired"),
    ("incomplete", r"incompleteread|bytes read, \d+ more expected|content too short"),
    ("incomplete", r"did not get any data|downloaded file is empty"),
    ("timeout", r"timed out|timeout"),
    ("data_forbidden", r"unable to download video data: http error 403"),
    ("data_forbidden", r"\[download\] got error: http error (403|404|410)"),
    ("data_forbidden", r"fragment.{0,40}http error 403|http error 403.{0,40}fragment"),
    ("http_401", r"http error 401|401 client error"),
    ("http_403", r"http error 403|403 client error"),
    ("http_404", r"http error 404|404 client error|entry not found|repository not found"),
    ("http_410", r"http error 410"),
    ("http_5xx", r"http error 5\d\d|\b5\d\d server error"),
    ("http_4xx", r"http error 4\d\d"),
    ("too_large", r"larger than max.filesize"),
    (
        "connection",
        r"connection (was )?(reset|refused|aborted)|network is unreachable|remote end closed|no route to host",
    ),
    ("connection", r"broken pipe|connection error|connecterror|giving up after \d+ retries"),
)
_COMPILED = tuple((code, re.compile(pattern, re.IGNORECASE)) for code, pattern in _PATTERNS)

LONGEST_REASON = 400
_SECRETS = re.compile(
    r"(?i)(\b[a-z][a-z0-9+.-]*://)[^/\s@]+@|"  # user and password of any address
    r"([?&][^=&\s]*(?:token|sig|signature|key|auth|password|credential|policy|session|pot)[^=&\s]*=)[^&\s'\"]+"
)
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")


def code_of_message(message: str) -> str:
    """The code for an error's text; `unknown` for one that no pattern knows."""
    for code, pattern in _COMPILED:
        if pattern.search(message):
            return code
    return "unknown"


def code_of_status(status: int) -> str:
    """The code for an HTTP status that is not a success."""
    if status in (401, 403, 404, 410, 429):
        return f"http_{status}"
    return "http_5xx" if status >= 500 else "http_4xx"


def clean_reason(message: str) -> str:
    """A message for the ledger: one line, bounded, without colours, passwords and signed query values."""
    text = _SECRETS.sub(lambda match: f"{match[1] or match[2]}***{'@' if match[1] else ''}", _COLOURS.sub("", message))
    text = " ".join(text.split())
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 3] + "..."
