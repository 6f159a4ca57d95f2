"""The six worlds: each draws a scene from a seed. What a joint model must learn in each:

w1 bounce      impact times and colour <-> pitch
w2 two balls   which ball makes which sound
w3 motor       a continuous coupling: loudness and pitch follow the speed
w4 ghost       only the text determines whether the ball sounds
w5 off-screen  sounds without a visible source, and a silent mover
w6 delay       only the text determines the delay of the sound
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from uniform.errors import ConfigError
from uniform.spec import Spec
from uniform.synthetic.audio import render_audio
from uniform.synthetic.scene import (
    CLOCK_HZ,
    COLOURS,
    DELAYS_S,
    LEAD_S,
    PITCH_OF_COLOUR,
    SPEED_HZ,
    TAIL_S,
    Ball,
    Motor,
    Scene,
    Truth,
    draw_flights,
    truth_of,
)
from uniform.synthetic.video import View, render_video

_KNOCK_GAP_S = (0.5, 1.1)
"""World w5: time between two knocks from outside the frame."""


@dataclass(frozen=True, kw_only=True)
class WorldClip:
    """A clip with exact truth about every event."""

    frames: np.ndarray
    """uint8 (T, H, W, 3), RGB."""
    waveform: np.ndarray
    """float32 (S,), in [-1, 1]."""
    truth: Truth


def make_clip(world: str, seed: int, spec: Spec) -> WorldClip:
    """Render clip number `seed` of `world` in the geometry of `spec`. The same arguments give the same bytes.

    Raises: ConfigError for an unknown world.
    """
    scene = draw_scene(world, seed, spec.duration_s)
    frames = render_video(scene, View.of(spec))
    waveform = render_audio(scene, rate_hz=spec.rate_hz, samples=spec.samples)
    return WorldClip(frames=frames, waveform=waveform, truth=truth_of(scene))


def draw_scene(world: str, seed: int, duration_s: float) -> Scene:
    """Draw scene number `seed` of `world`, for a clip of `duration_s` seconds.

    Raises: ConfigError for an unknown world.
    """
    if world not in WORLDS:
        raise ConfigError(f"there is no world '{world}'; known: {', '.join(WORLDS)}")
    random = np.random.default_rng([zlib.crc32(world.encode()), seed])
    return WORLDS[world](random, seed, duration_s)


def _bounce(random: np.random.Generator, seed: int, duration_s: float) -> Scene:
    """One ball. Its impact times are aperiodic; its colour is its pitch."""
    colour = str(random.choice(list(COLOURS)))
    ball = _sounding_ball(random, colour, duration_s)
    caption = f"a {colour} ball bounces on the floor with a {ball.pitch} tone"
    return Scene(world="w1", seed=seed, duration_s=duration_s, caption=caption, label="bounce", balls=(ball,))


def _two_balls(random: np.random.Generator, seed: int, duration_s: float) -> Scene:
    """Two balls with independent flights, one in each half of the frame."""
    left, right = (str(colour) for colour in random.choice(list(COLOURS), size=2, replace=False))
    balls = tuple(
        Ball(
            colour=colour,
            pitch=PITCH_OF_COLOUR[colour],
            x=side * float(random.uniform(0.19, 0.31)),
            impacts_s=draw_flights(random, duration_s),
        )
        for colour, side in ((left, -1), (right, 1))
    )
    caption = (
        f"a {left} ball on the left bounces with a {balls[0].pitch} tone and "
        f"a {right} ball on the right bounces with a {balls[1].pitch} tone"
    )
    return Scene(world="w2", seed=seed, duration_s=duration_s, caption=caption, label="two balls", balls=balls)


def _motor(random: np.random.Generator, seed: int, duration_s: float) -> Scene:
    """A turning weight whose speed is band-limited noise below 1 Hz; the hum follows the speed."""
    colour = str(random.choice(list(COLOURS)))
    clock_s = np.arange(round((LEAD_S + duration_s + TAIL_S) * CLOCK_HZ)) / CLOCK_HZ
    rates_hz = random.uniform(0.15, 0.9, 6)
    phases = random.uniform(0.0, 2 * np.pi, 6)
    noise = np.cos(2 * np.pi * rates_hz * clock_s[:, None] + phases).sum(axis=1)
    inside = noise[round(LEAD_S * CLOCK_HZ) : round((LEAD_S + duration_s) * CLOCK_HZ)]
    share = np.clip((noise - inside.min()) / (inside.max() - inside.min()), 0.0, 1.0)  # each clip spans the whole range
    slowest, fastest = SPEED_HZ
    speed_hz = slowest + (fastest - slowest) * share
    angle = random.uniform(0.0, 1.0) + np.cumsum(speed_hz) / CLOCK_HZ
    motor = Motor(colour=colour, angle=tuple(angle.tolist()), speed_hz=tuple(speed_hz.tolist()))
    caption = f"a motor swings a {colour} weight around and hums, louder and higher the faster it turns"
    return Scene(world="w3", seed=seed, duration_s=duration_s, caption=caption, label="motor", motor=motor)


def _ghost(random: np.random.Generator, seed: int, duration_s: float) -> Scene:
    """A glass ball that sounds or a ghost ball that is silent; both look the same."""
    colour = str(random.choice(list(COLOURS)))
    ball = _sounding_ball(random, colour, duration_s)
    caption = f"a {colour} glass ball bounces on the floor with a {ball.pitch} tone"
    if random.random() < 0.5:
        ball = Ball(colour=colour, pitch=None, x=ball.x, impacts_s=ball.impacts_s)
        caption = f"a {colour} ghost ball bounces on the floor without a sound"
    return Scene(
        world="w4", seed=seed, duration_s=duration_s, caption=caption, label="ghost", balls=(ball,), room_noise=True
    )


def _off_screen(random: np.random.Generator, seed: int, duration_s: float) -> Scene:
    """A sounding ball, a silent grey ball, and knocks from outside the frame; all three are independent."""
    colour = str(random.choice(list(COLOURS)))
    side = float(random.choice([-1.0, 1.0]))
    sounding, silent = (
        Ball(
            colour=name,
            pitch=PITCH_OF_COLOUR.get(name),
            x=where * float(random.uniform(0.19, 0.31)),
            impacts_s=draw_flights(random, duration_s),
        )
        for name, where in ((colour, side), ("grey", -side))
    )
    count = int((LEAD_S + duration_s + TAIL_S) / _KNOCK_GAP_S[0]) + 1
    knocks = -LEAD_S + np.cumsum(random.uniform(*_KNOCK_GAP_S, count))
    words = {-1.0: "left", 1.0: "right"}
    caption = (
        f"a {colour} ball on the {words[side]} bounces with a {sounding.pitch} tone, "
        f"a grey ball on the {words[-side]} bounces in silence, and someone knocks outside the picture"
    )
    return Scene(
        world="w5",
        seed=seed,
        duration_s=duration_s,
        caption=caption,
        label="off-screen",
        balls=(sounding, silent),
        knocks_s=tuple(knocks[knocks < duration_s + TAIL_S].tolist()),
        room_noise=True,
    )


def _delay(random: np.random.Generator, seed: int, duration_s: float) -> Scene:
    """A ball whose sound has the delay that the caption names."""
    colour = str(random.choice(list(COLOURS)))
    words = str(random.choice(list(DELAYS_S)))
    plain = _sounding_ball(random, colour, duration_s)
    ball = Ball(colour=colour, pitch=plain.pitch, x=plain.x, impacts_s=plain.impacts_s, delay_s=DELAYS_S[words])
    caption = f"a {colour} ball bounces on the floor and its {ball.pitch} tone comes {words}"
    return Scene(world="w6", seed=seed, duration_s=duration_s, caption=caption, label="delay", balls=(ball,))


def _sounding_ball(random: np.random.Generator, colour: str, duration_s: float) -> Ball:
    x = float(random.uniform(-0.3, 0.3))
    return Ball(colour=colour, pitch=PITCH_OF_COLOUR[colour], x=x, impacts_s=draw_flights(random, duration_s))


WORLDS: dict[str, Callable[[np.random.Generator, int, float], Scene]] = {
    "w1": _bounce,
    "w2": _two_balls,
    "w3": _motor,
    "w4": _ghost,
    "w5": _off_screen,
    "w6": _delay,
}
"""World name to the function that draws its scene from (random, seed, duration in s)."""
