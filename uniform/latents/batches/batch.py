"""A batch of clips, the input of a training step. B clips, M tokens, D channels."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from uniform.latents.batches.random_streams import Positions
from uniform.pair import Pair

Text = npt.NDArray[Any] | Tensor
"""float16 (tokens, D): an array in memory, which may be a view of a shard, or a tensor on an accelerator."""


@dataclass(frozen=True)
class Batch:
    """One micro-batch of a process; all tensors on the loader's device."""

    clean: Pair
    """float32, normalised by the codecs' shift and scale."""
    text: Tensor
    """float32 (B, M, D), zero where there is no token."""
    text_mask: Tensor
    """bool (B, M), True where there is a token; each row has one at least."""
    has_text: Tensor
    """bool (B,), False where the clip has no text: train it with the null caption."""
    clip_ids: list[str]
    positions: Positions
    """int64 (B,), global sample numbers: step * global_batch + slot."""
    datasets: list[str]
    """Dataset of each clip, for statistics."""
    caption_sets: list[str]
    """Caption set that each text is of; empty where the clip has no text."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def hold(self) -> None:
        """Keep the tensors' memory until the current CUDA stream has finished with it."""
        for tensor in (*self.clean, self.text, self.text_mask, self.has_text):
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def pad_texts(texts: Sequence[Text], tokens: int | None) -> tuple[Tensor, Tensor]:
    """Texts of different lengths as one tensor.

    Args:
        texts: B of (tokens, D), each with one token at least; all arrays, or all tensors.
        tokens: M; longer texts are cut to it. None is the longest text.
    Returns: (B, M, D), zero behind each text's end, in the texts' dtype; bool (B, M), True where there is a token.
    """
    length = tokens or max(len(text) for text in texts)
    lengths = torch.tensor([len(text) for text in texts])
    mask = torch.arange(length) < lengths[:, None]
    shape = (len(texts), length, texts[0].shape[-1])
    packed: Any = texts[0].new_zeros(shape) if isinstance(texts[0], Tensor) else np.zeros(shape, texts[0].dtype)
    for row, text in enumerate(texts):
        packed[row, : text.shape[0]] = text[:length]
    return packed if isinstance(packed, Tensor) else torch.from_numpy(packed), mask
