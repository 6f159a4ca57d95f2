"""Who may import whom: the table of the architecture, kept by a machine."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.paths import ROOT

FILES = sorted(path for top in ("uniform", "pipelines", "cli") for path in (ROOT / top).rglob("*.py"))

LEVELS = {
    "uniform.errors": 1,
    "uniform.tasks": 1,
    "uniform.fingerprint": 1,
    "uniform.clean_text": 0,
    "uniform.deadline": 1,
    "uniform.retry": 1,
    "uniform.untrusted_json": 2,
    "uniform.formatting": 1,
    "uniform.renamed": 1,
    "uniform.atomic": 1,
    "uniform.signals": 1,
    "uniform.doctor": 1,
    "uniform.storage": 2,
    "uniform.tables": 2,
    "uniform.pages": 2,
    "uniform.checkpoint_format": 2,
    "uniform.pair": 2,
    "uniform.spec": 2,
    "uniform.config": 2,
    "uniform.media": 3,
    "uniform.diffusion": 3,
    "uniform.model": 4,
    "uniform.codecs": 4,
    "uniform.captioning": 5,
    "uniform.latents.format": 4,
    "uniform.latents.shards": 5,
    "uniform.latents.batches": 6,
    "uniform.latents.fetching": 7,
    "uniform.latents.loader": 8,
    "uniform.synthetic": 9,
    "uniform.training.lora": 9,
    "uniform.training.settings": 10,
    "uniform.training.step": 11,
    "uniform.training.parallel": 11,
    "uniform.training.optimiser": 12,
    "uniform.training.saving": 12,
    "uniform.training.reporting": 13,
    "uniform.training.state": 13,
    "uniform.training.setup": 14,
    "uniform.training.validation": 15,
    "uniform.training.plan": 16,
    "uniform.training.sample_metrics": 15,
    "uniform.training.background_sampling": 16,
    "uniform.training.trainer": 17,
    "uniform.export": 17,
    "uniform.sampling": 9,
    "uniform.evaluation": 10,
    "uniform.api": 18,
    "pipelines.clip": 20,
    "pipelines.codes": 20,
    "pipelines.hosts": 20,
    "pipelines.disk": 20,
    "pipelines.builtin": 20,
    "pipelines.schedule": 20,
    "pipelines.sources": 20,
    "pipelines.stage": 21,
    "pipelines.manifest": 21,
    "pipelines.fetching": 21,
    "pipelines.recipe_head": 21,
    "pipelines.recipe": 22,
    "pipelines.stage_support": 22,
    "pipelines.stages": 23,
    "pipelines.run": 23,
    "pipelines.cluster": 24,
    "pipelines.estimate": 24,
    "pipelines.captions": 24,
    "pipelines.report": 25,
    "cli": 30,
}
"""A module imports only modules of lower levels, or of its own entry. Entries of one level do not import each other."""

NEVER = {
    "uniform": {"pipelines", "cli", "ray"},
    "uniform.model": {"uniform.diffusion", "uniform.codecs", "uniform.latents.loader.loader", "decord", "av"},
    "uniform.diffusion": {"uniform.model", "uniform.codecs", "uniform.latents", "safetensors"},
    "uniform.training": {"uniform.codecs", "uniform.media", "decord", "av", "diffusers", "transformers"},
    "uniform.sampling": {"uniform.training"},
    "uniform.evaluation": {
        "uniform.model",
        "uniform.training",
        "uniform.codecs",
        "uniform.latents",
        "uniform.sampling",
    },
    "pipelines": {"uniform.model", "uniform.diffusion", "uniform.training", "uniform.sampling", "uniform.evaluation"},
    "cli": set(),
}
ONLY_IMPORTERS = {
    "ray": ("pipelines.cluster",),
    "decord": ("uniform.media",),
    "av": ("uniform.media", "uniform.synthetic.media_variants"),
    "imageio_ffmpeg": ("uniform.media",),
}
"""A library, and the modules or folders that alone may import it."""


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def _imports(path: Path, top_level_only: bool = False) -> set[str]:
    tree = ast.parse(path.read_text())
    found: set[str] = set()
    for node in tree.body if top_level_only else ast.walk(tree):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return found


def _within(module: str, place: str) -> bool:
    return module == place or module.startswith(f"{place}.")


def _entry(module: str) -> str | None:
    return max((place for place in LEVELS if _within(module, place)), key=len, default=None)


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_imports_run_downward_only(path: Path) -> None:
    here = _entry(_module(path))
    if here is None:
        assert path.name == "__init__.py", f"{path} has no level: add it to LEVELS"
        return
    for imported in _imports(path):
        there = _entry(imported)
        if there is not None and there != here:
            assert LEVELS[there] < LEVELS[here], f"{_module(path)} imports {imported}, which is not on a lower level"


@pytest.mark.parametrize("path", FILES, ids=_module)
def test_forbidden_imports_are_absent(path: Path) -> None:
    module = _module(path)
    forbidden = {name for place, names in NEVER.items() if _within(module, place) for name in names}
    for imported in _imports(path):
        assert not any(_within(imported, name) for name in forbidden), f"{module} must not import {imported}"
        for library, importers in ONLY_IMPORTERS.items():
            if _within(imported, library):
                known = any(_within(module, importer) for importer in importers)
                assert known, f"{library} is imported by {', '.join(importers)} alone, not by {module}"


@pytest.mark.parametrize("path", sorted((ROOT / "pipelines" / "stages").glob("[a-z]*.py")), ids=_module)
def test_a_stage_imports_no_other_stage(path: Path) -> None:
    others = {name for name in _imports(path) if name.startswith("pipelines.stages")}

    assert not others


def test_there_is_no_import_cycle() -> None:
    modules = {_module(path): path for path in FILES}
    edges = {name: {m for m in _imports(path) if m in modules and m != name} for name, path in modules.items()}
    edges["uniform"] = set()  # its names load when they are used: see test_importing_stays_light
    done: set[str] = set()

    def visit(name: str, trail: tuple[str, ...]) -> None:
        assert name not in trail, " -> ".join((*trail[trail.index(name) :], name))
        if name not in done:
            for imported in edges[name]:
                visit(imported, (*trail, name))
            done.add(name)

    for name in modules:
        visit(name, ())


def test_no_file_is_longer_than_350_lines_and_no_function_longer_than_60() -> None:
    lengths = {(_module(path), ""): (len(path.read_text().splitlines()), 350) for path in FILES}
    for path in FILES:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lengths[_module(path), node.name] = ((node.end_lineno or 0) - node.lineno + 1, 60)

    assert not {place: length for place, (length, limit) in lengths.items() if length > limit}


def test_print_lives_in_the_command_line_only() -> None:
    assert len(FILES) > 250
    for path in FILES:
        if not _within(_module(path), "cli"):
            calls = [node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
            assert not any(isinstance(call.func, ast.Name) and call.func.id == "print" for call in calls), path


@pytest.mark.parametrize("path", [p for p in FILES if p.name == "__init__.py"], ids=_module)
def test_package_files_are_empty(path: Path) -> None:
    """Only `uniform/__init__.py` has content: the version, and the names of the API, which load when they are used."""
    if path == ROOT / "uniform" / "__init__.py":
        body = ast.parse(path.read_text()).body
        assert "__version__" in path.read_text()
        assert [type(node).__name__ for node in body] == ["Expr", "ImportFrom", "Assign", "If", "Assign"]
    else:
        assert path.read_text() == ""


@pytest.mark.parametrize(
    ("module", "unloaded"),
    [
        ("uniform", ("torch", "pyarrow", "numpy", "ray", "transformers", "diffusers", "av", "decord", "webdataset")),
        ("cli.main", ("torch", "ray", "transformers", "diffusers", "pyarrow", "av", "decord")),
        ("uniform.training.trainer", ("ray", "decord", "av", "diffusers", "transformers")),
        ("uniform.evaluation.extractors.fetch_record", ("torch", "transformers", "huggingface_hub")),
        ("pipelines.run.plan", ("torch", "ray")),
    ],
)
def test_importing_stays_light(module: str, unloaded: tuple[str, ...]) -> None:
    code = f"import sys, {module}; print(*[name for name in {unloaded!r} if name in sys.modules])"

    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, timeout=120)

    assert (run.returncode, run.stdout.strip()) == (0, ""), run.stderr
