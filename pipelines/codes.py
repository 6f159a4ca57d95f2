"""Every reason why a clip may be dropped: a closed list, each code with its policy.

rejected             the content is not wanted or not usable; a retry changes nothing
permanent            the source cannot be fetched any more; a retry changes nothing
over_limit           over a limit of the recipe; set another limit, then `uniform pipeline retry --code CODE`
needs_credentials    set other cookies, proxy or token, then `uniform pipeline retry --code CODE`
retryable            could not be fetched or processed this time; `uniform pipeline retry --code CODE` tries again
"""

from dataclasses import dataclass
from typing import Literal

Policy = Literal["rejected", "permanent", "over_limit", "needs_credentials", "retryable"]


@dataclass(frozen=True)
class Code:
    """A drop reason: its policy, and one sentence for people."""

    policy: Policy
    meaning: str

    @property
    def remedy(self) -> str | None:
        """How to retry such clips; None where a retry changes nothing."""
        return _REMEDIES.get(self.policy)


_REMEDIES: dict[Policy, str] = {
    "over_limit": "with another limit in the recipe, uniform pipeline retry",
    "needs_credentials": "with other cookies, proxy or token, uniform pipeline retry",
    "retryable": "uniform pipeline retry",
}

CODES: dict[str, Code] = {
    # the source cannot be fetched
    "missing_source": Code("retryable", "a local file that the listing names is not there"),
    "unreadable_source": Code("retryable", "a local file is there but cannot be read: permissions or a disk fault"),
    "no_fetcher": Code("retryable", "no part of the toolkit fetches this kind of source"),
    "outside_root": Code("permanent", "the path leaves the dataset's folder"),
    "digest_mismatch": Code("permanent", "the source's bytes are not those that the listing names"),
    # the host refuses or has lost it
    "private": Code("permanent", "the owner keeps it private"),
    "removed": Code("permanent", "removed by its owner, by the site or by a claim"),
    "terminated": Code("permanent", "the account that it belonged to was closed"),
    "unavailable": Code("permanent", "the site reports it as unavailable without a reason"),
    "region": Code("needs_credentials", "not available in the country of this machine; another address may reach it"),
    "age": Code("needs_credentials", "needs a viewer of age; a cookies file of an adult may reach it"),
    "members": Code("needs_credentials", "for members or payers only"),
    "drm": Code("permanent", "protected by rights management"),
    "live": Code("retryable", "a live event or premiere that is not over"),
    "sign_in": Code(
        "retryable", "the site takes this machine for a robot; wait before the next request from this address"
    ),
    "rate_limited": Code("retryable", "the site reports too many requests of this machine"),
    "no_format": Code("retryable", "no format with video and audio was offered this time"),
    "extractor": Code("retryable", "the site changed and yt-dlp cannot read it: update yt-dlp"),
    "http_401": Code("needs_credentials", "HTTP 401: a login is needed"),
    "http_403": Code("needs_credentials", "HTTP 403: forbidden"),
    "http_404": Code("permanent", "HTTP 404: not found"),
    "http_410": Code("permanent", "HTTP 410: gone"),
    "http_429": Code("retryable", "HTTP 429: too many requests"),
    "http_4xx": Code("retryable", "another HTTP status of the client (4xx), which proves nothing about the source"),
    "http_5xx": Code("retryable", "an HTTP status of the server (5xx)"),
    "http_redirects": Code("retryable", "redirects that lead in a circle or too far"),
    "bad_response": Code("retryable", "a response that breaks HTTP or ignores the request"),
    "data_forbidden": Code(
        "retryable", "the page was fine, but the address of its data has expired, was refused or leads nowhere"
    ),
    # the connection
    "dns": Code("retryable", "the host's name could not be resolved"),
    "connection": Code("retryable", "no connection, or it broke"),
    "timeout": Code("retryable", "the host did not answer in time"),
    "too_slow": Code("retryable", "the data came slower than the limit"),
    "tls": Code("retryable", "the host's certificate or its TLS could not be trusted"),
    "proxy": Code("retryable", "the proxy refused or failed"),
    "incomplete": Code("retryable", "fewer bytes came than were promised"),
    "changed": Code("retryable", "the source changed while it was fetched, or between the fetch and the cut"),
    "address_refused": Code("over_limit", "a private, local or reserved address that the recipe does not allow"),
    "scheme_refused": Code("permanent", "an address of another scheme than http or https"),
    "host_paused": Code("retryable", "the host cools down after several refusals; the reason gives the time"),
    "daily_budget": Code("retryable", "today's requests to this host are used up"),
    "quiet_hours": Code("retryable", "the host has quiet hours now"),
    # archives and hubs
    "archive_corrupt": Code("permanent", "the archive is damaged or of another kind than its name"),
    "archive_unsupported": Code(
        "permanent", "cannot be read member by member: decompress a compressed tar; make a Parquet file's groups small"
    ),
    "no_driver": Code("retryable", "the library that reads this kind of address is not installed"),
    # the file is not usable media
    "empty_file": Code("rejected", "zero bytes"),
    "not_media": Code("rejected", "no container that any demuxer reads: HTML, text, an image, random bytes"),
    "no_video": Code("rejected", "no video stream, or none with frames"),
    "no_audio": Code("rejected", "no audio stream, or none that decodes"),
    "too_short": Code("rejected", "the source ends before the clip does"),
    "truncated": Code("rejected", "the header promises more than the file holds"),
    "decode_corrupt": Code("rejected", "the stream is damaged inside the clip"),
    "unsupported": Code("rejected", "a codec, pixel format or transfer function that cannot be decoded faithfully"),
    "encrypted": Code("rejected", "the samples are encrypted"),
    "bad_timestamps": Code("rejected", "timestamps that contradict each other"),
    "too_large": Code("over_limit", "more pixels, channels or bytes than the limits allow"),
    # the sandbox ended the attempt
    "decode_timeout": Code("over_limit", "decoding took longer than the limit"),
    "decode_memory": Code("over_limit", "decoding needed more memory than the limit"),
    "decode_crash": Code("over_limit", "the decoder's process died"),
    "worker_crash": Code("rejected", "three workers died on the clip's unit, and two fresh ones on the clip alone"),
    # the content is not wanted
    "still": Code("rejected", "the video does not move"),
    "black": Code("rejected", "the video is black"),
    "silent": Code("rejected", "the audio is below the floor"),
    "clipped": Code("rejected", "the audio is clipped"),
    "av_length": Code("rejected", "the audio does not cover the clip: it begins late, ends early or pauses too long"),
    "duplicate": Code("rejected", "another clip of the run, or of a table that is excluded, has the same content"),
    "label_script": Code("rejected", "a label or caption in another script than the recipe's language is written in"),
    # captions
    "caption_missing": Code("rejected", "no label or text to make a caption of"),
    "caption_empty": Code("rejected", "the caption is empty after cleaning"),
    "caption_echo": Code("rejected", "the model repeated its prompt, or the marks of a dialogue"),
    "caption_filler": Code("rejected", "the model only described what is absent"),
    "caption_cut": Code("rejected", "the caption ends in mid-sentence at the model's limit, with no whole sentence"),
    "caption_loop": Code("rejected", "the model repeated itself"),
    "caption_refusal": Code("rejected", "the model refused or spoke of itself"),
    "caption_language": Code("rejected", "the caption is not language: signs, code or broken characters"),
    "caption_long": Code("rejected", "more words than the text encoder keeps"),
    "caption_server": Code("retryable", "the caption server did not respond, or not with a caption"),
    # encoding
    "roundtrip_poor": Code("rejected", "the decoded latent is too far from the clip"),
    "not_finite": Code("rejected", "the latent holds NaN or infinity"),
    # the machine
    "disk_full": Code("retryable", "no space left"),
    "out_of_memory": Code("retryable", "the machine or the accelerator ran out of memory"),
    "unknown": Code("retryable", "a reason that this list does not have yet"),
}
