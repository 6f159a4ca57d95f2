"""What a worker of each stage asks of Ray: resource classes, with accelerators wherever the cluster has any."""

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

from pipelines.recipe import StageStep
from pipelines.stage import Resources, Stage

LIGHT_MEMORY_GB = 2.0
"""Stages beyond it get workers of their own, so that no process holds two large models."""


@dataclass(frozen=True, kw_only=True)
class ResourceClass:
    """Workers that are alike, and the stages that they do."""

    stages: tuple[str, ...]
    cpus: float
    gpus: float = 0.0
    memory_bytes: float = 0.0
    """Reserved for each worker; 0 reserves none."""
    waits: bool = False

    @property
    def options(self) -> dict[str, Any]:
        """For Ray."""
        found: dict[str, Any] = {"num_cpus": self.cpus}
        if self.gpus:
            found["num_gpus"] = self.gpus
        if self.memory_bytes:
            found["memory"] = self.memory_bytes
        return found

    def fits(self, resources: Mapping[str, float]) -> bool:
        """Whether a node with these resources (Ray's names) can hold one worker."""
        wanted = {"CPU": self.cpus, "GPU": self.gpus, "memory": self.memory_bytes}
        return all(resources.get(name, 0.0) >= amount for name, amount in wanted.items() if amount)

    def __str__(self) -> str:
        parts = [f"{self.cpus:g} cores"]
        parts += [f"{self.gpus:g} accelerators"] if self.gpus else []
        parts += [f"{self.memory_bytes / 2**30:.1f} GB"] if self.memory_bytes else []
        return ", ".join(parts)


def placed_resources(stage: Stage, *, accelerators: bool) -> Resources:
    """What one worker of a stage takes.

    A stage with the options `device` and `gpus` that leaves both open ("auto", 0) gets one accelerator for each worker
    where there are any, and works on the CPU where there are none.
    """
    if getattr(stage, "device", None) == "auto" and getattr(stage, "gpus", None) == 0 and accelerators:
        # The resources of a stage depend on its option `gpus`; the stage that runs is the one of the recipe.
        return cast(Stage, dataclasses.replace(cast(Any, stage), gpus=1.0)).resources
    return stage.resources


def resource_classes(steps: Sequence[StageStep], *, accelerators: bool, with_memory: bool) -> tuple[ResourceClass, ...]:
    """The classes of a recipe, the one with the last stage first.

    Each accelerator stage, each stage that waits for other machines and each heavy stage has workers of its own; the
    others share workers of one core, so that few processes start.
    """
    shared: list[StageStep] = []
    classes: list[ResourceClass] = []
    for step in steps:
        wanted = placed_resources(step.stage, accelerators=accelerators)
        if wanted.gpus or wanted.waits or wanted.cpus > 1.0 or wanted.memory_gb > LIGHT_MEMORY_GB:
            classes.append(_own(step, wanted, with_memory))
        else:
            shared.append(step)
    if shared:
        memory_gb = max(step.stage.resources.memory_gb for step in shared)
        classes.append(
            ResourceClass(
                stages=tuple(step.name for step in shared),
                cpus=1.0,
                memory_bytes=memory_gb * 2**30 if with_memory else 0.0,
            )
        )
    order = [step.name for step in steps]
    return tuple(sorted(classes, key=lambda one: -max(order.index(stage) for stage in one.stages)))


def _own(step: StageStep, wanted: Resources, with_memory: bool) -> ResourceClass:
    return ResourceClass(
        stages=(step.name,),
        cpus=wanted.cpus if wanted.waits else max(1.0, wanted.cpus),
        gpus=wanted.gpus,
        memory_bytes=wanted.memory_gb * 2**30 if with_memory else 0.0,
        waits=wanted.waits,
    )
