"""Every reason why a clip may leave the road: a closed list, each code with its policy.

rejected    the content is not wanted or not usable; asking again changes nothing
permanent   it cannot be had any more; asking again changes nothing
transient   it could not be had or processed this time; `uniform pipeline retry --code CODE` asks again
"""

from dataclasses import dataclass
from typing import Literal

Policy = Literal["rejected", "permanent", "transient"]


@dataclass(frozen=True)
class Code:
    """A reason, in one word for tables and one sentence for people."""

    policy: Policy
    meaning: str


CODES: dict[str, Code] = {
    # the source cannot be had
    "missing_source": Code("transient", "a local file that the listing names is not there"),
    "unreadable_source": Code("transient", "a local file is there but cannot be read: permissions or a disk fault"),
    "no_fetcher": Code("transient", "no part of the toolkit fetches this kind of source"),
    "outside_root": Code("permanent", "the path leaves the data set's folder"),
    "digest_mismatch": Code("permanent", "the source's bytes are not those that the listing promises"),
    # the file is not usable media
    "empty_file": Code("rejected", "zero bytes"),
    "not_media": Code("rejected", "no container that any demuxer knows: HTML, text, a picture, random bytes"),
    "no_video": Code("rejected", "no video stream, or none with a picture"),
    "no_audio": Code("rejected", "no audio stream, or none that decodes"),
    "too_short": Code("rejected", "the source ends before the clip does"),
    "truncated": Code("rejected", "the header promises more than the file holds"),
    "decode_corrupt": Code("rejected", "the stream is damaged inside the clip"),
    "unsupported": Code("rejected", "a codec, pixel format or transfer function that cannot be decoded faithfully"),
    "encrypted": Code("rejected", "the samples are encrypted"),
    "bad_timestamps": Code("rejected", "timestamps that no clock can make sense of"),
    "too_large": Code("rejected", "more pixels, channels or bytes than the limits allow"),
    # the sandbox ended the attempt
    "decode_timeout": Code("rejected", "decoding took longer than the limit"),
    "decode_memory": Code("rejected", "decoding wanted more memory than the limit"),
    "decode_crash": Code("rejected", "the decoder's process died"),
    "kills_worker": Code("rejected", "the clip killed three workers and was found by isolation"),
    # the content is not wanted
    "still": Code("rejected", "the picture does not move"),
    "black": Code("rejected", "the picture is black"),
    "silent": Code("rejected", "the sound is below the floor"),
    "clipped": Code("rejected", "the sound is overdriven"),
    "duplicate": Code("rejected", "another clip of the run shows the same source span"),
    # captions
    "caption_missing": Code("rejected", "no label or text to make a caption of"),
    "caption_empty": Code("rejected", "the caption is empty after cleaning"),
    # encoding
    "roundtrip_poor": Code("rejected", "the decoded latent is too far from the clip"),
    "not_finite": Code("rejected", "the latent holds NaN or infinity"),
    # the machine
    "disk_full": Code("transient", "no space left"),
    "out_of_memory": Code("transient", "the machine or the accelerator ran out of memory"),
    "unknown": Code("transient", "a reason that this list does not have yet"),
}
