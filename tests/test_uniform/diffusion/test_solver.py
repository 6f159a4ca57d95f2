"""Solvers: exact where the result is known, equal to the originals, conditioning modality unchanged."""

from collections.abc import Callable

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.paths import DATA
from tests.support.standin import stand_in_input
from uniform.diffusion.flow import Flow
from uniform.diffusion.guidance import Guidance, guide
from uniform.diffusion.loss import Iddpm
from uniform.diffusion.objective import Objective
from uniform.diffusion.schedule import linear_schedule
from uniform.diffusion.solver import FLOW_SOLVERS, IDDPM_SOLVERS, Problem, solve, step_back
from uniform.errors import InputError
from uniform.pair import Pair

SHAPES = (2, 4, 2, 2, 2), (2, 8, 4, 2)
EPSILON = Iddpm(learned_variance=False)
VELOCITY = Iddpm(learned_variance=False, prediction="v")
FLOW = Flow(learned_variance=False)
BOTH = Pair(torch.tensor([True, True]), torch.tensor([True, True]))
KNOWN = [
    *((name, objective) for name in IDDPM_SOLVERS for objective in (EPSILON, VELOCITY)),
    *((name, FLOW) for name in FLOW_SOLVERS),
]


def random_pair(seed: int) -> Pair:
    generator = torch.Generator().manual_seed(seed)
    return Pair(*(torch.randn(shape, generator=generator) for shape in SHAPES))


def exact_denoiser(target: Pair, objective: Objective) -> Callable[[Pair, Pair], Pair]:
    """A denoiser whose predictions always lead to `target`."""

    def denoiser(noisy: Pair, time: Pair) -> Pair:
        predicted = []
        for x, wanted, t in zip(noisy, target, time, strict=True):
            if isinstance(objective, Flow):
                share = (t / 1000).view(-1, *[1] * (x.dim() - 1)).clamp(min=1e-6)
                predicted.append((wanted - x) / share)
                continue
            alpha_bar = objective.schedule.alpha_bar[t.long()].float().view(-1, *[1] * (x.dim() - 1))
            noise = (x - alpha_bar.sqrt() * wanted) / (1 - alpha_bar).sqrt()
            predicted.append(noise if objective.prediction == "epsilon" else objective.target(wanted, noise, t))
        return Pair(*predicted)

    return denoiser


def problem(denoiser: Callable[[Pair, Pair], Pair], objective: Objective, **changes: object) -> Problem:
    stream = iter(range(100, 10_000))
    values: dict[str, object] = {
        "clean": random_pair(8),
        "generates": BOTH,
        "draw_noise": lambda: random_pair(next(stream)),
        "condition_noise": random_pair(9),
        "on_step": lambda done, total: None,
    }
    return Problem(denoiser=denoiser, objective=objective, **{**values, **changes})


@pytest.mark.parametrize(("solver", "objective"), KNOWN)
@pytest.mark.parametrize("steps", [1, 7])
def test_solver_reaches_the_data_that_an_exact_network_predicts(solver: str, objective: Objective, steps: int) -> None:
    target = random_pair(3)

    found = solve(problem(exact_denoiser(target, objective), objective), random_pair(4), solver, steps)

    # Ancestral sampling ends at time 0, which is not quite clean: its last mean is x_0 to 1e-2.
    for x, wanted in zip(found, target, strict=True):
        assert torch.allclose(x, wanted, atol=2e-2)


def test_step_back_equals_the_original_on_all_steps_and_on_100() -> None:
    reference = load_file(DATA / "iddpm.safetensors")
    predicted, variance_logits = stand_in_input("iddpm.model_output", (5, 8, 3, 4, 4)).chunk(2, dim=1)
    whole = linear_schedule()
    for name, schedule, steps in (
        ("p", whole, (0, 1, 250, 600, 999)),
        ("p100", whole.respace(100), (0, 1, 25, 60, 99)),
    ):
        for index, step in enumerate(steps):
            at = slice(index, index + 1)
            found = step_back(schedule, step, reference["x_t"][at], predicted[at], variance_logits[at], "epsilon")
            for what, value in zip(("mean", "log_variance", "pred_xstart"), found, strict=True):
                wanted = reference[f"{name}.{what}"]
                assert float((value - wanted[at]).abs().max()) <= 2e-4 * float(wanted.abs().max()), (name, step, what)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_dpm_solver_equals_diffusers() -> None:
    from diffusers import DPMSolverMultistepScheduler

    theirs = DPMSolverMultistepScheduler(beta_schedule="linear", timestep_spacing="linspace")
    theirs.set_timesteps(12)
    x = random_pair(5).video
    for time in theirs.timesteps:
        x = theirs.step((x * 0.3).sin(), time, x).prev_sample

    def network(noisy: Pair, time: Pair) -> Pair:
        return noisy.map(lambda each: (each * 0.3).sin())

    found = solve(problem(network, EPSILON), random_pair(5), "dpm++", 12)

    assert torch.allclose(found.video, x, atol=1e-4)


def test_ddim_equals_diffusers() -> None:
    from diffusers import DDIMScheduler

    theirs = DDIMScheduler(beta_schedule="linear", timestep_spacing="linspace", clip_sample=False)
    theirs.set_timesteps(1000)
    x = random_pair(5).video
    for time in theirs.timesteps:
        x = theirs.step((x * 0.3).sin(), time, x).prev_sample

    def network(noisy: Pair, time: Pair) -> Pair:
        return noisy.map(lambda each: (each * 0.3).sin())

    found = solve(problem(network, EPSILON), random_pair(5), "ddim", 1000)

    assert torch.allclose(found.video, x, atol=1e-3)


