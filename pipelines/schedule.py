"""The table [schedule] of a recipe: how much may be under way at once. It changes when a unit is made, never its bytes.

[schedule]
max_units_in_flight = 64
max_intermediate_gb = 500
max_workers = { fetch_media = 4 }
stage_timeout_s = { encode_latents = 3600 }
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from uniform.errors import ConfigError

Scope = Literal["unit", "all"]
"""What a stage needs before its first job: its own unit, or all units, committed by the stage before."""


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """Limits of a run."""

    max_units_in_flight: int | None = None
    """Units that have begun and not ended; None takes four for each worker, and at least 8."""
    max_intermediate_gb: float | None = None
    """Results of units in flight (10**9 bytes) beyond which no new unit begins; None sets no limit."""
    max_workers: Mapping[str, int] = field(default_factory=dict)
    """Stage -> jobs of it at once, on the whole cluster."""
    stage_timeout_s: Mapping[str, float] = field(default_factory=dict)
    """Stage -> seconds after which the worker of one unit counts as stuck and is ended."""

    def __post_init__(self) -> None:
        if self.max_units_in_flight is not None and self.max_units_in_flight < 1:
            raise ConfigError(f"schedule.max_units_in_flight is {self.max_units_in_flight}; it must be 1 or more")
        if self.max_intermediate_gb is not None and self.max_intermediate_gb <= 0:
            raise ConfigError(f"schedule.max_intermediate_gb is {self.max_intermediate_gb}; it must be more than 0")
        for table, least in (("max_workers", 1), ("stage_timeout_s", 0.001)):
            for stage, value in getattr(self, table).items():
                if value < least:
                    raise ConfigError(f"schedule.{table}.{stage} is {value}; it must be {least:g} or more")


def check_stage_names(schedule: Schedule, names: Iterable[str]) -> None:
    """Refuse limits of stages that the recipe does not have. Raises ConfigError."""
    known = list(names)
    for table in ("max_workers", "stage_timeout_s"):
        for stage in getattr(schedule, table):
            if stage not in known:
                raise ConfigError(f"schedule.{table} names '{stage}', but the stages are {', '.join(known)}")
