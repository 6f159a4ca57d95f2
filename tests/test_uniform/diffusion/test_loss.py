"""The loss: equal to IDDPM's, summed over modalities as in the paper, with clean conditioning modalities."""

import math
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from tests.support.paths import DATA
from tests.support.standin import stand_in_input
from uniform.diffusion.loss import Iddpm, log_likelihood, normal_kl, x0_of
from uniform.diffusion.objective import DiffusionConfig, make_objective
from uniform.errors import ConfigError
from uniform.pair import Pair

X0 = stand_in_input("iddpm.x0", (5, 4, 3, 4, 4))
NOISE = stand_in_input("iddpm.noise", (5, 4, 3, 4, 4))
OUTPUT = stand_in_input("iddpm.model_output", (5, 8, 3, 4, 4))
TIMES = torch.tensor([0.0, 1, 250, 600, 999])
LOSS_TIMES = torch.tensor([391.0, 219, 398, 825, 502])
"""Times of the reference losses: the original drew its own. Its squared error does not depend on them; its variational
terms agree at these five times, and only at these, to five digits."""
ALL, NONE = torch.ones(5, dtype=torch.bool), torch.zeros(5, dtype=torch.bool)


@pytest.fixture(scope="module")
def reference() -> dict[str, Tensor]:
    return load_file(DATA / "iddpm.safetensors")


def predicts(output: Tensor) -> object:
    return lambda noisy, time: Pair(output, output)


def clips(count: int = 3) -> tuple[Pair, Pair]:
    generator = torch.Generator().manual_seed(0)
    shapes = (count, 4, 2, 4, 4), (count, 8, 4, 2)
    return tuple(Pair(*(torch.randn(shape, generator=generator) for shape in shapes)) for _ in range(2))


def test_noised_latents_equal_the_original(reference: dict[str, Tensor]) -> None:
    assert torch.allclose(Iddpm().add_noise(X0, NOISE, TIMES), reference["x_t"], atol=1e-5)


def test_losses_equal_the_original(reference: dict[str, Tensor]) -> None:
    losses = Iddpm().losses(predicts(OUTPUT), Pair(X0, X0), Pair(NOISE, NOISE), LOSS_TIMES, Pair(ALL, NONE))

    for name in ("mse", "vb"):
        assert torch.allclose(losses.parts[f"video_{name}"], reference[f"loss.{name}"], rtol=2e-4)
    assert torch.allclose(losses.total, reference["loss.loss"], rtol=2e-4)


def test_likelihood_of_the_last_step_is_the_probability_of_its_bin() -> None:
    x, mean = torch.linspace(-0.9, 0.9, 7), torch.linspace(-0.8, 1.0, 7)
    std = torch.full((7,), 0.1)
    normal = torch.distributions.Normal(mean.double(), std.double())
    wanted = (normal.cdf(x.double() + 1 / 255) - normal.cdf(x.double() - 1 / 255)).log()

    found = log_likelihood(x, mean, std.log())

    assert torch.allclose(found.double(), wanted, atol=2e-2)  # the tanh form is good to three digits
    outermost = log_likelihood(torch.tensor(1.0), torch.tensor(0.0), torch.tensor(0.0)).exp()
    assert float(outermost) == pytest.approx(0.16, abs=0.002)  # open to the right


def test_at_time_0_the_variational_term_is_the_likelihood_in_bits() -> None:
    objective, zero = Iddpm(), torch.zeros(1)
    x0 = X0[:1].clamp(-0.9, 0.9)
    x_t = objective.add_noise(x0, NOISE[:1], zero)
    predicted, variance_logits = OUTPUT[:1].chunk(2, dim=1)

    bits = objective.variational_bits(x0, x_t, predicted, variance_logits, zero)

    schedule = objective.schedule
    mean = x0_of(predicted, x_t, schedule.alpha_bar[0], "epsilon")  # all of the weight is on x_0 at the last step
    low, high = schedule.log_posterior_variance[0], schedule.beta[0].log()
    log_std = (low + (variance_logits + 1) / 2 * (high - low)) / 2
    assert float(bits) == pytest.approx(float(-log_likelihood(x0, mean, log_std).mean()) / math.log(2), rel=1e-3)


