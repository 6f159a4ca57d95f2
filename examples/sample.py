# %% [markdown]
# # Sample
#
# Audible video from text, video from audio, audio from video, with the run of `train_briefly.py`.

# %%
from pathlib import Path

import uniform

STEPS = 30
pipeline = uniform.UniFormPipeline.from_pretrained("run")
spec = pipeline.spec
print(f"{spec.frames} frames of {spec.width_px} x {spec.height_px} px, {spec.samples:,} samples at {spec.rate_hz:,} Hz")

# %% [markdown]
# The same seed gives the same bytes.

# %%
sample = pipeline("t2av", text="a red ball bounces on the floor with a low tone", seed=7, steps=STEPS)
print(sample.save("samples/ball.mp4"))

# %% [markdown]
# Several texts at once, with progress.

# %%
texts = ["a green ball bounces", "a blue ball bounces twice"]
inputs = [uniform.SampleInput(text=text, seed=number) for number, text in enumerate(texts)]
for number, one in enumerate(pipeline.batch(inputs, pipeline.settings(steps=STEPS), callback=print)):
    print(one.save(f"samples/text_{number}.mp4"))

# %% [markdown]
# Any file with audio gives the sound of A2V, any file with video the frames of V2A.

# %%
media = next(Path("my_clips/videos").rglob("*.mp4"))
print(pipeline("a2v", audio=media, steps=STEPS).save("samples/from_audio.mp4"))
print(pipeline("v2a", video=media, steps=STEPS).save("samples/from_video.mp4"))
