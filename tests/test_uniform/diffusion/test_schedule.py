"""The noise schedule equals the original."""

import json

import pytest
import torch

from tests.support.paths import DATA
from uniform.diffusion.schedule import linear_schedule
from uniform.errors import InputError

REFERENCE = json.loads((DATA / "iddpm.json").read_text())


def test_linear_schedule_equals_the_original() -> None:
    schedule = linear_schedule()

    assert REFERENCE["alphas_cumprod"]
    for step, wanted in REFERENCE["alphas_cumprod"].items():
        assert float(schedule.alpha_bar[int(step)]) == pytest.approx(wanted, rel=1e-5)


@pytest.mark.parametrize("steps", [20, 50, 100, 250])
def test_respacing_gives_the_times_of_the_original(steps: int) -> None:
    assert linear_schedule().respace(steps).times.tolist() == REFERENCE[f"timesteps_{steps}"]


def test_respaced_schedule_keeps_the_noise_levels_of_its_times() -> None:
    whole, few = linear_schedule(), linear_schedule().respace(10)

    assert torch.equal(few.alpha_bar, whole.alpha_bar[few.times])
    assert torch.allclose(torch.cumprod(1 - few.beta, dim=0), few.alpha_bar)


def test_zero_terminal_snr_ends_in_pure_noise_and_keeps_the_first_step() -> None:
    schedule, plain = linear_schedule(zero_terminal_snr=True), linear_schedule()

    assert float(schedule.alpha_bar[-1]) == 0
    assert float(schedule.alpha_bar[0]) == pytest.approx(float(plain.alpha_bar[0]))
    assert bool((schedule.alpha_bar.diff() < 0).all())


@pytest.mark.parametrize("steps", [0, 1001])
def test_a_number_of_steps_out_of_range_is_refused(steps: int) -> None:
    with pytest.raises(InputError, match="take 1 to 1000"):
        linear_schedule().respace(steps)
