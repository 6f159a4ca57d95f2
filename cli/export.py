"""`uniform export`: the weights of a run as one safetensors file, with all that a user of them must know inside."""

from pathlib import Path
from typing import Annotated

import typer

from cli import console


def export(
    checkpoint: Annotated[Path, typer.Argument(help="A run's folder (its newest checkpoint), or a step-... folder.")],
    out: Annotated[Path, typer.Argument(help="A .safetensors file, or with --diffusers a folder.")],
    raw: Annotated[bool, typer.Option("--raw", help="The last weights instead of their running average.")] = False,
    diffusers: Annotated[
        bool, typer.Option("--diffusers", help="A folder shaped like diffusers' models: config.json and weights.")
    ] = False,
) -> None:
    """Write the network of a run to one file: weights, configuration, spec and codec fingerprints."""
    from uniform.training.export import export_diffusers, export_model

    path = export_diffusers(checkpoint, out, raw=raw) if diffusers else export_model(checkpoint, out, raw=raw)
    console.out.print(f"written: {path} ({path.stat().st_size / 1e6:,.1f} MB)", markup=False)
