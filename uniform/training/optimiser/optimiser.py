"""AdamW as HybridAdam computes it, Muon as an option, the learning-rate schedule, and states that are kept on the CPU.

HybridAdam is Adam's arithmetic with decoupled decay in float32; "hybrid" is only where the states live. So on one
device torch's fused AdamW is the same update, and `offload` keeps the master copy and both moments in the CPU's memory.

Muon is for the matrices inside the blocks; what enters and leaves the network, vectors and tables stay with AdamW.
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from uniform.training.optimiser.muon import Muon
from uniform.training.settings.config import OptimiserConfig

State = dict[str, dict[str, Tensor]]
"""By parameter name: "exp_avg", "exp_avg_sq" and "step" of AdamW, "momentum_buffer" of Muon."""


def learning_rate(config: OptimiserConfig, step: int, steps: int) -> float:
    """The rate of the update that follows `step` finished steps, in a run of `steps`.

    Warm-up is learning_rate * (step + 1) / (warmup_steps + 1), as Open-Sora's LinearWarmupLR.
    """
    if step < config.warmup_steps:
        return config.learning_rate * (step + 1) / (config.warmup_steps + 1)
    if config.schedule == "constant":
        return config.learning_rate
    progress = min(1.0, (step - config.warmup_steps) / max(1, steps - config.warmup_steps))
    share = config.final_share + (1 - config.final_share) * 0.5 * (1 + math.cos(math.pi * progress))
    return config.learning_rate * share


class Optimiser:
    """AdamW, or Muon and AdamW, over a model's float32 parameters. Decay touches matrices only."""

    def __init__(self, model: nn.Module, config: OptimiserConfig) -> None:
        self.config = config
        self.named = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.masters = {name: _master(p) for name, p in self.named.items()} if config.offload else self.named
        inner = {name for name, p in self.masters.items() if config.kind == "muon" and _is_inner_matrix(name, p)}
        outer = [p for name, p in self.masters.items() if name not in inner]
        matrices, others = [p for p in outer if p.dim() >= 2], [p for p in outer if p.dim() < 2]
        groups = [{"params": matrices, "weight_decay": config.weight_decay}, {"params": others, "weight_decay": 0.0}]
        adam = torch.optim.AdamW(
            [group for group in groups if group["params"]],
            lr=config.learning_rate,
            betas=(config.betas[0], config.betas[1]),
            eps=config.epsilon,
            fused=True,
        )
        self.parts: list[tuple[torch.optim.Optimizer, float]] = [(adam, 1.0)]
        """Each with its learning rate in learning rates of AdamW."""
        if inner:
            matrices = [self.masters[name] for name in sorted(inner)]
            muon = Muon(matrices, lr=config.muon_rate, weight_decay=config.weight_decay)
            self.parts.append((muon, config.muon_rate / config.learning_rate))

    def update(self, rate: float) -> None:
        """One step with learning rate `rate` from the gradients of the model's parameters, which are then dropped."""
        for part, share in self.parts:
            for group in part.param_groups:
                group["lr"] = rate * share
        if self.config.offload:
            for name, parameter in self.named.items():
                if parameter.grad is not None:
                    self.masters[name].grad = parameter.grad.to("cpu", torch.float32)
        for part, _ in self.parts:
            part.step()
        if self.config.offload:
            with torch.no_grad():
                for name, parameter in self.named.items():
                    parameter.copy_(self.masters[name])
        self.drop_gradients()

    def drop_gradients(self) -> None:
        """Drop all gradients."""
        for part, _ in self.parts:
            part.zero_grad(set_to_none=True)
        for parameter in self.named.values():
            parameter.grad = None

    def state(self) -> State:
        """The moments by parameter name; empty before the first step. The tensors are the optimiser's own."""
        return {
            name: dict(part.state[p]) for part, _ in self.parts for name, p in self.masters.items() if p in part.state
        }

    def load_state(self, state: State) -> None:
        """Load moments that `state` returned. Tensors are copied to where the parameter lives."""
        owners = {p: part for part, _ in self.parts for group in part.param_groups for p in group["params"]}
        for name, moments in state.items():
            parameter = self.masters[name]
            owners[parameter].state[parameter] = {
                key: value.clone() if key == "step" else value.to(parameter.device).clone()
                for key, value in moments.items()
            }
        if self.config.offload:
            with torch.no_grad():
                for name, parameter in self.named.items():
                    self.masters[name].copy_(parameter)


def clip_gradients(parameters: Iterable[Tensor], norm: float) -> Tensor:
    """Scale all gradients down together so that their norm is at most `norm`. Returns: the norm before."""
    return nn.utils.clip_grad_norm_(list(parameters), norm)


def _is_inner_matrix(name: str, parameter: Tensor) -> bool:
    """Whether it is the weight of a linear map in a block; tables, norms and adapters are not."""
    return parameter.dim() == 2 and name.split(".")[0].endswith("_blocks") and name.endswith(".weight")


def _master(parameter: Tensor) -> nn.Parameter:
    return nn.Parameter(parameter.detach().to("cpu", torch.float32, copy=True))
