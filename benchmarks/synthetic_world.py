"""Train UniForm end to end on a synthetic world, and score samples against the exact truth.

    write a world -> manifest -> latent shards -> train -> sample each task on held-out clips -> detectors -> table

    python benchmarks/synthetic_world.py --minutes 30 --seeds 0 1 2          the toy preset
    python benchmarks/synthetic_world.py --minutes 30 --cross-modal-mask     control: modalities masked from each other
    python benchmarks/synthetic_world.py --minutes 30 --tasks v2a            a single-task model
    python benchmarks/synthetic_world.py --minutes 30 --objective epsilon    the paper's objective
    python benchmarks/synthetic_world.py --minutes 30 --layout tokens        another layout
    python benchmarks/synthetic_world.py --world w2 --minutes 30             another world
    python benchmarks/synthetic_world.py --summary                           all runs so far, one line each

Finished steps are kept in --out and not repeated. Each row of the table has the chance level (exchanged partners) and
the ceiling (the truth after files and codecs, scored in the same way).
"""

import argparse
import json
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "2")

import numpy as np
import torch

from uniform import atomic
from uniform.codecs.base import open_audio_codec, open_video_codec
from uniform.diffusion.objective import make_objective
from uniform.diffusion.solver import SOLVERS, check_solver
from uniform.evaluation.world.observe import observe
from uniform.evaluation.world.sample_scores import Measure, Sample, as_json, read_samples, score_samples
from uniform.sampling.gallery import write_gallery
from uniform.sampling.open import open_sampler, sample_config
from uniform.sampling.request import Request
from uniform.spec import TOY
from uniform.synthetic.clip_variants import from_files, through_codecs
from uniform.synthetic.worlds import WORLDS
from uniform.synthetic.write import LISTING_NAME, write_world
from uniform.tasks import Task
from uniform.training.reporting.observer import Observer, Progress
from uniform.training.settings.config import TrainConfig
from uniform.training.settings.presets import load_config
from uniform.training.trainer import train

ROOT = Path(__file__).parents[1]
OBJECTIVES = {
    "flow": ("diffusion.objective=flow", "model.learned_variance=false"),
    "v": ("diffusion.objective=v", "model.learned_variance=false"),
    "epsilon": ("diffusion.objective=epsilon", "model.learned_variance=true"),
}
LAYOUTS = {
    "shared": ("model.layout=grid", "model.share=shared"),
    "split": ("model.layout=grid", "model.share=split"),
    "tokens": ("model.layout=tokens", "model.share=shared", "model.audio_patch=[5,2]"),  # two tokens a latent frame
}
BARS = {
    "w1": {("v2a", "audio_f1"): 0.95, ("a2v", "video_f1"): 0.90, ("t2av", "joint_f1"): 0.70},
    "w2": {("v2a", "audio_f1"): 0.80, ("a2v", "video_f1"): 0.80},
    "w3": {("v2a", "audio_r"): 0.80, ("a2v", "video_r"): 0.80},
    "w4": {("v2a", "ghost_auc"): 0.95, ("t2av", "ghost_auc"): 0.95},
    "w6": {("v2a", "lag_error_s"): 0.020, ("t2av", "joint_lag_error_s"): 0.020},
}
"""World: (task, score): what flow or v should reach with text in 30 minutes on two cores; a lag error at most that."""
ROWS = ("text", "guided", "no-text")
TRIAL_STEPS = 12


def main() -> None:
    """Run, print the table, write results.json."""
    arguments = _arguments()
    if arguments.summary:
        print(_summary(arguments.out))
        return
    torch.set_num_threads(arguments.threads)
    world = arguments.out / arguments.world
    manifest = write_world(
        arguments.world, TOY, world, train_clips=arguments.clips, test_clips=arguments.test_clips, seed=0
    )
    shards = world / "shards"
    if not (shards / "index.parquet").exists():
        _uniform(
            "pipeline", "run", manifest, "--recipe", arguments.recipe, "--out", shards, "--workers", arguments.threads
        )
    rows: dict[str, Any] = {"ceiling": as_json(_ceiling(world))}
    for seed in arguments.seeds:
        run = arguments.out / f"{_label(arguments)}-seed{seed}"
        config = _config(arguments, shards, run, seed)
        if arguments.solver:  # before the training, not after it
            objective = make_objective(config.diffusion, learned_variance=config.model.learned_variance)
            check_solver(arguments.solver, objective, arguments.sampling_steps or 1)
        if not (run / "finished.json").exists():
            stopwatch = Stopwatch(run.with_name(f"{run.name}-time.json"))
            result = train(config, [stopwatch])
            finished = {"steps": result.step, "loss": result.loss, **stopwatch.read()}
            (run / "finished.json").write_text(json.dumps(finished))
        rows[f"seed {seed}"] = {
            "training": json.loads((run / "finished.json").read_text()),
            **_sample_and_score(arguments, run, world, seed),
        }
    report = {"arguments": {k: str(v) for k, v in vars(arguments).items()}, "machine": _machine(), "rows": rows}
    name = "-".join([_label(arguments), *_sampling(arguments)])
    (arguments.out / f"{name}.json").write_text(json.dumps(report, indent=1))
    print(_table(rows, arguments))