def test_kl_of_equal_distributions_is_zero_and_of_others_positive() -> None:
    mean, log_variance = torch.randn(9), torch.randn(9)

    assert torch.allclose(normal_kl(mean, log_variance, mean, log_variance), torch.zeros(9), atol=1e-6)
    assert bool((normal_kl(mean, log_variance, mean + 1, log_variance - 1) > 0).all())


def test_variational_term_trains_the_variance_only() -> None:
    output = OUTPUT.clone().requires_grad_()
    losses = Iddpm().losses(predicts(output), Pair(X0, X0), Pair(NOISE, NOISE), LOSS_TIMES, Pair(ALL, NONE))

    losses.parts["video_vb"].sum().backward()

    assert output.grad is not None
    assert float(output.grad[:, :4].abs().max()) == 0
    assert float(output.grad[:, 4:].abs().max()) > 0


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_conditioning_modality_is_exactly_clean_at_time_0_and_not_in_the_loss(kind: str) -> None:
    objective = make_objective(DiffusionConfig(objective=kind), learned_variance=False)
    clean, noise = clips()
    inputs: list[Pair] = []
    generates = Pair(torch.tensor([True, False, True]), torch.tensor([True, True, False]))

    def denoiser(noisy: Pair, time: Pair) -> Pair:
        inputs.extend((noisy, time))
        return noisy

    losses = objective.losses(denoiser, clean, noise, torch.full((3,), 700.0), generates)

    noisy, time = inputs
    assert torch.equal(noisy.video[1], clean.video[1])
    assert torch.equal(noisy.audio[2], clean.audio[2])
    assert (time.video.tolist(), time.audio.tolist()) == ([700, 0, 700], [700, 700, 0])
    assert float(losses.parts["video_mse"][1]) == float(losses.parts["audio_mse"][2]) == 0
    assert float(losses.parts["video_mse"][0]) > 0


def test_each_modality_weighs_the_same_whatever_its_size() -> None:
    clean, noise = clips()
    every = torch.ones(3, dtype=torch.bool)
    objective = Iddpm(learned_variance=False)

    losses = objective.losses(
        lambda noisy, time: noise.map(lambda x: x + 1), clean, noise, torch.ones(3), Pair(every, every)
    )

    assert torch.allclose(losses.total, torch.full((3,), 2.0))


@pytest.mark.parametrize("kind", ["epsilon", "v", "flow"])
def test_perfect_prediction_has_no_error(kind: str) -> None:
    objective = make_objective(DiffusionConfig(objective=kind), learned_variance=False)
    clean, noise = clips()
    t = torch.tensor([3.0, 500.0, 999.0])
    every = torch.ones(3, dtype=torch.bool)

    def exact(noisy: Pair, time: Pair) -> Pair:
        if kind == "flow":
            return Pair(clean.video - noise.video, clean.audio - noise.audio)
        return Pair(objective.target(clean.video, noise.video, t), objective.target(clean.audio, noise.audio, t))

    assert float(objective.losses(exact, clean, noise, t, Pair(every, every)).total.max()) < 1e-9


def test_both_predictions_mean_the_same_clean_latent() -> None:
    objective = Iddpm(learned_variance=False)
    x_t = objective.add_noise(X0, NOISE, TIMES)
    alpha_bar = objective.schedule.alpha_bar[TIMES.long()].float().view(-1, 1, 1, 1, 1)
    velocity = replace(objective, prediction="v").target(X0, NOISE, TIMES)

    assert torch.allclose(x0_of(velocity, x_t, alpha_bar, "v"), X0, atol=1e-5)
    assert torch.allclose(x0_of(NOISE, x_t, alpha_bar, "epsilon")[:4], X0[:4], atol=1e-4)


