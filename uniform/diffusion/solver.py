"""Five solvers of the reverse process, each a loop over one flat vector per clip.

A solver calls `Problem`, a function of the flat vector; it does not depend on modalities or the network. The clean
conditioning modality is restored before every call of the denoiser and after the last. All arithmetic is float32,
with coefficients computed in float64. N = total size of a clip's two latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from uniform.config import nearest
from uniform.diffusion.flow import TIME_SCALE, Flow
from uniform.diffusion.loss import Denoiser, Iddpm, where_clip, x0_of
from uniform.diffusion.objective import Objective
from uniform.diffusion.schedule import Schedule
from uniform.errors import InputError
from uniform.pair import Pair
from uniform.tasks import MODALITIES

OnStep = Callable[[int, int], None]
"""Called after each step with finished steps and total steps."""
DrawNoise = Callable[[], Pair]
"""Fresh standard normal noise, shaped like the latents."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A denoiser with its conditions, as a function of x (B, N) and one time for all clips."""

    denoiser: Denoiser
    objective: Objective
    clean: Pair
    """Latents of the conditioning modalities; a generated modality is not read."""
    generates: Pair
    """Bool (B,) per modality."""
    draw_noise: DrawNoise
    condition_noise: Pair
    """Noise of a conditioning modality, if the objective noises both; the same at every step."""
    on_step: OnStep

    def draw(self) -> Tensor:
        """(B, N) standard normal."""
        return flatten(self.draw_noise())

    def __call__(self, x: Tensor, time: float) -> tuple[Tensor, Tensor | None]:
        """Prediction (B, N) at `time`, and variance logits (B, N) where there are any."""
        times, inputs = [], []
        free = self.restore(x)
        for modality in MODALITIES:
            generated, conditioning = self.generates.of(modality), self.clean.of(modality)
            now = torch.full(generated.shape, time, dtype=torch.float32, device=x.device)
            if self.objective.noise_both:
                conditioning = self.objective.add_noise(conditioning, self.condition_noise.of(modality), now)
            inputs.append(where_clip(generated, free.of(modality), conditioning))
            times.append(now if self.objective.noise_both else torch.where(generated, now, torch.zeros_like(now)))
        output = self.denoiser(Pair(*inputs), Pair(*times))
        predicted, logits = zip(*(self.objective.split(each.float()) for each in output), strict=True)
        variance_logits = None if logits[0] is None else flatten(Pair(*logits))
        return flatten(Pair(*predicted)), variance_logits

    def restore(self, x: Tensor) -> Pair:
        """Latents from (B, N), with conditioning modalities clean."""
        video, audio = x.split([self.clean.video[0].numel(), self.clean.audio[0].numel()], dim=1)  # type: ignore[no-untyped-call]
        free = Pair(video.view_as(self.clean.video), audio.view_as(self.clean.audio))
        return Pair(*(where_clip(self.generates.of(m), free.of(m), self.clean.of(m)) for m in MODALITIES))


def flatten(pair: Pair) -> Tensor:
    """Flatten both latents to (B, N)."""
    return torch.cat([pair.video.flatten(1), pair.audio.flatten(1)], dim=1)


def ancestral(problem: Problem, objective: Iddpm, x: Tensor, steps: int) -> Tensor:
    """The reverse chain of IDDPM on a respaced schedule, with the learned variance or, without one, the posterior's.

    Source: Nichol and Dhariwal (arXiv:2102.09672), sections 3 and 4; 100 steps is Open-Sora's setting.
    """
    schedule = objective.schedule.respace(steps)
    for step in reversed(range(steps)):
        predicted, variance_logits = problem(x, float(schedule.times[step]))
        mean, log_variance, _ = step_back(schedule, step, x, predicted, variance_logits, objective.prediction)
        x = mean if step == 0 else mean + (0.5 * log_variance).exp() * problem.draw()
        problem.on_step(steps - step, steps)
    return x


