"""Windows of long clips: which part of a clip's array is the latent of window k, the one that begins at second k.

Both modalities are cut alike: seen as (channels, steps, the rest), a window is a slice of the steps. A second of video
is encoded on its own, so windows share its latent frames; sound is encoded window by window, one behind the other.
C channels, N windows.
"""

from dataclasses import dataclass
from math import prod

from uniform.latents.format import AUDIO_MEMBER, VIDEO_MEMBER, latent_shapes
from uniform.spec import Spec, latent_frames


@dataclass(frozen=True)
class Cut:
    """How windows lie in an array of shape `whole`."""

    whole: tuple[int, ...]
    """Video: (C, latent frames of all seconds, rows, columns). Audio: (C, N, time, frequency), or as `window`."""
    window: tuple[int, ...]
    """Shape of one window, as the model wants it."""
    stride: int
    """Steps from one window to the next."""

    @property
    def single(self) -> bool:
        """True where the array is one window."""
        return prod(self.whole) == prod(self.window)

    @property
    def flat(self) -> tuple[int, int, int]:
        """(C, steps, the rest): the shape in which windows are slices of the second axis."""
        channels, rest = self.whole[0], prod(self.window[2:])
        return channels, prod(self.whole) // (channels * rest), rest

    def steps(self, window: int) -> slice:
        """Steps of one window."""
        return slice(window * self.stride, window * self.stride + self.window[1])


def cuts(spec: Spec, windows: int) -> dict[str, Cut]:
    """How the windows lie in the "video" and in the "audio" of a clip."""
    whole = latent_shapes(spec, windows)
    second = latent_frames(spec.fps, spec.chunk_frames)
    return {
        "video": Cut(whole[VIDEO_MEMBER], spec.video_latent, second),
        "audio": Cut(whole[AUDIO_MEMBER], spec.audio_latent, spec.audio_latent[1]),
    }
