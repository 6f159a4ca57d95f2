# %% [markdown]
# # Prepare your own clips
#
# A folder of media files becomes latent shards. Open this file as a notebook (`jupytext --to notebook`), in an editor
# that knows `# %%` cells, or run it. It needs no network, no weights and no GPU.

# %%
from pathlib import Path

from pipelines.cluster.choice import open_backend
from pipelines.run.pipeline import LogListener, run_pipeline
from pipelines.run.request import RunRequest, open_request
from uniform.media.clip_file import write_clip
from uniform.spec import TOY
from uniform.synthetic.worlds import make_clip

# %% [markdown]
# Clips to begin with. Use your own files instead: any container, a folder for each class, a `.txt` file beside a clip
# for its caption.

# %%
CLIPS = 64
folder = Path("my_clips")
for number in range(CLIPS):
    clip = make_clip("w1", number, TOY)
    path = folder / "videos" / "ball" / f"clip_{number:03d}.mp4"
    write_clip(path, clip.frames, clip.waveform, TOY.fps, TOY.rate_hz)
    path.with_suffix(".txt").write_text(clip.truth.caption)

# %% [markdown]
# A manifest of a few lines says where the files are and what the columns mean (docs/adding_a_dataset.md).

# %%
manifest = folder / "my_clips.toml"
manifest.write_text(
    """
name = "my_clips"
root = "videos"

[listing]
glob = ["**/*.mp4"]

[listing.columns]
labels = "folder"
caption = "sidecar"
"""
)

# %% [markdown]
# Run the recipe `toy` in this process. With `inline=False` Ray uses every core, and the shards have the same bytes. Run
# the cell again after a stop: finished units are kept.

# %%
request = RunRequest(targets=[str(manifest)], recipe="toy", out=Path("shards"))
with open_backend(inline=True, workers=None, address=None) as backend:
    result = run_pipeline(open_request(request), backend, LogListener())
print(f"{result.indexed} of {CLIPS} clips in shards/index.parquet")
