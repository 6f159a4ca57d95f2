"""Decode clips of latent shards, to check them before a training run."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from uniform.atomic import write_bytes
from uniform.codecs.base import AudioCodec, VideoCodec, open_audio_codec, open_video_codec
from uniform.codecs.plugins import recorded_name
from uniform.errors import InputError, SpecMismatchError
from uniform.latents.format import codec_identity, require_same
from uniform.latents.shards.index import Index, Places, open_index
from uniform.latents.shards.members import Shards
from uniform.latents.shards.windows import Cut, cuts
from uniform.media.clip_file import write_clip
from uniform.sampling.contact_sheet import Entry, contact_sheet

SHEET_NAME = "contact_sheet.png"


@dataclass(frozen=True)
class Preview:
    """Paths of the written files."""

    sheet: Path
    videos: tuple[Path, ...]


def preview_shards(
    folder: Path,
    out: Path,
    *,
    clips: int = 8,
    split: str | None = None,
    options: Mapping[str, Mapping[str, Any]] | None = None,
) -> Preview:
    """Decode clips, evenly spaced over the index, and write an MP4 for each and a contact sheet.

    Of clips with windows the first window is decoded, as training uses it by default.

    Args:
        folder: latent shards with index and card.
        out: receives `<clip id>.mp4` and `contact_sheet.png`.
        clips: how many; all where the index has fewer.
        options: "video" and "audio" to options of the card's codecs, for instance where their weights are.
    Raises: ShardError for damaged shards, SpecMismatchError where the opened codecs did not make the latents,
        InputError for a number below 1.
    """
    if clips < 1:
        raise InputError(f"clips is {clips}; it must be 1 or more")
    index = open_index(folder, split)
    video, audio = _codecs(index, options or {})
    shards = Shards(folder, index.shards)
    entries, videos = [], []
    for row in np.unique(np.linspace(0, len(index) - 1, min(clips, len(index))).round().astype(int)):
        entry = _entry(index, shards, int(row), video, audio)
        path = out / f"{index.clip_ids[row]}.mp4"
        write_clip(path, entry.frames, entry.waveform, index.spec.fps, index.spec.rate_hz, audio_codec="aac")
        entries.append(entry)
        videos.append(path)
    write_bytes(out / SHEET_NAME, contact_sheet(entries))
    return Preview(out / SHEET_NAME, tuple(videos))


def _codecs(index: Index, options: Mapping[str, Mapping[str, Any]]) -> tuple[VideoCodec, AudioCodec]:
    card = index.card
    video_name, video_options = recorded_name("video", card.video["name"], options.get("video", {}), str(index.folder))
    audio_name, audio_options = recorded_name("audio", card.audio["name"], options.get("audio", {}), str(index.folder))
    video = open_video_codec(video_name, index.spec, **video_options)
    audio = open_audio_codec(audio_name, index.spec, **audio_options)
    advice = "Pass the weights and settings that card.json names (--codec KIND.OPTION=VALUE)."
    for kind, codec, wanted_card in (("video", video, card.video), ("audio", audio, card.audio)):
        found, wanted = codec_identity(codec.card.as_dict()), codec_identity(wanted_card)
        require_same(found, wanted, f"the {kind} codec that would decode {index.folder}", advice)
    return video, audio


def _entry(index: Index, shards: Shards, row: int, video: VideoCodec, audio: AudioCodec) -> Entry:
    spec, clip_id = index.spec, str(index.clip_ids[row])
    cut = cuts(spec, index.card.windows)
    video_latent = _latent(shards, index.video, row, f"the video of clip {clip_id}", cut["video"])
    audio_latent = _latent(shards, index.audio, row, f"the audio of clip {clip_id}", cut["audio"])
    with torch.inference_mode():
        frames = video.decode(video_latent, spec.frames)[0].cpu().numpy()
        waveform = audio.decode(audio_latent, spec.samples)[0].cpu().numpy()
    return Entry(f"{clip_id}  {index.datasets[row]}", frames, waveform)


def _latent(shards: Shards, places: Places, row: int, what: str, cut: Cut) -> torch.Tensor:  # (1, C, ...)
    shard = shards[int(places.shard[row])]
    offset, length = int(places.offset[row]), int(places.length[row])
    shard.require_crc(offset, length, int(places.crc32[row]), what)
    array = shard.array(offset, length, what)
    if array.shape != cut.whole:
        raise SpecMismatchError(
            f"{shard.path}: {what} has shape {array.shape}, the card wants {cut.whole}. Shard and card do "
            f"not match: run `uniform shards lint` on the folder."
        )
    window = array.reshape(cut.flat)[:, cut.steps(0)].reshape(1, *cut.window)
    return torch.from_numpy(window.astype(np.float32))
