"""The clips of a manifest as what `uniform sample` can be asked for: captions, and files that give one modality."""

from pathlib import Path
from typing import Any

from pipelines.clip import Row
from pipelines.manifest.build import clips_of
from pipelines.sources.paths import OutsideRootError, RootFolder
from uniform.errors import ManifestError


def sample_tables(path: Path, split: str | None, *, with_media: bool) -> list[dict[str, Any]]:
    """One table for each clip, in the manifest's order, with the keys of a line of prompts.

    Args:
        path: a manifest (TOML), or a manifest.parquet.
        split: only its clips; None takes all.
        with_media: give each clip's own file and start, for a task that begins from a modality.
    Returns: name (the clip's id), text (its caption, where it has one), and media and start_ms where wanted.
    Raises: ManifestError where the split is unknown, a file is missing, or the clips are not files of this machine.
    """
    rows, roots = clips_of(path, root=path.parent if path.suffix == ".parquet" else None)
    known = sorted({row.split for row in rows})
    if split is not None and split not in known:
        raise ManifestError(f"{path}: no clip is of split '{split}'; there are {', '.join(known)}")
    chosen = [row for row in rows if split is None or row.split == split]
    folders = {name: RootFolder(root) for name, root in roots.items()}
    tables = []
    for row in chosen:
        table: dict[str, Any] = {"name": row.clip_id}
        if row.caption:
            table["text"] = row.caption
        if with_media:
            table |= {"media": str(_file(path, row, folders[row.dataset])), "start_ms": row.start_ms}
        tables.append(table)
    return tables


def _file(path: Path, row: Row, folder: RootFolder) -> Path:
    where = f"{path}: clip {row.clip_id}"
    if row.source_kind != "local":
        raise ManifestError(
            f"{where} is of kind '{row.source_kind}'; samples begin from files of this machine. Fetch the clips "
            f"first, and write a manifest of kind 'local' for them."
        )
    try:
        found = folder.find(row.source_uri)
    except OutsideRootError as error:
        raise ManifestError(f"{where}: {error}. Copy the file below the root.") from error
    if found is None:
        raise ManifestError(
            f"{where}: there is no file {row.source_uri!r} below {folder.root}. Check the manifest's "
            f"root; a table of clips is looked up beside itself."
        )
    return found.absolute()