class Stopwatch(Observer):
    """Time of a training run that can be stopped and resumed.

    Written at each checkpoint, since steps after the last one are repeated.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.before = json.loads(path.read_text()) if path.exists() else {"minutes": 0.0, "core_minutes": 0.0}
        self.began, self.began_cpu = time.monotonic(), time.process_time()

    def read(self) -> dict[str, float]:
        """Wall-clock and processor minutes, including those before the checkpoint that this run resumed from."""
        return {
            "minutes": self.before["minutes"] + (time.monotonic() - self.began) / 60,
            "core_minutes": self.before["core_minutes"] + (time.process_time() - self.began_cpu) / 60,
        }

    def saved(self, path: Path) -> None:
        atomic.write_bytes(self.path, json.dumps(self.read()).encode())


class Ticks(Observer):
    """End time of each window of steps."""

    def __init__(self) -> None:
        self.stamps: list[float] = []

    def progressed(self, progress: Progress) -> None:
        self.stamps.append(time.monotonic())


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--summary", action="store_true", help="Only print the main scores of all runs in --out.")
    parser.add_argument("--world", choices=list(WORLDS), default="w1")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--minutes", type=float, default=30.0, help="Training time; sets the number of steps.")
    parser.add_argument("--steps", type=int, help="Training steps, instead of --minutes.")
    parser.add_argument("--objective", choices=list(OBJECTIVES), help="Default: the preset's.")
    parser.add_argument("--layout", choices=list(LAYOUTS), help="Default: the preset's.")
    parser.add_argument("--cross-modal-mask", action="store_true", help="Control: mask the modalities from each other.")
    parser.add_argument("--tasks", nargs="+", default=[str(task) for task in Task], help="Train these tasks only.")
    parser.add_argument("--init", type=Path, help="Begin with the weights of this run.")
    parser.add_argument("--set", nargs="*", default=[], metavar="KEY=VALUE", help="Further changes to the preset.")
    parser.add_argument("--preset", default="toy")
    parser.add_argument("--recipe", default=str(ROOT / "benchmarks" / "synthetic_world_recipe.toml"))
    parser.add_argument("--clips", type=int, default=2048, help="Training clips.")
    parser.add_argument("--test-clips", type=int, default=96, help="Held-out clips per task and row.")
    parser.add_argument("--rows", choices=ROWS, nargs="+", default=list(ROWS), help="Text of the samples.")
    parser.add_argument("--guidance", type=float, default=2.0, help="Text guidance of the guided rows.")
    parser.add_argument("--solver", choices=SOLVERS, help="Default: the objective's usual one.")
    parser.add_argument("--sampling-steps", type=int, help="Default: the solver's usual number.")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("bench/synthetic_world"))
    return parser.parse_args()


def _label(arguments: argparse.Namespace) -> str:
    parts = [arguments.world, arguments.preset]
    parts += [value for value in (arguments.objective, arguments.layout) if value]
    parts += ["cross_modal_mask"] if arguments.cross_modal_mask else []
    parts += [] if len(arguments.tasks) == len(Task) else ["only", *arguments.tasks]
    parts += [f"from_{arguments.init.name}"] if arguments.init else []
    parts.append(f"{arguments.steps}steps" if arguments.steps else f"{arguments.minutes:g}min")
    parts += [re.sub(r"[^\w.=]+", "_", text) for text in arguments.set]
    return "-".join(parts)


def _sampling(arguments: argparse.Namespace) -> list[str]:
    """The chosen sampling options, for file names."""
    return [str(choice) for choice in (arguments.solver, arguments.sampling_steps) if choice is not None]


def _config(arguments: argparse.Namespace, shards: Path, run: Path, seed: int) -> TrainConfig:
    overrides = [
        f'data.sources=[{{folder={json.dumps(str(shards))}, split="train"}}]',
        f"seed={seed}",
        f"compute.threads={arguments.threads}",
        *OBJECTIVES.get(arguments.objective, ()),
        *LAYOUTS.get(arguments.layout, ()),
        *(f"tasks.{task}={float(str(task) in arguments.tasks)}" for task in Task),
        f"model.cross_modal_mask={str(arguments.cross_modal_mask).lower()}",
        *([f"init={json.dumps(str(arguments.init))}"] if arguments.init else []),
        *arguments.set,
    ]
    steps = arguments.steps or _steps_for(arguments, overrides, run)
    return load_config(arguments.preset, [*overrides, f"steps={steps}", f"out={json.dumps(str(run))}"])


def _steps_for(arguments: argparse.Namespace, overrides: list[str], run: Path) -> int:
    """Steps that fit into --minutes on this machine, from a short trial. Stored, so that a stopped run resumes."""
    kept = run.with_name(f"{run.name}-steps.json")
    if not kept.exists():
        trial = run.with_name(f"{run.name}-trial")
        short = [*overrides, f"steps={TRIAL_STEPS}", "log.every=1", "log.tensorboard=false"]
        ticks = Ticks()
        if not (trial / "checkpoints").exists():
            train(load_config(arguments.preset, [*short, f"out={json.dumps(str(trial))}"]), [ticks])
        if len(ticks.stamps) < 3:
            sys.exit(f"{trial} is the rest of a stopped trial; remove it and start again")
        kept.write_text(json.dumps({"steps": int(arguments.minutes * 60 / np.median(np.diff(ticks.stamps)))}))
    steps: int = json.loads(kept.read_text())["steps"]
    return steps


def _uniform(*words: object) -> None:
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run(
        [sys.executable, "-m", "cli.main", *map(str, words)], cwd=ROOT, env=environment, check=True, stdout=sys.stderr
    )


def _ceiling(world: Path) -> dict[Task, dict[str, Measure]]:
    """The held-out clips after files and codecs, scored like samples."""
    codecs = open_video_codec("dct", TOY), open_audio_codec("dct", TOY)
    samples = []
    for clip in through_codecs(from_files(world, TOY, "test"), TOY, *codecs):
        observed = observe(clip.truth.world, clip.frames, clip.waveform, TOY)
        samples += [Sample(task=task, truth=clip.truth, observed=observed) for task in Task]
    return score_samples(samples, TOY)


def _sample_and_score(arguments: argparse.Namespace, run: Path, world: Path, seed: int) -> dict[str, Any]:
    sampler = open_sampler(run)
    rows: dict[str, Any] = {}
    for row in arguments.rows:
        guidance = arguments.guidance if row == "guided" else 1.0
        text = row != "no-text"
        name = f"{row} {guidance:g}" if row == "guided" else row
        folder = run / "-".join(["samples", *name.split(), *_sampling(arguments)])
        config = sample_config(sampler, arguments.solver, arguments.sampling_steps, cfg=guidance, batch_clips=32)
        tasks = [Task(task) for task in arguments.tasks if text or Task(task) is not Task.T2AV]
        requests = [request for task in tasks for request in _requests(world, task, text, seed)]
        sampler.run(requests, folder, config)
        write_gallery(folder, f"Synthetic world {arguments.world}, {name}")
        rows[name] = as_json(score_samples(read_samples(folder, world, TOY), TOY))
    return rows


def _requests(world: Path, task: Task, text: bool, seed: int) -> list[Request]:
    lines = [json.loads(line) for line in (world / LISTING_NAME).read_text().splitlines()]
    return [
        Request(
            name=f"{task}-{number:04d}",
            task=task,
            text=line["caption"] if text else None,
            media=None if task is Task.T2AV else world / line["path"],
            start_ms=0 if task is Task.T2AV else line["start_ms"],
            seed=1_000_000 * seed + number,
        )
        for number, line in enumerate(line for line in lines if line["split"] == "test")
    ]


def _table(rows: Mapping[str, Any], arguments: argparse.Namespace) -> str:
    """Markdown: one line per row, task and score; beside each the interval, chance and the ceiling."""
    lines = ["| run | row | task | score | value [95%] | chance | ceiling | bar |", "|---|---|---|---|---|---|---|---|"]
    for run, content in rows.items():
        if run == "ceiling":
            continue
        for row, scored in content.items():
            for task, measures in scored.items() if row != "training" else ():
                for score, found in measures.items():
                    best = rows["ceiling"].get(task, {}).get(score, {}).get("mean", float("nan"))
                    bar = BARS.get(arguments.world, {}).get((task, score), "") if row != "no-text" else ""
                    lines.append(
                        f"| {run} | {row} | {task} | {score} | {found['mean']:.3f} "
                        f"[{found['low']:.3f}, {found['high']:.3f}] | {found['chance']:.3f} | {best:.3f} | {bar} |"
                    )
    return "\n".join(lines)


def _summary(out: Path) -> str:
    """Markdown: one line per run and row of all results in a folder, with the scores that have a bar in their world."""
    lines = []
    for path in sorted(out.glob("*.json")):
        report = json.loads(path.read_text())
        if "rows" not in report:
            continue
        bars = BARS.get(report["arguments"]["world"], {})
        for run, content in report["rows"].items():
            for row, scored in content.items() if run != "ceiling" else ():
                if row == "training":
                    continue
                scores = [
                    f"{task} {score} {found['mean']:.3f} [{found['low']:.3f}, {found['high']:.3f}] "
                    f"(chance {found['chance']:.3f}, bar {bar})"
                    for (task, score), bar in bars.items()
                    if (found := scored.get(task, {}).get(score))
                ]
                cost = ", ".join(f"{name.replace('_', ' ')} {value:.4g}" for name, value in content["training"].items())
                lines.append(f"| {path.stem} | {run} | {row} | {cost} | {'; '.join(scores)} |")
    return "\n".join(["| run | seed | row | training | scores |", "|---|---|---|---|---|", *lines])


def _machine() -> dict[str, Any]:
    return {
        "cpu": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
        "date": datetime.now(UTC).date().isoformat(),
    }


if __name__ == "__main__":
    main()