def test_noise_both_noises_the_conditioning_modality_at_the_same_time() -> None:
    clean, noise = clips()
    inputs: list[Pair] = []
    generates = Pair(torch.tensor([False] * 3), torch.tensor([True] * 3))

    def denoiser(noisy: Pair, time: Pair) -> Pair:
        inputs.extend((noisy, time))
        return noisy

    objective = Iddpm(learned_variance=False, noise_both=True)
    losses = objective.losses(denoiser, clean, noise, torch.full((3,), 700.0), generates)

    assert torch.allclose(inputs[0].video, objective.add_noise(clean.video, noise.video, torch.full((3,), 700.0)))
    assert inputs[1].video.tolist() == [700.0] * 3
    assert losses.parts["video_mse"].tolist() == [0.0] * 3


def test_each_modality_takes_its_own_time() -> None:
    clean, noise = clips()
    inputs: list[Pair] = []
    every = torch.ones(3, dtype=torch.bool)

    def denoiser(noisy: Pair, time: Pair) -> Pair:
        inputs.append(time)
        return noisy

    Iddpm(learned_variance=False).losses(
        denoiser, clean, noise, Pair(torch.full((3,), 10.0), torch.full((3,), 20.0)), Pair(every, every)
    )

    assert (inputs[0].video.tolist(), inputs[0].audio.tolist()) == ([10.0] * 3, [20.0] * 3)


@pytest.mark.parametrize(("prediction", "wanted"), [("epsilon", 5 / 9999), ("v", 5 / 10000)])
def test_min_snr_caps_the_weight_of_clean_times(prediction: str, wanted: float) -> None:
    clean, noise = clips()
    every = torch.ones(3, dtype=torch.bool)
    plain = Iddpm(learned_variance=False, prediction=prediction)
    predicted = clean.map(lambda x: x * 0)
    zero = torch.zeros(3)

    weighed = replace(plain, min_snr=5.0).losses(lambda n, t: predicted, clean, noise, zero, Pair(every, every)).total
    whole = plain.losses(lambda n, t: predicted, clean, noise, zero, Pair(every, every)).total

    assert torch.allclose(weighed / whole, torch.full((3,), wanted), rtol=1e-3)  # SNR at time 0 is 9999


def test_the_variational_term_has_a_weight_of_its_own() -> None:
    clean, noise = clips()
    every = torch.ones(3, dtype=torch.bool)
    predicted = clean.map(lambda x: torch.cat([x * 0, x * 0], dim=1))
    times = torch.full((3,), 300.0)

    def parts(weight: float) -> dict[str, torch.Tensor]:
        objective = Iddpm(variational_weight=weight)
        return objective.losses(lambda n, t: predicted, clean, noise, times, Pair(every, every)).parts

    whole, part = parts(1.0), parts(0.25)
    assert torch.allclose(part["audio_vb"], whole["audio_vb"] / 4)
    assert torch.equal(part["audio_mse"], whole["audio_mse"])


def test_iddpm_times_are_all_whole_steps_equally_often() -> None:
    times = Iddpm().draw_times(torch.arange(4000, dtype=torch.float64) / 4000)

    assert times.dtype == torch.float32
    assert torch.equal(times.long().bincount(), torch.full((1000,), 4))


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"zero_terminal_snr": True}, "needs objective 'v'"),
        ({"objective": "v", "zero_terminal_snr": True, "min_snr": 5.0}, "would have the weight 0"),
        ({"independent_timesteps": True, "noise_both": True}, "exclude each other"),
        ({"min_snr": 0.0}, "min_snr is 0.0"),
        ({"variational_weight": 0.0}, "variational_weight is 0.0"),
        ({"objective": "flow", "min_snr": 5.0}, "min_snr"),
        ({"objective": "flow", "variational_weight": 0.5}, "variational_weight"),
        ({"flow_shift": 0.0}, "flow_shift is 0.0"),
        ({"flow_steps": 0}, "flow_steps is 0"),
    ],
)
def test_an_invalid_objective_is_refused(changes: dict[str, object], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        DiffusionConfig(**changes)
