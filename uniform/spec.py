"""Clip geometry: one dataclass derives every length from the frame rate, the sample rate and the strides.

A clip is `duration_s` seconds of video at `fps` and mono audio at `rate_hz`. The frozen codecs encode it to two
latents. Video is encoded in chunks of `chunk_frames`: the first frame of a chunk becomes one latent frame, every
further four become one (Open-Sora VAE 1.2). Audio becomes a log-mel spectrogram of `mel_bins` bins, one column each
`hop_samples`, and shrinks by four on both axes (AudioLDM).

    paper: (68, 256, 256) frames -> (4, 20, 32, 32);  64,000 samples -> (400, 64) mel -> (8, 100, 16)
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

from uniform.errors import ConfigError

AUDIO_STRIDE = 4
"""Mel frames and mel bins per audio latent, on both axes."""
FRAMES_PER_LATENT = 4
"""Frames per latent frame, after the first frame of a chunk."""
VIDEO_STRIDE_PX = 8
"""Pixels per latent pixel, on both axes."""


@dataclass(frozen=True, kw_only=True)
class Spec:
    """Geometry of a clip and its latents. Shards of specs that differ in any number cannot be mixed."""

    name: str
    fps: int = 17
    """Frames per second; equal to `chunk_frames`, so that a second is one chunk."""
    height_px: int = 256
    width_px: int = 256
    rate_hz: int = 16_000
    """Audio samples per second, mono."""
    duration_s: int = 4
    """Seconds of each clip, from its start."""
    chunk_frames: int = 17
    """Frames that the video codec encodes together; chunks are independent."""
    mel_bins: int = 64
    hop_samples: int = 160
    """Audio samples per mel frame (a hop, not a rate)."""
    video_channels: int = 4
    audio_channels: int = 8

    def __post_init__(self) -> None:
        for field, value in asdict(self).items():
            if field != "name" and (not isinstance(value, int) or value < 1):
                raise ConfigError(f"spec '{self.name}': {field} is {value!r}; it must be a whole number, 1 or more")
        for field in ("height_px", "width_px"):
            self._must_divide(field, getattr(self, field), VIDEO_STRIDE_PX)
        self._must_divide("mel_bins", self.mel_bins, AUDIO_STRIDE)
        self._must_divide("rate_hz * duration_s", self.samples, self.hop_samples * AUDIO_STRIDE)

    def _must_divide(self, field: str, value: int, by: int) -> None:
        if value % by:
            below, above = value - value % by, value - value % by + by
            raise ConfigError(
                f"spec '{self.name}': {field} is {value}, which {by} does not divide; choose {below} or {above}"
            )

    @property
    def frames(self) -> int:
        """Frames of a clip."""
        return self.fps * self.duration_s

    @property
    def samples(self) -> int:
        """Audio samples of a clip."""
        return self.rate_hz * self.duration_s

    @property
    def duration_ms(self) -> int:
        """Length of a clip in milliseconds."""
        return 1000 * self.duration_s

    @property
    def mel_frames(self) -> int:
        """Mel frames of a clip."""
        return self.samples // self.hop_samples

    @property
    def latent_frames(self) -> int:
        """Latent frames of a clip."""
        return latent_frames(self.frames, self.chunk_frames)

    @property
    def video_latent(self) -> tuple[int, int, int, int]:
        """Shape of a clip's video latent: (channels, latent frames, rows, columns)."""
        rows, columns = self.height_px // VIDEO_STRIDE_PX, self.width_px // VIDEO_STRIDE_PX
        return self.video_channels, self.latent_frames, rows, columns

    @property
    def audio_latent(self) -> tuple[int, int, int]:
        """Shape of a clip's audio latent: (channels, time, frequency)."""
        return self.audio_channels, self.mel_frames // AUDIO_STRIDE, self.mel_bins // AUDIO_STRIDE

    def as_dict(self) -> dict[str, Any]:
        """All fields, for a card, a checkpoint or a fingerprint."""
        return asdict(self)


def long_spec(spec: Spec, windows: int) -> Spec:
    """Geometry of a longer clip that holds `windows` clips of `spec`, one starting at each whole second.

    Raises: ConfigError for less than one window, or where windows do not start at the start of a chunk.
    """
    if windows < 1:
        raise ConfigError(f"windows is {windows}; it must be 1 or more")
    if windows > 1 and spec.fps % spec.chunk_frames:
        raise ConfigError(
            f"spec '{spec.name}': a second has {spec.fps} frames, which are not whole chunks of {spec.chunk_frames}; "
            f"so a window that starts at a second cannot be cut out of a longer latent. Set windows = 1."
        )
    return replace(spec, duration_s=spec.duration_s + windows - 1)


def latent_frames(frames: int, chunk_frames: int = 17) -> int:
    """Latent frames of `frames` frames encoded in chunks: a chunk of n gives ceil(n / 4)."""
    whole, rest = divmod(frames, chunk_frames)
    return whole * -(-chunk_frames // FRAMES_PER_LATENT) + -(-rest // FRAMES_PER_LATENT)


PAPER = Spec(name="paper")
"""Paper, 4.1: 17 fps, 256 x 256, 16 kHz, the first 4 s."""

TOY = Spec(name="toy", height_px=64, width_px=64, duration_s=2, mel_bins=16)
"""Small enough to train on two CPU cores; frame rate, sample rate and strides of the paper's spec."""

SPECS: dict[str, Spec] = {spec.name: spec for spec in (PAPER, TOY)}


def spec_by_name(name: str) -> Spec:
    """The built-in spec called `name`.

    Raises: ConfigError that lists the known names.
    """
    if name not in SPECS:
        raise ConfigError(f"there is no spec '{name}'; known: {', '.join(sorted(SPECS))}")
    return SPECS[name]
