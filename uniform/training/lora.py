"""Low-rank adapters for fine-tuning: few parameters are trained, and every checkpoint holds merged weights.

    W' = W + alpha / rank * B A,     A (rank, in), B (out, rank), B = 0 at the start

Source: Hu et al. (arXiv:2106.09685). `model.safetensors` and `ema.safetensors` of a checkpoint are the merged network,
which the sampler opens as any other; `adapters.safetensors` holds A and B, from which a run goes on. The adapter sits
on the weight, not around the layer as peft's does: attention reads parts of its weight, and would pass a wrapper by.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrize import register_parametrization

from uniform.config import nearest
from uniform.errors import ConfigError
from uniform.model.transformer import UniForm

_INSIDE = ".parametrizations.weight."
"""PyTorch's name of a weight's parametrisation."""


@dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Adapters on the linear maps of the blocks; all other weights stay those of `init`."""

    rank: int | None = None
    """None trains the whole network, without adapters."""
    alpha: int = 16
    targets: tuple[str, ...] = ("qkv", "proj", "q_linear", "kv_linear", "fc1", "fc2")
    """Names of the linear maps in a block that get an adapter."""

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 1:
            raise ConfigError(f"lora.rank is {self.rank}; it must be 1 or more")
        if self.alpha < 1:
            raise ConfigError(f"lora.alpha is {self.alpha}; it must be 1 or more")
        if not self.targets:
            raise ConfigError("lora.targets is empty; name one linear map at least, for instance qkv")


class LowRank(nn.Module):
    """Parametrisation of a weight: the weight plus its adapter."""

    def __init__(self, weight: Tensor, config: LoraConfig, generator: torch.Generator) -> None:
        super().__init__()
        rank = config.rank or 0
        self.scale = config.alpha / max(rank, 1)
        self.down = nn.Parameter(torch.randn(rank, weight.shape[1], generator=generator) * weight.shape[1] ** -0.5)
        self.up = nn.Parameter(torch.zeros(weight.shape[0], rank))

    def forward(self, weight: Tensor) -> Tensor:  # (out, in)
        return weight + self.scale * (self.up @ self.down)


def add_adapters(model: UniForm, config: LoraConfig, seed: int) -> None:
    """Freeze the network and put an adapter on each target in its blocks; the output does not change.

    Raises: ConfigError where a target is no linear map of a block.
    """
    if config.rank is None:
        return
    known = {name.rsplit(".", 1)[-1] for name, part in model.blocks[0].named_modules() if isinstance(part, nn.Linear)}
    for target in config.targets:
        if target not in known:
            raise ConfigError(f"lora.targets: a block has no linear map '{target}'{nearest(target, known)}")
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for block in model.blocks:
        for name, part in list(block.named_modules()):
            if isinstance(part, nn.Linear) and name.rsplit(".", 1)[-1] in config.targets:
                register_parametrization(part, "weight", LowRank(part.weight, config, generator))


def merged(state: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """A state dict with adapters as the state dict of the network without them. Tensors are gathered, on one device."""
    if config.rank is None:
        return dict(state)
    scale = config.alpha / config.rank
    found: dict[str, Tensor] = {}
    for name, tensor in state.items():
        module, inside, part = name.partition(_INSIDE)
        if not inside:
            found[name] = tensor
        elif part == "original":
            up, down = state[f"{module}{_INSIDE}0.up"], state[f"{module}{_INSIDE}0.down"]
            found[f"{module}.weight"] = tensor + scale * (up @ down)
    return found


def weights_digest(model: UniForm) -> str:
    """16 hex digits of the network's weights: adapters resume only with the weights that they were trained on."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:16]
