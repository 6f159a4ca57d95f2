# %% [markdown]
# # Train briefly
#
# The preset `toy` on the shards of `prepare_own_clips.py`. Run it again with more steps: it resumes. A plain loop
# without the trainer is in docs/python_api.md.

# %%
from uniform.training.settings.presets import load_config
from uniform.training.trainer import train

STEPS = 300
config = load_config(
    "toy",
    [
        'data.sources=[{folder="shards"}]',
        'out="run"',
        f"steps={STEPS}",
        "data.global_batch=16",
        "optimiser.warmup_steps=10",
        "log.tensorboard=false",
    ],
)

# %%
result = train(config)
print(f"step {result.step}, loss {result.loss:.3f}, {result.checkpoint}")
