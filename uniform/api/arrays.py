"""The named arrays of latents that `LatentDataset` and `LatentStream` give."""

from math import prod
from typing import Any, Literal, NamedTuple, TypedDict

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import get_worker_info

from uniform.errors import ShardError
from uniform.latents.format import Card
from uniform.spec import Spec

ALIGNMENT = 64
"""Bytes at whose multiples the arrays of a batch begin."""
FREE, TAKEN = 0, 1
MAX_BUFFERS = 8
"""Buffers that a worker uses again; torch prefetches two batches for each worker unless it is asked for more."""


class Clip(TypedDict):
    """One clip of a dataset of latents. C channels, M tokens, D dimensions of a token."""

    video: npt.NDArray[np.float32]
    """(C, T', H', W'), normalised; float16 and raw with normalise=False."""
    audio: npt.NDArray[np.float32]
    """(C, time, frequency), as the video."""
    text: npt.NDArray[np.float32]
    """(M, D), zero behind the last token."""
    text_mask: npt.NDArray[np.bool_]
    """(M,), True where there is a token; all False for a clip without text."""
    clip_id: str


class Clips(TypedDict):
    """Some clips of a dataset, tensors with a first axis of B clips; see `Clip`."""

    video: Tensor
    audio: Tensor
    text: Tensor
    text_mask: Tensor
    clip_id: list[str]


class Packed:
    """Some clips as they are stored, float16, in one buffer; `clips` makes float32 tensors of them.

    A worker of a DataLoader sends it as it is, and it becomes `Clips` where it arrives: half the bytes of float32, in
    shared memory that the worker uses again (`SharedBuffers`).
    """

    def __init__(
        self, buffer: Tensor, layout: "tuple[Field, ...]", clip_ids: list[str], scales: "dict[str, Scale] | None"
    ) -> None:
        self.buffer, self.layout, self.clip_ids, self.scales = buffer, layout, clip_ids, scales
        self.arrays = {
            name: buffer[at : at + _bytes(shape, kind)].view(kind).view(shape) for name, shape, kind, at in layout
        }
        """video, audio and text: float16; text_mask: bool."""
        self._sent = False

    @classmethod
    def empty(
        cls, shapes: dict[str, tuple[int, ...]], clip_ids: list[str], scales: "dict[str, Scale] | None"
    ) -> "Packed":
        """Clips whose latents hold anything and whose text is zero, with arrays of these shapes."""
        layout, at = [], ALIGNMENT  # the first byte says whether a shared buffer is in use
        for name, shape in shapes.items():
            kind = torch.bool if name == "text_mask" else torch.float16
            layout.append(Field(name, shape, kind, at))
            at += -(-_bytes(shape, kind) // ALIGNMENT) * ALIGNMENT
        in_worker = get_worker_info() is not None
        packed = cls(
            _BUFFERS.take(at) if in_worker else torch.empty(at, dtype=torch.uint8), tuple(layout), clip_ids, scales
        )
        packed.arrays["text"].zero_()
        packed.arrays["text_mask"].zero_()
        return packed

    def clips(self) -> Clips:
        """The clips as the network reads them, in memory of their own: normalised where there are scales."""
        video, audio, text, mask = (self.arrays[name] for name in ("video", "audio", "text", "text_mask"))
        if self.scales is None:
            video, audio = video.clone(), audio.clone()
        else:
            video, audio = self.scales["video"].normalise(video), self.scales["audio"].normalise(audio)
        return Clips(video=video, audio=audio, text=text.float(), text_mask=mask.clone(), clip_id=self.clip_ids)

    def __reduce__(self) -> tuple[Any, ...]:
        self._sent = True
        scales: Any = None  # as arrays: torch would send a file handle for each small tensor
        if self.scales is not None:
            scales = {name: (each.shift.numpy(), each.scale.numpy()) for name, each in self.scales.items()}
        return _arrived, (self.buffer, tuple(map(tuple, self.layout)), self.clip_ids, scales)

    def __del__(self) -> None:
        if not self._sent:
            self.buffer[0] = FREE


def _arrived(buffer: Tensor, layout: Any, clip_ids: list[str], scales: Any) -> Clips:
    """What a worker sent, in the process that asked for it; the worker may use its buffer again."""
    own = scales and {name: Scale(*map(torch.from_numpy, each)) for name, each in scales.items()}
    return Packed(buffer, tuple(Field(*field) for field in layout), clip_ids, own).clips()


class SharedBuffers:
    """Buffers in shared memory that a worker process fills in turn: new pages cost ten times as much as the copy.

    The first byte of a buffer is set when it is taken, and reset by whoever has read it, in whatever process.
    """

    def __init__(self) -> None:
        self._buffers: list[Tensor] = []

    def take(self, size: int) -> Tensor:
        """A buffer of `size` bytes or more that nobody reads."""
        free = [buffer for buffer in self._buffers if int(buffer[0]) == FREE]
        for buffer in free:
            if len(buffer) >= size:
                buffer[0] = TAKEN
                return buffer
        storage = torch.UntypedStorage._new_shared(size, device="cpu")  # type: ignore[no-untyped-call]
        buffer = torch.empty(0, dtype=torch.uint8).set_(storage)
        buffer[0] = TAKEN
        if free:  # too small for the batches of now
            self._buffers = [other for other in self._buffers if other is not free[0]]
        if len(self._buffers) < MAX_BUFFERS:
            self._buffers.append(buffer)
        return buffer


_BUFFERS = SharedBuffers()
"""Of this process; empty until a worker takes one."""


class Field(NamedTuple):
    """Where one array of a batch lies in its buffer."""

    name: str
    shape: tuple[int, ...]
    kind: torch.dtype
    offset: int
    """In bytes."""


class Scale(NamedTuple):
    """Shift and scale of one modality's latents, float32, shaped to broadcast over (C, ...)."""

    shift: Tensor
    scale: Tensor

    def normalise(self, raw: Tensor) -> Tensor:
        """Normalised latents, float32: (raw - shift) / scale, of raw ones (..., C, and the modality's axes)."""
        return torch.sub(raw, self.shift).div_(self.scale)


def scale_of(card: Card, spec: Spec, modality: Literal["video", "audio"]) -> Scale:
    """The normalisation that a card names. Raises: ShardError where it has another number of channels."""
    codec = card.video if modality == "video" else card.audio
    channels, *rest = spec.video_latent if modality == "video" else spec.audio_latent
    parts = []
    for name in ("shift", "scale"):
        if len(codec[name]) != channels:
            raise ShardError(
                f"card.json gives {len(codec[name])} numbers as {name} of the {modality} codec, its latents have "
                f"{channels} channels. Make the shards again."
            )
        parts.append(torch.tensor(codec[name], dtype=torch.float32).reshape(channels, *[1] * len(rest)))
    return Scale(*parts)


def _bytes(shape: tuple[int, ...], kind: torch.dtype) -> int:
    return prod(shape) * kind.itemsize
