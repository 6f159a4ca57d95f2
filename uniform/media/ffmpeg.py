"""Where the ffmpeg program is, for libraries that start it themselves to put streams together untouched."""

import shutil


def ffmpeg_program() -> str | None:
    """Path of ffmpeg: the machine's own, else the one that comes with the toolkit; None where there is neither."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None
