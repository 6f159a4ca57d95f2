"""The processes of a run: one, or many started by torchrun or Ray Train."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor

from uniform.errors import TrainingError
from uniform.training.settings.config import ComputeConfig


@dataclass(frozen=True)
class Processes:
    """Rank of this process."""

    rank: int
    count: int
    device: torch.device
    control: Any = None
    """A gloo group for small CPU messages; None in a run of one process."""

    @property
    def first(self) -> bool:
        """True in the process that writes files."""
        return self.rank == 0

    def sum(self, tensor: Tensor) -> Tensor:
        """The element-wise sum over all processes; `tensor` itself is changed and returned."""
        if self.count > 1:
            dist.all_reduce(tensor)
        return tensor

    def any(self, flag: bool) -> bool:
        """True in all processes if `flag` is true in one."""
        if self.count == 1:
            return flag
        value = torch.tensor(int(flag))
        dist.all_reduce(value, op=dist.ReduceOp.MAX, group=self.control)
        return bool(value.item())

    def gather(self, value: Any) -> list[Any]:
        """`value` of every process, in the order of ranks, in every process. Sent as JSON; nothing is pickled."""
        if self.count == 1:
            return [value]
        text = torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)
        lengths = [torch.zeros(1, dtype=torch.long) for _ in range(self.count)]
        dist.all_gather(lengths, torch.tensor([len(text)]), group=self.control)
        longest = max(int(length) for length in lengths)
        texts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.count)]
        dist.all_gather(texts, torch.nn.functional.pad(text, (0, longest - len(text))), group=self.control)
        return [json.loads(bytes(part[: int(length)].tolist())) for part, length in zip(texts, lengths, strict=True)]

    def wait(self) -> None:
        """Return when all processes have called this."""
        if self.count > 1:
            dist.barrier(group=self.control)


@contextmanager
def join_processes(config: ComputeConfig) -> Iterator[Processes]:
    """Join the other processes (torchrun's environment, or an existing group), and leave the group at the end.

    Raises: TrainingError where the wanted device is not there.
    """
    rank, count = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = _device(config, int(os.environ.get("LOCAL_RANK", "0")))
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if count == 1:
        yield Processes(0, 1, device)
        return
    if not dist.is_initialized():  # Ray Train has initialised it
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    control = dist.new_group(backend="gloo")
    try:
        yield Processes(rank, count, device, control)
    finally:
        dist.destroy_process_group()


def _device(config: ComputeConfig, local_rank: int) -> torch.device:
    if config.device == "cpu" or (config.device == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise TrainingError(
            'compute.device is "cuda", but PyTorch sees no CUDA device. Set compute.device="cpu", '
            "or install a PyTorch that fits this machine's driver: uniform doctor"
        )
    if local_rank >= torch.cuda.device_count():
        raise TrainingError(
            f"process {local_rank} of this machine has no GPU of its own: there are {torch.cuda.device_count()}. "
            f"Start torchrun with --nproc-per-node {torch.cuda.device_count()} or less."
        )
    device = torch.device("cuda", local_rank)
    torch.cuda.set_device(device)
    return device
