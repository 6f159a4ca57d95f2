"""Distributes one model over processes: a copy in each (DDP) or shards (FSDP2)."""

from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.nn.parallel import DistributedDataParallel

from uniform.model.transformer import UniForm
from uniform.training.parallel.processes import Processes


def shard(model: UniForm, parallel: Literal["ddp", "fsdp"], processes: Processes) -> nn.Module:
    """The module to call instead of `model`; its gradients are averaged over the processes.

    FSDP2 shards `model` in place: its parameters, and whatever is made like them, become DTensors.
    """
    if processes.count == 1:
        return model
    if parallel == "ddp":
        devices = [processes.device] if processes.device.type == "cuda" else None
        return DistributedDataParallel(model, device_ids=devices, broadcast_buffers=False)
    mesh = init_device_mesh(processes.device.type, (processes.count,))
    policy = MixedPrecisionPolicy()  # parameters stay float32; autocast chooses what is computed in bf16
    for block in model.blocks:
        fully_shard(block, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)
    return model


def without_sync(model: nn.Module, last: bool) -> AbstractContextManager[Any]:
    """Around the micro-batches before the last one: their gradients are summed here and averaged once."""
    if isinstance(model, DistributedDataParallel) and not last:
        return model.no_sync()
    return nullcontext()


def gather(tensors: Mapping[str, Tensor], copies: dict[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, shards gathered. All processes must call it together.

    Args:
        copies: results of earlier calls for the same tensors, empty at first. They are overwritten and returned: on a
            CPU, allocating takes four times as long as copying.
    """
    for name, tensor in tensors.items():
        full = _full(tensor).detach()
        if name in copies:
            copies[name].copy_(full)
        else:
            copies[name] = full.to("cpu", copy=True)
    return {name: copies[name] for name in tensors}


def distribute_like(value: Tensor, target: Tensor) -> Tensor:
    """A gathered tensor `value` on the device of `target`, sharded as it is."""
    if isinstance(target, DTensor):
        return distribute_tensor(value.to(target.device), target.device_mesh, target.placements)
    return value.to(target.device)


def to_local(value: Tensor) -> Tensor:
    """A result that may be sharded over processes, as a local tensor."""
    return _full(value)


def _full(tensor: Tensor) -> Tensor:
    if isinstance(tensor, DTensor):
        full: Tensor = tensor.full_tensor()
        return full
    return tensor
