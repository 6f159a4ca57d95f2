"""Find the ffmpeg program, for libraries that run it to join streams without re-encoding."""

import shutil


def ffmpeg_program() -> str | None:
    """Path of ffmpeg: the machine's, else that of imageio-ffmpeg; None where there is neither."""
    found = shutil.which("ffmpeg")
    if found is not None:
        return found
    import imageio_ffmpeg

    try:
        return str(imageio_ffmpeg.get_ffmpeg_exe())
    except RuntimeError:
        return None
