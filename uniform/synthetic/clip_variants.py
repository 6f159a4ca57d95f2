"""Clips of a world in three variants: as generated, decoded from files as in the clip stage, and after codecs."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import torch

from uniform.codecs.base import AudioCodec, VideoCodec
from uniform.errors import InputError
from uniform.media.sandbox import MediaSandbox
from uniform.spec import Spec
from uniform.synthetic.scene import Truth
from uniform.synthetic.worlds import WorldClip, make_clip
from uniform.synthetic.write import LISTING_NAME


def from_generator(world: str, seeds: Iterable[int], spec: Spec) -> Iterator[WorldClip]:
    """Clips directly from the generator."""
    for seed in seeds:
        yield make_clip(world, seed, spec)


def from_files(folder: Path, spec: Spec, split: str | None = None) -> Iterator[WorldClip]:
    """The clips of a folder that `write_world` wrote, decoded to `spec` as in the clip stage.

    Raises: InputError where the folder holds no such listing; MediaError where a file cannot be used.
    """
    listing = folder / LISTING_NAME
    if not listing.is_file():
        raise InputError(f"{listing} is missing; write a world first: uniform world write {folder}")
    lines = [json.loads(line) for line in listing.read_text().splitlines()]
    with MediaSandbox() as sandbox:
        for line in lines:
            if split is None or line["split"] == split:
                loaded = sandbox.load(folder / line["path"], spec, line["start_ms"])
                assert loaded.frames is not None
                assert loaded.waveform is not None
                yield WorldClip(frames=loaded.frames, waveform=loaded.waveform, truth=Truth.from_json(line["truth"]))


def through_codecs(clips: Iterable[WorldClip], spec: Spec, video: VideoCodec, audio: AudioCodec) -> Iterator[WorldClip]:
    """Encode and decode each clip: the ceiling of a model on these latents."""
    for clip in clips:
        frames = video.decode(video.encode(torch.from_numpy(clip.frames)[None]), spec.frames)[0]
        waveform = audio.decode(audio.encode(torch.from_numpy(clip.waveform)[None]), spec.samples)[0]
        yield replace(clip, frames=frames.numpy(), waveform=waveform.numpy())
