"""Sampling: depends on the seed and not on the batch, keeps the conditioning modality, and improves with training."""

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from uniform.diffusion.guidance import Guidance
from uniform.diffusion.objective import DiffusionConfig, make_objective
from uniform.errors import InputError
from uniform.model.config import ModelConfig
from uniform.model.transformer import UniForm
from uniform.pair import Pair
from uniform.sampling.generate import generate, noise_source
from uniform.tasks import Task

VIDEO, AUDIO = (4, 3, 4, 4), (8, 6, 4)
CONFIG = ModelConfig(depth=1, width=48, heads=2, text_width=8, text_tokens=4, share="split")
OBJECTIVE = make_objective(DiffusionConfig(objective="v"), learned_variance=True)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    """Small products are fastest on one thread, by far where cores are shared."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def model() -> UniForm:
    model = UniForm(CONFIG, VIDEO, AUDIO)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def texts(clips: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(clips, 3, 8, generator=torch.Generator().manual_seed(2)), torch.ones(clips, 3, dtype=torch.bool)


def latents(clips: int) -> Pair:
    generator = torch.Generator().manual_seed(6)
    return Pair(torch.randn(clips, *VIDEO, generator=generator), torch.randn(clips, *AUDIO, generator=generator))


def test_guidance_by_the_conditioning_modality_costs_nothing_in_t2av(model: UniForm) -> None:
    calls = []
    handle = model.register_forward_hook(lambda module, arguments, out: calls.append(len(out.video)))
    for guidance in (
        Guidance(video=1.0, audio=1.0, conditioning=1.0),
        Guidance(video=1.0, audio=1.0, conditioning=3.0),
    ):
        generate(model, OBJECTIVE, task=Task.T2AV, seeds=[1], solver="ddim", steps=1, guidance=guidance)
    handle.remove()

    assert calls == [1, 1]


@pytest.mark.parametrize("solver", ["ancestral", "ddim", "dpm++"])
def test_a_sample_does_not_depend_on_its_batch(model: UniForm, solver: str) -> None:
    text, mask = texts(3)
    options = {"task": Task.T2AV, "solver": solver, "steps": 4, "guidance": Guidance(video=3.0, audio=2.0)}

    together = generate(model, OBJECTIVE, seeds=[11, 12, 13], text=text, text_mask=mask, **options)
    alone = generate(model, OBJECTIVE, seeds=[12], text=text[1:2], text_mask=mask[1:2], **options)

    assert torch.allclose(together.video[1], alone.video[0], atol=1e-5)
    assert torch.allclose(together.audio[1], alone.audio[0], atol=1e-5)


def test_same_seed_same_bytes(model: UniForm) -> None:
    first, second, other = (generate(model, OBJECTIVE, task=Task.T2AV, seeds=[seed], steps=3) for seed in (7, 7, 8))

    assert torch.equal(first.video, second.video)
    assert not torch.allclose(first.video, other.video, atol=1e-2)


def test_noise_of_a_seed_is_standard_normal_and_differs_between_video_and_audio() -> None:
    noise = noise_source([1, 2], ((4, 5000), (4, 5000)), torch.device("cpu"))()

    for x in noise:
        assert float(x.mean()) == pytest.approx(0, abs=0.02)
        assert float(x.std()) == pytest.approx(1, abs=0.02)
    assert not torch.equal(noise.video, noise.audio)


@pytest.mark.parametrize(("task", "which"), [(Task.A2V, "audio"), (Task.V2A, "video")])
def test_the_conditioning_modality_is_returned_bit_for_bit(model: UniForm, task: Task, which: str) -> None:
    media = latents(2)
    text, mask = texts(2)

    found = generate(
        model,
        OBJECTIVE,
        task=task,
        seeds=[1, 2],
        text=text,
        text_mask=mask,
        conditioning=media,
        steps=3,
        guidance=Guidance(),
    )

    other = "video" if which == "audio" else "audio"
    assert torch.equal(found.of(which), media.of(which))
    assert not torch.equal(found.of(other), media.of(other))


def test_one_conditioning_latent_serves_all_seeds(model: UniForm) -> None:
    media = latents(1)

    found = generate(model, OBJECTIVE, task=Task.V2A, seeds=[1, 2, 3], conditioning=media, steps=2)

    assert torch.equal(found.video, media.video.expand(3, *VIDEO))
    assert not torch.equal(found.audio[0], found.audio[1])


def test_a_clip_without_text_is_the_same_as_a_row_without_tokens(model: UniForm) -> None:
    text, _ = texts(1)

    none = generate(model, OBJECTIVE, task=Task.T2AV, seeds=[1], steps=2)
    empty = generate(
        model, OBJECTIVE, task=Task.T2AV, seeds=[1], text=text, text_mask=torch.zeros(1, 3, dtype=torch.bool), steps=2
    )

    assert torch.allclose(none.video, empty.video, atol=1e-5)


def test_each_guidance_scale_acts(model: UniForm) -> None:
    text, mask = texts(1)
    media = latents(1)

    def sample_audio(**scales: float) -> torch.Tensor:
        scale = Guidance(**{"video": 1.0, "audio": 1.0, **scales})
        return generate(
            model,
            OBJECTIVE,
            task=Task.V2A,
            seeds=[1],
            text=text,
            text_mask=mask,
            conditioning=media,
            steps=2,
            guidance=scale,
        ).audio

    plain = sample_audio()
    assert (sample_audio(audio=5.0) - plain).abs().max() > 1e-3
    assert (sample_audio(conditioning=5.0) - plain).abs().max() > 1e-3


def test_batches_cost_one_network_call_per_step(model: UniForm) -> None:
    calls: list[int] = []
    hook = model.register_forward_hook(lambda module, arguments, out: calls.append(len(out.video)))
    text, mask = texts(2)

    generate(
        model, OBJECTIVE, task=Task.T2AV, seeds=[1, 2], text=text, text_mask=mask, steps=3, guidance=Guidance(video=3.0)
    )
    hook.remove()

    assert calls == [4, 4, 4]


def test_a_missing_or_misshapen_conditioning_latent_is_refused(model: UniForm) -> None:
    with pytest.raises(InputError, match="task a2v needs the audio latent as condition"):
        generate(model, OBJECTIVE, task=Task.A2V, seeds=[1], steps=1)
    wrong = Pair(torch.zeros(1, 4, 2, 4, 4), torch.zeros(1, *AUDIO))
    with pytest.raises(
        InputError, match=r"the conditioning video latent is \(1, 4, 2, 4, 4\), wanted \(1, 4, 3, 4, 4\)"
    ):
        generate(model, OBJECTIVE, task=Task.V2A, seeds=[1], conditioning=wrong, steps=1)


@pytest.mark.parametrize("kind", ["v", "flow"])
def test_a_little_training_over_fits_two_clips(kind: str) -> None:
    """The loss falls to a quarter, and sampling reproduces the audio that belongs to each video."""
    torch.manual_seed(0)
    objective = make_objective(DiffusionConfig(objective=kind), learned_variance=False)
    model = UniForm(replace(CONFIG, learned_variance=False), VIDEO, AUDIO)
    clean = latents(2)
    optimiser = torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.0)
    task = torch.full((8,), Task.V2A.number)
    generates = Pair(torch.zeros(8, dtype=torch.bool), torch.ones(8, dtype=torch.bool))
    batch = clean.map(lambda x: x.repeat(4, *[1] * (x.dim() - 1)))
    text = torch.zeros(8, 1, 8)
    losses = []
    for _ in range(120):
        noise, t = batch.map(torch.randn_like), objective.draw_times(torch.rand(8))
        loss = objective.losses(lambda x, time: model(x, time, task, text), batch, noise, t, generates).total.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())

    found = generate(
        model,
        objective,
        task=Task.V2A,
        seeds=[1, 2],
        conditioning=clean,
        solver="ddim" if kind == "v" else "heun",
        steps=12,
    )

    assert sum(losses[-10:]) < sum(losses[:10]) / 4
    error = ((found.audio[:, None] - clean.audio[None]) ** 2).flatten(2).mean(2)  # (sample, clip)
    assert float(error.diagonal().max()) < 0.3
    assert float(error[0, 1].minimum(error[1, 0])) > 1.0
