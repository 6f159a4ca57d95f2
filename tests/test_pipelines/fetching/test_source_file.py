"""A run finds its sources wherever it is, and a source that changed since the fetch is not cut."""

import hashlib
import shutil
from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.clip import Clip
from pipelines.fetching.http import HttpOptions
from pipelines.recipe import make_recipe
from pipelines.run.folder import RunFolder
from pipelines.run.job import Run, make_run
from pipelines.run.pipeline import InlineBackend, LogListener, run_pipeline
from pipelines.run.retry import plan_again
from pipelines.stage_support.source_file import SourceFiles, stored_path
from pipelines.stages.clip_media import Stage as ClipStage
from pipelines.stages.fetch_media import Stage as FetchStage
from tests.support.hostile_server import HostileServer, hostile_server
from tests.support.media_files import write_source
from tests.test_pipelines.fetching.test_fetch_http import OPEN, ROW
from uniform.errors import MediaError
from uniform.spec import TOY