def test_heun_is_more_exact_than_euler() -> None:
    def network(noisy: Pair, time: Pair) -> Pair:
        return noisy.map(lambda each: -each)

    exact = random_pair(5).map(lambda x: x * torch.e**-1)  # dx/ds = -x over s from 0 to 1
    error = {
        name: float((solve(problem(network, FLOW), random_pair(5), name, 10).video - exact.video).abs().max())
        for name in ("euler", "heun")
    }

    assert error["heun"] < error["euler"] / 5


@pytest.mark.parametrize(("solver", "objective"), KNOWN)
def test_conditioning_modality_is_clean_in_every_call_and_unchanged_at_the_end(
    solver: str, objective: Objective
) -> None:
    clean, checks = random_pair(8), []

    def denoiser(noisy: Pair, time: Pair) -> Pair:
        checks.append(torch.equal(noisy.video[0], clean.video[0]) and float(time.video[0]) == 0)
        checks.append(not torch.equal(noisy.video[1], clean.video[1]) and float(time.video[1]) > -1)
        return noisy.map(torch.sin)

    generates = Pair(torch.tensor([False, True]), torch.tensor([True, True]))
    found = solve(problem(denoiser, objective, clean=clean, generates=generates), random_pair(4), solver, 5)

    assert len(checks) >= 10
    assert all(checks)
    assert torch.equal(found.video[0], clean.video[0])
    assert not torch.equal(found.audio[0], clean.audio[0])


def test_noise_both_noises_the_conditioning_modality_to_each_time() -> None:
    objective = Iddpm(learned_variance=False, noise_both=True)
    clean, noise, checks = random_pair(8), random_pair(9), []

    def denoiser(noisy: Pair, time: Pair) -> Pair:
        checks.append(torch.equal(noisy.video, objective.add_noise(clean.video, noise.video, time.video)))
        checks.append(bool((time.video == time.audio).all()))
        return noisy

    generates = Pair(torch.tensor([False, False]), torch.tensor([True, True]))
    found = solve(problem(denoiser, objective, clean=clean, generates=generates), random_pair(4), "ddim", 4)

    assert checks == [True] * 8
    assert torch.equal(found.video, clean.video)


def test_zero_terminal_snr_can_be_sampled() -> None:
    objective = Iddpm(learned_variance=False, prediction="v", schedule=linear_schedule(zero_terminal_snr=True))
    target = random_pair(3)
    for solver in ("ddim", "dpm++", "ancestral"):
        found = solve(problem(exact_denoiser(target, VELOCITY), objective), random_pair(4), solver, 6)

        assert bool(found.video.isfinite().all())


def test_progress_is_reported_after_each_step() -> None:
    for solver, objective in KNOWN:
        calls: list[tuple[int, int]] = []
        task = problem(
            lambda noisy, time: noisy, objective, on_step=lambda done, total, calls=calls: calls.append((done, total))
        )

        solve(task, random_pair(1), solver, 3)

        assert calls == [(1, 3), (2, 3), (3, 3)]


@pytest.mark.parametrize(
    ("solver", "objective", "steps", "what"),
    [
        ("dimm", EPSILON, 5, "no solver 'dimm'; did you mean 'ddim'"),
        ("euler", EPSILON, 5, r"does not fit a model of IDDPM \(epsilon\); take one of: ancestral, ddim, dpm\+\+"),
        ("ddim", FLOW, 5, "rectified flow; take one of: euler, heun"),
        ("ddim", EPSILON, 1001, "take 1 to 1000"),
        ("heun", FLOW, 0, "take 1 or more"),
    ],
)
def test_an_unfit_solver_or_number_of_steps_is_refused(
    solver: str, objective: Objective, steps: int, what: str
) -> None:
    with pytest.raises(InputError, match=what):
        solve(problem(lambda noisy, time: noisy, objective), random_pair(1), solver, steps)


def test_guidance_changes_all_channels_and_leaves_the_variance_logits() -> None:
    full, plain = random_pair(1), random_pair(2)

    guided = guide(Guidance(video=3.0, audio=1.0), full, plain, None, learned_variance=True)

    assert torch.allclose(guided.video[:, :2], plain.video[:, :2] + 3 * (full.video - plain.video)[:, :2])
    assert torch.equal(guided.video[:, 2:], full.video[:, 2:])
    assert torch.allclose(guided.audio, full.audio, atol=1e-6)


def test_guidance_by_the_conditioning_modality_starts_from_the_prediction_without_it() -> None:
    full, plain, bare = (random_pair(seed) for seed in (1, 2, 3))

    guided = guide(Guidance(video=3.0, audio=2.0, conditioning=4.0), full, plain, bare, learned_variance=False)

    wanted: Tensor = bare.video + 4 * (plain.video - bare.video) + 3 * (full.video - plain.video)
    assert torch.allclose(guided.video, wanted, atol=1e-5)


def test_the_json_of_guidance_keeps_the_key_given() -> None:
    assert Guidance(video=3.0, audio=2.0, conditioning=4.0).as_dict() == {"video": 3.0, "audio": 2.0, "given": 4.0}


@pytest.mark.parametrize("field", ["video", "audio", "conditioning"])
def test_a_guidance_scale_that_is_not_a_finite_number_above_zero_is_refused(field: str) -> None:
    for scale in (0.0, -1.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match=f"guidance for {field}"):
            Guidance(**{field: scale})
