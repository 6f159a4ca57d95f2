"""Small sets of clips and a network of no training, for tests of the evaluation."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from uniform.evaluation.extractors.contract import AudioRule, VideoRule, WeightsFile
from uniform.evaluation.protocol import ProtocolFile, read_protocol
from uniform.evaluation.streams import Extractors
from uniform.media.clip_file import write_clip
from uniform.spec import TOY
from uniform.synthetic.worlds import make_clip

PROTOCOL = """
title = "Small"
about = "For tests."
[reading]
duration_s = 2
fps = 17
size_px = 64
[statistics]
draws = 200
[[metrics]]
name = "fd_yamnet"
column = "FD"
[[metrics]]
name = "kad_yamnet"
[[metrics]]
name = "kl_yamnet_exact"
[[metrics]]
name = "kad_effnet_lite0"
[[metrics]]
name = "fd_transnetv2_16f"
[[metrics]]
name = "av_align_brightness_v2"
[paper]
table = "A paper, Table 1"
differs = ["Everything."]
open_questions = ["N is not stated."]
[[paper.rows]]
model = "Other"
values = { FD = 1.5 }
"""


def small_protocol(folder: Path, text: str = PROTOCOL, same_clips: bool = True) -> ProtocolFile:
    """A protocol file in `folder`, read."""
    path = folder / "small.toml"
    path.write_text(text if same_clips else text.replace("[statistics]", "[sets]\nsame_clips = false\n[statistics]"))
    return read_protocol(str(path))


def write_clips(folder: Path, count: int, *, noise: float = 0.0, first: int = 0) -> list[Path]:
    """Clips of the synthetic world w1 as MP4 files `clip-000.mp4`, ..., with noise of some gray levels."""
    random = np.random.default_rng(first)
    paths = []
    for number in range(first, first + count):
        clip = make_clip("w1", number, TOY)
        frames, sound = clip.frames, clip.waveform
        if noise:
            frames = np.clip(frames + random.normal(0, noise, frames.shape), 0, 255).astype(np.uint8)
            sound = (sound + random.normal(0, noise / 500, sound.shape)).astype(np.float32).clip(-1, 1)
        path = folder / f"clip-{number:03d}.mp4"
        write_clip(path, frames, sound, TOY.fps, TOY.rate_hz)
        paths.append(path)
    return paths


def write_request(clip: Path, text: str) -> None:
    """What `uniform sample` writes beside a sample."""
    clip.with_suffix(".json").write_text(json.dumps({"request": {"text": text}}))


class SmallNetwork:
    """Random projections of coarse pixels or of the waveform's energies: features that see what a network would see."""

    code_version = 1
    licence = "none"
    source = "tests"

    def __init__(self, name: str, kind: str, dims: int = 6) -> None:
        self.name = name
        self.video = (
            VideoRule(fps=None, frames=None, size_px=8, crop="squash", filter="area") if kind == "video" else None
        )
        self.audio = AudioRule(rate_hz=16_000, channels="mean", remove_dc=True) if kind == "audio" else None
        self.outputs = ("embedding", "logits")
        self.weights = (WeightsFile(name="none.pt", bytes=0, sha256="0" * 64, known=False),)
        self.clips_seen = 0
        generator = torch.Generator().manual_seed(1)
        self._matrix = torch.randn(64, dims, generator=generator)

    def features(
        self, *, frames: Tensor | None = None, waveform: Tensor | None = None, texts: Sequence[str] | None = None
    ) -> Mapping[str, Tensor]:
        if frames is not None:
            light = frames.float().mean(-1).std(dim=1) / 64  # (B, H, W), what moves
            coarse = torch.nn.functional.adaptive_avg_pool2d(light[:, None], (8, 8)).flatten(1)
        else:
            assert waveform is not None
            windows = waveform[:, : waveform.shape[1] // 64 * 64].unflatten(1, (64, -1))
            coarse = windows.square().mean(-1).add(1e-8).log() / 4
        self.clips_seen += len(coarse)
        embedding = coarse @ self._matrix
        return {"embedding": embedding, "logits": embedding.clone()}


def small_extractors() -> Extractors:
    """In place of the offline tier's networks."""
    kinds = {"yamnet": "audio", "effnet_lite0": "video", "transnetv2": "video"}
    return Extractors(Path("nowhere"), given={name: SmallNetwork(name, kind) for name, kind in kinds.items()})
