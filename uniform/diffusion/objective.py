"""Configuration of the diffusion objective, as presets and checkpoints hold it."""

from dataclasses import dataclass
from typing import Literal

from uniform.diffusion.flow import Flow
from uniform.diffusion.loss import Iddpm
from uniform.diffusion.schedule import linear_schedule
from uniform.errors import ConfigError

Objective = Iddpm | Flow


@dataclass(frozen=True, kw_only=True)
class DiffusionConfig:
    """The target of the network. Defaults are the paper's: noise, in 1,000 discrete steps."""

    objective: Literal["epsilon", "v", "flow"] = "epsilon"
    """IDDPM's noise (paper), IDDPM's velocity, or rectified flow."""
    noise_both: bool = False
    """Noise the conditioning modality too, as equations (1) to (3) say literally; our default keeps it clean."""
    independent_timesteps: bool = False
    """T2AV: an independent time for each modality. Guidance by the conditioning modality needs it."""
    min_snr: float | None = None
    """IDDPM: cap on the signal-to-noise weight, 5 in its paper."""
    variational_weight: float = 1.0
    """IDDPM: weight of the learned variance's term, whose gradient reaches the whole network."""
    zero_terminal_snr: bool = False
    """IDDPM with velocity: make the last step pure noise."""
    flow_shift: float = 1.0
    """Flow: above 1 moves times towards noise; the same at sampling."""
    flow_logit_normal: bool = True
    """Flow: times from a logit-normal distribution; uniform if False."""
    flow_steps: int = 30
    """Flow: default number of Euler steps at sampling (Open-Sora's); not used in training."""

    guidance: float = 7.0
    """Default guidance scale of the text at sampling (Open-Sora's for IDDPM); not used in training."""

    def __post_init__(self) -> None:
        if self.zero_terminal_snr and self.objective != "v":
            raise ConfigError(
                f"diffusion.zero_terminal_snr needs objective 'v', found '{self.objective}': "
                f"the noise of pure noise holds no information on x_0"
            )
        if self.independent_timesteps and self.noise_both:
            raise ConfigError(
                "diffusion.independent_timesteps and diffusion.noise_both exclude each other; set one of them"
            )
        if self.zero_terminal_snr and self.min_snr is not None:
            raise ConfigError(
                f"diffusion.min_snr is {self.min_snr} with zero_terminal_snr: pure noise, where sampling "
                f"begins, would have the weight 0. Set one of them"
            )
        if self.min_snr is not None and (self.min_snr <= 0 or self.objective == "flow"):
            raise ConfigError(f"diffusion.min_snr is {self.min_snr}; it must be above 0, with 'epsilon' or 'v'")
        if self.variational_weight <= 0 or (self.variational_weight != 1 and self.objective == "flow"):
            raise ConfigError(
                f"diffusion.variational_weight is {self.variational_weight}; it must be above 0, with 'epsilon' or 'v'"
            )
        if self.flow_steps < 1:
            raise ConfigError(f"diffusion.flow_steps is {self.flow_steps}; it must be 1 or more")
        if self.flow_shift <= 0:
            raise ConfigError(f"diffusion.flow_shift is {self.flow_shift}; it must be above 0")


def make_objective(config: DiffusionConfig, *, learned_variance: bool) -> Objective:
    """Build the objective of `config`, for a network with or without variance logits (`ModelConfig`)."""
    if config.objective == "flow":
        return Flow(
            learned_variance=learned_variance,
            shift=config.flow_shift,
            logit_normal=config.flow_logit_normal,
            noise_both=config.noise_both,
            independent_timesteps=config.independent_timesteps,
        )
    return Iddpm(
        prediction=config.objective,
        learned_variance=learned_variance,
        min_snr=config.min_snr,
        variational_weight=config.variational_weight,
        noise_both=config.noise_both,
        independent_timesteps=config.independent_timesteps,
        schedule=linear_schedule(zero_terminal_snr=config.zero_terminal_snr),
    )
