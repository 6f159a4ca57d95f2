"""`uniform.evaluate`: measure samples against real clips under a protocol, as `uniform evaluate` does."""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from uniform.evaluation.extractors.catalogue import default_folder
from uniform.evaluation.protocol import read_protocol
from uniform.evaluation.result import as_json, write_result
from uniform.evaluation.run import Options
from uniform.evaluation.run import evaluate as run_evaluation


def evaluate(
    samples: str | Path,
    real: str | Path,
    protocol: str | Path = "offline",
    *,
    metrics: Sequence[str] = (),
    out: str | Path | None = None,
    weights: str | Path | None = None,
    device: str = "cpu",
    workers: int = 2,
    allow_unequal: bool = False,
    skip_missing: bool = False,
    cache: str | Path | None = None,
    progress: Callable[[str, int, int], None] | None = None,
) -> dict[str, Any]:
    """Compare a folder of samples with real clips.

    Args:
        samples, real: folders or lists of clips; clips of both are joined by name.
        protocol: a shipped protocol or a TOML file; "offline" needs no download.
        metrics: only these of the protocol; empty is all.
        out: folder that receives the page, result.json and the scores of each clip; None writes nothing there.
        weights: folder of the published weights of the extractors; None is the default of `uniform evaluate`.
        device: of the extractors.
        workers: processes that decode.
        allow_unequal: accept sets whose clips do not all have a partner.
        skip_missing: leave out metrics whose network or library is not there.
        cache: folder for features, in place of the ones beside the sets.
        progress: called with a stage, how many of its items are done, and how many there are.
    Returns: the content of result.json; `["rows"]["generated"][METRIC]` holds a value with its interval.
    Raises: InputError for sets that cannot be compared; WeightsError, ConfigError for networks that cannot be run.
    """
    options = Options(
        weights=default_folder() if weights is None else Path(weights),
        device=device,
        workers=workers,
        allow_unequal=allow_unequal,
        skip_missing=skip_missing,
        cache=None if cache is None else Path(cache),
    )
    rules = read_protocol(str(protocol), tuple(metrics))
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    found = run_evaluation(
        Path(samples), Path(real), rules, options, progress=progress or (lambda stage, done, total: None)
    )
    return as_json(found) if out is None else write_result(found, Path(out), started)
