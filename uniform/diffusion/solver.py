"""From noise to latents: five solvers of the reverse process, each a loop over one flat vector per clip.

A solver sees `Problem`, a function of the flat vector, and knows neither modalities nor the network. The given
modality is written back, clean, before every call of the denoiser and after the last. All arithmetic is float32,
with coefficients computed in float64. N = numbers of a clip's two latents.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from uniform.config import nearest
from uniform.diffusion.flow import TIME_SCALE, Flow
from uniform.diffusion.loss import Denoiser, Iddpm, clean_of, where_clip
from uniform.diffusion.objective import Objective
from uniform.diffusion.schedule import Schedule
from uniform.errors import InputError
from uniform.pair import Pair
from uniform.tasks import MODALITIES

OnStep = Callable[[int, int], None]
"""Called after each step with steps done and steps in all."""
DrawNoise = Callable[[], Pair]
"""Fresh standard normal noise, shaped like the latents."""


@dataclass(frozen=True, kw_only=True)
class Problem:
    """A denoiser and what it is given, as a function of x (B, N) and one time for all clips."""

    denoiser: Denoiser
    objective: Objective
    clean: Pair
    """Latents of the given modalities; what stands in a generated one is not read."""
    generates: Pair
    """Bool (B,) per modality."""
    draw_noise: DrawNoise
    condition_noise: Pair
    """The noise that a given modality is shown with if the objective noises both; the same at every step."""
    on_step: OnStep

    def draw(self) -> Tensor:
        """(B, N) standard normal."""
        return flatten(self.draw_noise())

    def __call__(self, x: Tensor, time: float) -> tuple[Tensor, Tensor | None]:
        """Prediction (B, N) at `time`, and the variance code (B, N) where there is one."""
        times, shown = [], []
        free = self.restore(x)
        for modality in MODALITIES:
            made, given = self.generates.of(modality), self.clean.of(modality)
            now = torch.full(made.shape, time, dtype=torch.float32, device=x.device)
            if self.objective.noise_both:
                given = self.objective.add_noise(given, self.condition_noise.of(modality), now)
            shown.append(where_clip(made, free.of(modality), given))
            times.append(now if self.objective.noise_both else torch.where(made, now, torch.zeros_like(now)))
        output = self.denoiser(Pair(*shown), Pair(*times))
        said, codes = zip(*(self.objective.split(each.float()) for each in output), strict=True)
        code = None if codes[0] is None else flatten(Pair(*codes))
        return flatten(Pair(*said)), code

    def restore(self, x: Tensor) -> Pair:
        """(B, N) as latents, the given modality clean."""
        video, audio = x.split([self.clean.video[0].numel(), self.clean.audio[0].numel()], dim=1)  # type: ignore[no-untyped-call]
        free = Pair(video.view_as(self.clean.video), audio.view_as(self.clean.audio))
        return Pair(*(where_clip(self.generates.of(m), free.of(m), self.clean.of(m)) for m in MODALITIES))


def flatten(pair: Pair) -> Tensor:
    """Both latents as (B, N)."""
    return torch.cat([pair.video.flatten(1), pair.audio.flatten(1)], dim=1)


def ancestral(problem: Problem, objective: Iddpm, x: Tensor, steps: int) -> Tensor:
    """The reverse chain of IDDPM on a respaced schedule, with the learned variance or, without one, the posterior's.

    Source: Nichol and Dhariwal (arXiv:2102.09672), sections 3 and 4; 100 steps is Open-Sora's setting.
    """
    schedule = objective.schedule.respace(steps)
    for step in reversed(range(steps)):
        said, code = problem(x, float(schedule.times[step]))
        mean, log_variance, _ = step_back(schedule, step, x, said, code, objective.prediction)
        x = mean if step == 0 else mean + (0.5 * log_variance).exp() * problem.draw()
        problem.on_step(steps - step, steps)
    return x


def step_back(
    schedule: Schedule, step: int, x: Tensor, said: Tensor, code: Tensor | None, prediction: Literal["epsilon", "v"]
) -> tuple[Tensor, Tensor, Tensor]:
    """Mean and log variance of p(x_{t-1} | x_t) at a step of the schedule, and the x_0 behind them."""
    guess = clean_of(said, x, schedule.alpha_bar[step], prediction)
    of_clean, of_noisy = (weight[step] for weight in schedule.posterior_weights)
    low, high = schedule.log_posterior_variance[step], schedule.beta[step].log()
    log_variance = low.to(x).expand_as(x) if code is None else low + (code + 1) / 2 * (high - low)
    return of_clean * guess + of_noisy * x, log_variance, guess


def ddim(problem: Problem, objective: Iddpm, x: Tensor, steps: int) -> Tensor:
    """Deterministic steps along the same schedule. Source: Song et al. (arXiv:2010.02502), eta = 0."""
    schedule = objective.schedule.respace(steps)
    for step in reversed(range(steps)):
        said, _ = problem(x, float(schedule.times[step]))
        guess = clean_of(said, x, schedule.alpha_bar[step], objective.prediction)
        noise = noise_of(said, x, schedule.alpha_bar[step], objective.prediction)
        before = schedule.alpha_bar_before[step]
        x = before.sqrt() * guess + (1 - before).sqrt() * noise
        problem.on_step(steps - step, steps)
    return x


def noise_of(said: Tensor, x: Tensor, alpha_bar: Tensor, prediction: Literal["epsilon", "v"]) -> Tensor:
    """The noise that a prediction means."""
    return said if prediction == "epsilon" else alpha_bar.sqrt() * said + (1 - alpha_bar).sqrt() * x


def dpm_solver_pp_2m(problem: Problem, objective: Iddpm, x: Tensor, steps: int) -> Tensor:
    """DPM-Solver++ (2M): second order, one call a step; 20 are enough. The variance code is not used.

    Times are spread evenly from 999 down and end before 0; the last step takes the predicted x_0 (as diffusers'
    DPMSolverMultistepScheduler does by default). Source: Lu et al. (arXiv:2211.01095), algorithm 2.
    """
    last = objective.schedule.steps - 1
    places = [round(last * (1 - step / steps)) for step in range(steps)]
    alpha, sigma = objective.schedule.alpha_bar.sqrt(), (1 - objective.schedule.alpha_bar).sqrt()
    log_snr = (alpha / sigma).log()
    previous, previous_gap = x, log_snr[0]
    for step, place in enumerate(places):
        said, _ = problem(x, float(objective.schedule.times[place]))
        guess = clean_of(said, x, objective.schedule.alpha_bar[place], objective.prediction)
        if step == steps - 1:
            x = guess
        else:
            following = places[step + 1]
            gap = log_snr[following] - log_snr[place]
            better = guess if step == 0 else guess + gap / (2 * previous_gap) * (guess - previous)
            x = sigma[following] / sigma[place] * x - alpha[following] * torch.expm1(-gap) * better
            previous, previous_gap = guess, gap
        problem.on_step(step + 1, steps)
    return x


def flow_times(objective: Flow, steps: int) -> Tensor:
    """Float64 (steps + 1,): from 1 to 0, moved as in training."""
    return objective.shifted(torch.linspace(1, 0, steps + 1, dtype=torch.float64))


def euler(problem: Problem, objective: Flow, x: Tensor, steps: int) -> Tensor:
    """Straight steps along the velocity of rectified flow."""
    times = flow_times(objective, steps)
    for step in range(steps):
        velocity, _ = problem(x, float(times[step]) * TIME_SCALE)
        x = x + (times[step] - times[step + 1]) * velocity
        problem.on_step(step + 1, steps)
    return x


def heun(problem: Problem, objective: Flow, x: Tensor, steps: int) -> Tensor:
    """Each step with the mean of the velocities at both its ends: two calls a step, one for the last.

    The last step is Euler's, for at time 0 the network would take the sample for a given, clean one.
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
        noise: standard normal; the given modality's part is not used.
        solver: one of `SOLVERS` that fits the objective; steps: 1 or more.
    Returns: float32 latents, the given modality exactly as it was given.
    Raises: InputError for an unknown solver, one of another objective, or a number of steps that cannot be.
    """
    check_solver(solver, problem.objective, steps)
    x = flatten(noise)
    if isinstance(problem.objective, Flow):
        x = FLOW_SOLVERS[solver](problem, problem.objective, x, steps)
    else:
        x = IDDPM_SOLVERS[solver](problem, problem.objective, x, steps)
    return problem.restore(x)


def require_known(solver: str) -> None:
    """Raises: InputError for a name that is no solver's, with the nearest one that is."""
    if solver not in SOLVERS:
        raise InputError(f"there is no solver '{solver}'{nearest(solver, SOLVERS)}")


def check_solver(solver: str, objective: Objective, steps: int) -> None:
    """Raises: InputError for an unknown solver, one that does not fit the objective, or impossible steps."""
    require_known(solver)
    fitting = list(FLOW_SOLVERS if isinstance(objective, Flow) else IDDPM_SOLVERS)
    if solver not in fitting:
        kind = "rectified flow" if isinstance(objective, Flow) else f"IDDPM ({objective.prediction})"
        raise InputError(f"solver '{solver}' does not fit a model of {kind}; take one of: {', '.join(fitting)}")
    most = None if isinstance(objective, Flow) else objective.schedule.steps - (solver == "dpm++")  # it ends before 0
    if steps < 1 or (most is not None and steps > most):
        raise InputError(f"{steps} steps of {solver} cannot be; take 1 {'or more' if most is None else f'to {most}'}")
