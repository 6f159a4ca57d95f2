"""Device and precision of frozen networks, and batches of fixed shape."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from uniform.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions of codecs. float16 is excluded, since these networks overflow in it."""

RowsFunction = Callable[[Tensor], Tensor]
"""Maps (N, ...) to (N, ...), each row independently."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises: ConfigError for a name unknown to torch or an unavailable device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ConfigError(f"device is '{name}'; wanted auto, cpu, cuda, cuda:N or mps") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ConfigError(f"device is '{name}', but torch finds no CUDA device. Choose auto or cpu.")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """The precision called `name`. Raises ConfigError for any that is not in `DTYPES`."""
    if name not in DTYPES:
        raise ConfigError(f"dtype is '{name}'; known: {', '.join(DTYPES)}")
    return DTYPES[name]


@contextlib.contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """Context without gradients, with arithmetic in `dtype`.

    bfloat16 applies to convolutions and matrix products; norms and softmax stay in float32. For float32, TF32 is
    switched off, which cuDNN uses for convolutions by default.
    """
    with torch.no_grad(), contextlib.ExitStack() as stack:
        if dtype == torch.float32:
            tf32_off = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(tf32_off)
        else:
            stack.enter_context(torch.autocast(device.type, dtype=dtype))
        yield


def in_fixed_batches(run: RowsFunction, rows: Tensor, size: int) -> Tensor:
    """Apply `run` to `rows` in batches of exactly `size`; the last one is padded with zeros and cut again.

    Kernels are chosen by shape: with one shape, the result of a row does not depend on the number of rows.

    Args:
        run: always gets `size` rows.
        rows: (N, ...), N >= 1.
    Returns: (N, ...).
    """
    parts = []
    for batch in torch.split(rows, size):
        if len(batch) == size:
            parts.append(run(batch))
        else:
            filler = batch.new_zeros(size - len(batch), *batch.shape[1:])
            parts.append(run(torch.cat([batch, filler]))[: len(batch)])
    return torch.cat(parts)
