# %% [markdown]
# # Look at shards
#
# What `prepare_own_clips.py` wrote: the card, the arrays of a clip, their statistics, and clips decoded again.

# %%
from pathlib import Path

from torch.utils.data import DataLoader

import uniform
from uniform.sampling.preview import preview_shards

dataset = uniform.LatentDataset("shards")
print(f"{len(dataset)} clips of spec '{dataset.spec.name}' from {', '.join(dataset.card.datasets)}")
print(f"codecs: {dataset.card.video['name']}, {dataset.card.audio['name']}")

# %% [markdown]
# A clip is a dictionary of named arrays, normalised as the network reads them.

# %%
clip = dataset[0]
for name in ("video", "audio", "text", "text_mask"):
    print(f"{name:<10} {clip[name].dtype} {clip[name].shape}")

# %% [markdown]
# Normalised latents should have a mean near 0 and a standard deviation near 1.

# %%
loader = DataLoader(dataset, batch_size=16, collate_fn=dataset.collate)
clips = next(iter(loader))
for name in ("video", "audio"):
    print(f"{name:<10} mean {clips[name].mean():+.2f}, std {clips[name].std():.2f}")

# %% [markdown]
# Decode some clips: players and a contact sheet.

# %%
preview = preview_shards(Path("shards"), Path("preview"), clips=4)
print(preview.sheet, *preview.videos)
