"""Shared by the backends on transformers: left padding, greedy decoding, and answers from tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from uniform.captioning.base import Answer, Decoding


def left_padded(rows: Sequence[Sequence[int]], pad_id: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Token ids and mask, both (rows, longest), so that generation continues at the end of every row."""
    width = max(map(len, rows))
    ids = torch.tensor([[pad_id] * (width - len(row)) + list(row) for row in rows])
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows])
    return ids.to(device), mask.to(device)


def library_decoding(decoding: Decoding, tokenizer: Any, pad_id: int) -> Any:
    """`decoding` as a GenerationConfig of transformers; the checkpoint's own generation file is ignored."""
    from transformers import GenerationConfig

    return GenerationConfig(  # type: ignore[no-untyped-call]
        do_sample=False,
        num_beams=1,
        max_new_tokens=decoding.max_new_tokens,
        min_length=1,
        repetition_penalty=decoding.repetition_penalty,
        no_repeat_ngram_size=decoding.no_repeat_tokens or 0,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=tokenizer.bos_token_id,
        pad_token_id=pad_id,
    )


def decoded(tokenizer: Any, new: Tensor) -> list[Answer]:
    """Answers from new tokens, (rows, longest): a row ends at its end token, or was cut."""
    answers = []
    for row in new.tolist():
        ended = tokenizer.eos_token_id in row
        tokens = row[: row.index(tokenizer.eos_token_id)] if ended else row
        text = tokenizer.decode(tokens, skip_special_tokens=True)
        answers.append(Answer(text.strip(), "stop" if ended else "length", len(tokens)))
    return answers
