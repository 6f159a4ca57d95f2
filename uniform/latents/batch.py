"""A batch of clips as the trainer gets it. B clips, M tokens, D numbers per token."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from uniform.latents.draws import Positions
from uniform.pair import Pair

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Batch:
    """What one process trains on at once; all tensors on the loader's device."""

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
    """Data set of each clip, for statistics."""

    def __len__(self) -> int:
        return len(self.clip_ids)

    def hold(self) -> None:
        """Keep the memory from being used again before the current CUDA stream has finished with it."""
        for tensor in (*self.clean, self.text, self.text_mask, self.has_text):
            tensor.record_stream(torch.cuda.current_stream(tensor.device))


def pad_texts(texts: Sequence[Tensor], tokens: int | None) -> tuple[Tensor, Tensor]:
    """Texts of different lengths as one tensor.

    Args:
        texts: B tensors (tokens, D), each with one token at least.
        tokens: M; longer texts are cut to it with a warning. None is the longest text.
    Returns: (B, M, D), zero behind each text's end, in the texts' dtype; bool (B, M), True where there is a token.
    """
    longest = max(len(text) for text in texts)
    length = tokens or longest
    if longest > length:
        logger.warning("a text of %d tokens is cut to data.pad_text_to = %d", longest, length)
    packed = texts[0].new_zeros((len(texts), length, texts[0].shape[-1]))
    mask = torch.zeros((len(texts), length), dtype=torch.bool)
    for row, text in enumerate(texts):
        packed[row, : len(text)] = text[:length]
        mask[row, : len(text)] = True
    return packed, mask
