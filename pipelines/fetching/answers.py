"""The table of answers: what an HTTP status, a message and a page mean for a clip, each row with its reason.

Permanent needs proof: the statuses 404 and 410, or the site's own words about the video. Everything else is retryable,
or needs credentials. A row that `refuses` is about this machine, not about the source: it counts as a refusal of the
host, so that its circuit breaker opens and the host cools down.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Answer:
    """What a status means."""

    code: str
    """One of `pipelines.codes.CODES`."""
    reason: str
    """Why it has this code."""
    refuses: bool = False


STATUSES: dict[int, Answer] = {
    202: Answer("sign_in", "robot checks (AWS WAF) answer 202 with a script; nothing is fetched until it runs", True),
    401: Answer("http_401", "the host wants a login"),
    402: Answer("members", "the host wants a payment"),
    403: Answer("http_403", "other credentials may be allowed"),
    404: Answer("http_404", "the host's statement that there is no such file"),
    407: Answer("proxy", "the proxy wants a login; says nothing about the source"),
    408: Answer("timeout", "the host gave up waiting for the request"),
    410: Answer("http_410", "the host's statement that the file is gone"),
    412: Answer("sign_in", "no condition was sent: sites (BiliBili) use it against robots", True),
    416: Answer("changed", "the file is shorter than the partial download: it is fetched from the start"),
    418: Answer("sign_in", "used by sites that take the client for a robot", True),
    420: Answer("rate_limited", "an older form of 429", True),
    429: Answer("http_429", "too many requests", True),
    430: Answer("rate_limited", "a shop system's form of 429", True),
    451: Answer("region", "legal reasons hold for a country: another address may be allowed"),
    503: Answer("http_5xx", "overloaded or in maintenance", True),
    509: Answer("http_5xx", "the bandwidth of the host is used up", True),
    529: Answer("http_5xx", "the site is overloaded", True),
    999: Answer("rate_limited", "a site's form of 429", True),
}
"""Statuses with a row of their own."""

RANGES: tuple[tuple[range, Answer], ...] = (
    (range(100, 200), Answer("bad_response", "interim answers are skipped; alone they are none")),
    (range(200, 300), Answer("bad_response", "a success without the content: 204, 205 and unusual ones")),
    (range(300, 400), Answer("bad_response", "a redirect without an address, or one that was not asked for: 304")),
    (range(400, 500), Answer("http_4xx", "no proof about the source: 400 in outages, 409, 423 locked, 425 too early")),
    (range(500, 600), Answer("http_5xx", "a fault of the host")),
)
"""All other statuses."""
ODD_STATUS = Answer("bad_response", "no status of HTTP")

CHALLENGE_HEADERS = ("x-amzn-waf-action", "cf-mitigated", "x-datadome", "x-dd-b")
"""Headers that only robot checks send, whatever the status."""
CHALLENGE_STATUSES = (401, 403, 405, 406, 429, 503)
"""Statuses whose page is searched for a robot check: their meaning is another one where the page is a check."""

MESSAGES: tuple[tuple[str, str, str], ...] = (
    # the machine
    ("no_driver", r"impersonate target .* is not available", "a library is missing here"),
    ("disk_full", r"no space left on device|errno 28\b|disk quota exceeded|errno 122\b", "the disk of this machine"),
    ("out_of_memory", r"cannot allocate memory|errno 12\b", "the memory of this machine"),
    # the site refuses the machine: these come before anything about the video
    ("sign_in", r"confirm you.{0,3}re not a bot|captcha|login required|unusual traffic", "a robot check"),
    ("sign_in", r"please (sign|log) in|detected as a (ro)?bot|verify (that )?you are (a )?human", "a robot check"),
    ("sign_in", r"http error (202|412|418)", "statuses of robot checks, see STATUSES"),
    ("rate_limited", r"content isn.t available, try again later|session has been rate.limited", "the site's words"),
    ("rate_limited", r"rate.limit(ed)? (by|reached|exceeded)|http error (420|430|999)", "the site's words, STATUSES"),
    ("http_429", r"http error 429|too many requests|\b429 client error", "too many requests"),
    # the video: the site's own words
    ("private", r"private video|video is private", "the site's words"),
    (
        "terminated",
        r"account associated with this video has been (terminated|closed)|user has closed their",
        "its words",
    ),
    (
        "members",
        r"members.only|channel.s members|join this channel|music premium members",
        "another account may see it",
    ),
    ("members", r"requires payment|rental.{0,3} videos|premium subscription|subscribers? only", "the same"),
    ("members", r"http error 402|payment required|password.protected|protected by a password", "the same"),
    ("age", r"confirm your age|age.restricted|inappropriate for some users", "an adult's account may see it"),
    (
        "region",
        r"(not|hasn.t) (been )?made this video available|available in your (country|location|region)",
        "by country",
    ),
    (
        "region",
        r"blocked it in your country|geo.?restrict|not available from your location|http error 451",
        "by country",
    ),
    (
        "removed",
        r"has been removed|removed by the (user|uploader)|violat(es|ing|ed) youtube|community guidelines",
        "its words",
    ),
    ("removed", r"copyright (claim|grounds)|no longer available|video does not exist", "the site's words"),
    ("drm", r"\bdrm\b", "the site's words"),
    (
        "live",
        r"live event (will begin|has ended)|premieres in|will begin in|recording is not available",
        "not over yet",
    ),
    ("live", r"not currently live|is offline|check back later|still being processed", "not over, or not processed yet"),
    (
        "no_format",
        r"requested format is not available|no video formats found|only images are available",
        "offers change",
    ),
    (
        "extractor",
        r"page needs to be reloaded|unable to extract|nsig extraction failed|challenge solving failed",
        "yt-dlp",
    ),
    (
        "extractor",
        r"unable to download api page: http error 4(?!0[13]|10|29)\d\d",
        "an outage of one API client",
    ),
    ("extractor", r"failed to (extract|parse)|failed to download .{0,40}player|player response", "yt-dlp or an outage"),
    (
        "unavailable",
        r"video unavailable|video is (not available|unavailable)|content is not available",
        "the site's words",
    ),
    ("unavailable", r"is not available on this app", "the site's words"),
    ("not_media", r"unsupported url|no video could be found|not a valid url", "no page of a video"),
    # the connection
    (
        "proxy",
        r"proxyerror|unable to connect to proxy|tunnel connection failed|407 proxy",
        "says nothing of the source",
    ),
    (
        "dns",
        r"getaddrinfo failed|name or service not known|nodename nor servname|no address associated with",
        "a look-up",
    ),
    ("dns", r"temporary failure in name resolution|failed to resolve|name resolution", "a look-up"),
    (
        "connection",
        r"eof occurred in violation|unexpected.eof|tls.{0,30}connection.{0,30}(closed|terminated)",
        "a break",
    ),
    (
        "tls",
        r"certificate.verify.failed|\bssl\b|\btls\b|certificate is not valid|certificate has expired",
        "not trusted",
    ),
    ("incomplete", r"incompleteread|bytes read, \d+ more expected|content too short", "a break"),
    ("incomplete", r"did not get any data|downloaded file is empty", "a break"),
    ("timeout", r"http error 408|timed out|timeout", "no answer in time"),
    ("changed", r"http error 416|requested range not satisfiable", "fetched from the start by the next attempt"),
    ("data_forbidden", r"unable to download video data: http error 403", "the page was fine, its data address expired"),
    ("data_forbidden", r"\[download\] got error: http error (403|404|410)", "the same"),
    ("data_forbidden", r"fragment.{0,40}http error 403|http error 403.{0,40}fragment", "the same"),
    # the host's statuses, as above
    ("http_401", r"http error 401|401 client error", "the host wants a login"),
    ("http_403", r"http error 403|403 client error", "other credentials may be allowed"),
    ("http_404", r"http error 404|404 client error|entry not found|repository not found", "there is no such page"),
    ("http_410", r"http error 410", "the page is gone"),
    ("http_5xx", r"http error 5\d\d|\b5\d\d server error", "a fault of the host"),
    ("http_4xx", r"http error 4\d\d", "no proof about the source"),
    ("bad_response", r"http error [1236789]\d\d", "no status of a page"),
    ("too_large", r"larger than max.filesize", "a limit of the recipe"),
    (
        "connection",
        r"connection (was )?(reset|refused|aborted)|network is unreachable|remote end closed|no route to host",
        "a break",
    ),
    ("connection", r"broken pipe|connection error|connecterror|giving up after \d+ retries", "a break"),
)
"""Code, pattern, reason. The first pattern that fits decides, so the order counts; letter case does not."""

PAGES: tuple[tuple[str, str, str], ...] = (
    ("sign_in", r"captcha|are you a (ro)?bot|not a robot|verify (that )?you are (a )?human|awswaf|cf-chl", "a check"),
    ("sign_in", r"just a moment\.\.\.|checking your browser|unusual traffic|enable javascript and cookies", "a check"),
    ("rate_limited", r"too many requests|rate limit exceeded|request rate", "too many requests"),
    ("http_5xx", r"temporarily unavailable|(down|closed) for maintenance|under maintenance|overloaded", "an outage"),
)
"""Pages that come in place of media with any status: code, pattern, reason."""
REFUSALS = ("sign_in", "rate_limited", "http_429")
"""Codes that count as a refusal of the host, however they were found."""
