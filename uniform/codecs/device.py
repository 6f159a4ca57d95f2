"""Where a frozen network runs and with which numbers, and how batches keep one shape."""

import contextlib
from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from uniform.errors import ConfigError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
"""Precisions that a codec may be opened with. float16 is not among them: these networks overflow in it."""

RowsFunction = Callable[[Tensor], Tensor]
"""Maps (N, ...) to (N, ...), each row on its own."""


def pick_device(name: str = "auto") -> torch.device:
    """The device called `name`; "auto" is CUDA, else Apple's MPS, else the CPU.

    Raises: ConfigError for a name that torch does not know or a device that is not there.
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
        raise ConfigError(f"device is '{name}', but torch sees no CUDA device here. Choose auto or cpu.")
    return device


def pick_dtype(name: str) -> torch.dtype:
    """The precision called `name`. Raises ConfigError for any that is not in `DTYPES`."""
    if name not in DTYPES:
        raise ConfigError(f"dtype is '{name}'; known: {', '.join(DTYPES)}")
    return DTYPES[name]


@contextlib.contextmanager
def precision(device: torch.device, dtype: torch.dtype) -> Iterator[None]:
    """No gradients, and the arithmetic that `dtype` promises.

    bfloat16 runs convolutions and matrix products in bfloat16 and leaves norms and softmax in float32; float32 means
    float32: cuDNN would otherwise round convolutions to TF32 without asking.
    """
    with torch.no_grad(), contextlib.ExitStack() as stack:
        if dtype == torch.float32:
            tf32_off = torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False)
            stack.enter_context(tf32_off)
        else:
            stack.enter_context(torch.autocast(device.type, dtype=dtype))
        yield


def in_fixed_batches(run: RowsFunction, rows: Tensor, size: int) -> Tensor:
    """`run` over the rows of `rows` in batches of exactly `size`, the last one filled up with zeros and cut again.

    Kernels are chosen by shape: with one shape for all, a row's numbers do not depend on how many rows there are.

    Args:
        run: is only ever given `size` rows.
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
