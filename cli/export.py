"""`uniform export`: write the weights of a run with their metadata to files, and upload them to a hub on request."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from cli import console
from cli.places import local_path

if TYPE_CHECKING:
    from uniform.export.publish import Publication


def export(
    checkpoint: Annotated[
        Path, typer.Argument(help="A run's folder (its newest checkpoint), or a step-... folder.", parser=local_path)
    ],
    out: Annotated[Path, typer.Argument(help="A .safetensors file, or with --diffusers a folder.", parser=local_path)],
    raw: Annotated[bool, typer.Option("--raw", help="The last weights instead of their running average.")] = False,
    diffusers: Annotated[
        bool, typer.Option("--diffusers", help="A folder shaped like diffusers' models: config.json and weights.")
    ] = False,
    upload: Annotated[
        str | None, typer.Option("--upload", metavar="OWNER/NAME", help="Send the files to this hub repository too.")
    ] = None,
    licence: Annotated[
        str | None, typer.Option("--license", help="For --upload: the hub's identifier of the weights' licence.")
    ] = None,
    accept_licence: Annotated[
        bool,
        typer.Option("--accept-licence", help="Take --license although a codec of the checkpoint is non-commercial."),
    ] = False,
    public: Annotated[bool, typer.Option("--public", help="For --upload: not a private repository.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="For --upload: write the files, show what would be sent, send nothing.")
    ] = False,
) -> None:
    """Write the network of a run to one file: weights, configuration, spec and codec fingerprints."""
    from uniform.errors import CheckpointError
    from uniform.export.licences import require_licence
    from uniform.export.model import export_diffusers, export_model
    from uniform.export.publish import plan_publication, publish
    from uniform.model.checkpoint import load_metadata

    if upload is not None and licence is None:
        raise CheckpointError("--upload needs --license, the licence of the weights, for instance apache-2.0")
    if upload is None and (licence is not None or public or dry_run):
        raise CheckpointError("--license, --public and --dry-run go with --upload")
    if licence is not None:
        require_licence(load_metadata(checkpoint), licence, accepted=accept_licence)
    exported = (export_diffusers if diffusers else export_model)(checkpoint, out, raw=raw)
    path = exported.weights
    console.out.print(f"written: {path} ({path.stat().st_size / 1e6:,.1f} MB)", markup=False)
    if upload is None or licence is None:
        return
    publication = plan_publication(upload, exported.files, exported.metadata, licence, public=public)
    if dry_run:
        _show(publication)
    else:
        console.out.print(f"uploaded: {publish(publication)}", markup=False)


def _show(publication: "Publication") -> None:
    seen = "public" if publication.public else "private; refused where it is public already"
    console.out.print(f"would go to {publication.hub_id} ({seen}); nothing is sent:", markup=False)
    for name, path in publication.files.items():
        console.out.print(f"  {name:<40} {path.stat().st_size / 1e6:>10,.1f} MB", markup=False)
    console.out.print(f"  README.md\n\n{publication.card}", markup=False)