def step_back(
    schedule: Schedule,
    step: int,
    x: Tensor,
    predicted: Tensor,
    variance_logits: Tensor | None,
    prediction: Literal["epsilon", "v"],
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and log variance of p(x_{t-1} | x_t) at a step of the schedule, and the predicted x_0."""
    pred_x0 = x0_of(predicted, x, schedule.alpha_bar[step], prediction)
    of_clean, of_noisy = (weight[step] for weight in schedule.posterior_weights)
    low, high = schedule.log_posterior_variance[step], schedule.beta[step].log()
    log_variance = low.to(x).expand_as(x) if variance_logits is None else low + (variance_logits + 1) / 2 * (high - low)
    return of_clean * pred_x0 + of_noisy * x, log_variance, pred_x0


def ddim(problem: Problem, objective: Iddpm, x: Tensor, steps: int) -> Tensor:
    """Deterministic steps along the same schedule. Source: Song et al. (arXiv:2010.02502), eta = 0."""
    schedule = objective.schedule.respace(steps)
    for step in reversed(range(steps)):
        predicted, _ = problem(x, float(schedule.times[step]))
        pred_x0 = x0_of(predicted, x, schedule.alpha_bar[step], objective.prediction)
        noise = noise_of(predicted, x, schedule.alpha_bar[step], objective.prediction)
        before = schedule.alpha_bar_before[step]
        x = before.sqrt() * pred_x0 + (1 - before).sqrt() * noise
        problem.on_step(steps - step, steps)
    return x


def noise_of(predicted: Tensor, x: Tensor, alpha_bar: Tensor, prediction: Literal["epsilon", "v"]) -> Tensor:
    """The noise that follows from a prediction."""
    return predicted if prediction == "epsilon" else alpha_bar.sqrt() * predicted + (1 - alpha_bar).sqrt() * x


def dpm_solver_pp_2m(problem: Problem, objective: Iddpm, x: Tensor, steps: int) -> Tensor:
    """DPM-Solver++ (2M): second order, one call a step; 20 are enough. Variance logits are not used.

    Times are evenly spaced from 999 down and end before 0; the last step takes the predicted x_0 (as diffusers'
    DPMSolverMultistepScheduler does by default). Source: Lu et al. (arXiv:2211.01095), algorithm 2.
    """
    last = objective.schedule.steps - 1
    places = [round(last * (1 - step / steps)) for step in range(steps)]
    alpha, sigma = objective.schedule.alpha_bar.sqrt(), (1 - objective.schedule.alpha_bar).sqrt()
    log_snr = (alpha / sigma).log()
    previous, previous_gap = x, log_snr[0]
    for step, place in enumerate(places):
        predicted, _ = problem(x, float(objective.schedule.times[place]))
        pred_x0 = x0_of(predicted, x, objective.schedule.alpha_bar[place], objective.prediction)
        if step == steps - 1:
            x = pred_x0
        else:
            following = places[step + 1]
            gap = log_snr[following] - log_snr[place]
            improved = pred_x0 if step == 0 else pred_x0 + gap / (2 * previous_gap) * (pred_x0 - previous)
            x = sigma[following] / sigma[place] * x - alpha[following] * torch.expm1(-gap) * improved
            previous, previous_gap = pred_x0, gap
        problem.on_step(step + 1, steps)
    return x


def flow_times(objective: Flow, steps: int) -> Tensor:
    """Float64 (steps + 1,): from 1 to 0, shifted as in training."""
    return objective.shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64))


def euler(problem: Problem, objective: Flow, x: Tensor, steps: int) -> Tensor:
    """Euler steps along the velocity of rectified flow."""
    times = flow_times(objective, steps)
    for step in range(steps):
        velocity, _ = problem(x, float(times[step]) * TIME_SCALE)
        x = x + (times[step] - times[step + 1]) * velocity
        problem.on_step(step + 1, steps)
    return x


def heun(problem: Problem, objective: Flow, x: Tensor, steps: int) -> Tensor:
    """Heun steps with the mean of the velocities at both ends: two calls per step, one for the last.

    The last step is an Euler step: at time 0 the network would treat the sample as a clean conditioning modality.
    """
    times = flow_times(objective, steps)
    for step in range(steps):
        velocity, _ = problem(x, float(times[step]) * TIME_SCALE)
        length = times[step] - times[step + 1]
        if step < steps - 1:
            ahead, _ = problem(x + length * velocity, float(times[step + 1]) * TIME_SCALE)
            velocity = (velocity + ahead) / 2
        x = x + length * velocity
        problem.on_step(step + 1, steps)
    return x


IDDPM_SOLVERS: dict[str, Callable[[Problem, Iddpm, Tensor, int], Tensor]] = {
    "ancestral": ancestral,
    "ddim": ddim,
    "dpm++": dpm_solver_pp_2m,
}
FLOW_SOLVERS: dict[str, Callable[[Problem, Flow, Tensor, int], Tensor]] = {"euler": euler, "heun": heun}
SOLVERS = (*IDDPM_SOLVERS, *FLOW_SOLVERS)
"""Names of all solvers."""


def solve(problem: Problem, noise: Pair, solver: str, steps: int) -> Pair:
    """Run a solver from pure noise to latents.

    Args:
        noise: standard normal; not used for conditioning modalities.
        solver: one of `SOLVERS` that fits the objective; steps: 1 or more.
    Returns: float32 latents, conditioning modalities unchanged.
    Raises: InputError for an unknown solver, one of another objective, or a number of steps out of range.
    """
    check_solver(solver, problem.objective, steps)
    x = flatten(noise)
    if isinstance(problem.objective, Flow):
        x = FLOW_SOLVERS[solver](problem, problem.objective, x, steps)
    else:
        x = IDDPM_SOLVERS[solver](problem, problem.objective, x, steps)
    return problem.restore(x)


def require_known(solver: str) -> None:
    """Check the name of a solver. Raises: InputError for an unknown one, with the nearest known name."""
    if solver not in SOLVERS:
        raise InputError(f"there is no solver '{solver}'{nearest(solver, SOLVERS)}")


def check_solver(solver: str, objective: Objective, steps: int) -> None:
    """Check solver and steps. Raises: InputError for an unknown or unfit solver, or steps out of range."""
    require_known(solver)
    fitting = list(FLOW_SOLVERS if isinstance(objective, Flow) else IDDPM_SOLVERS)
    if solver not in fitting:
        kind = "rectified flow" if isinstance(objective, Flow) else f"IDDPM ({objective.prediction})"
        raise InputError(f"solver '{solver}' does not fit a model of {kind}; take one of: {', '.join(fitting)}")
    most = None if isinstance(objective, Flow) else objective.schedule.steps - (solver == "dpm++")  # it ends before 0
    if steps < 1 or (most is not None and steps > most):
        raise InputError(
            f"{steps} steps of {solver} are out of range; take 1 {'or more' if most is None else f'to {most}'}"
        )
