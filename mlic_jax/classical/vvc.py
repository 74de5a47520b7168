"""VVC (H.266) by VVenC, in the static ffmpeg of imageio-ffmpeg, an optional extra. Each file takes a process."""

from __future__ import annotations

import functools
import importlib.metadata
import struct
import subprocess

import numpy as np

from mlic_jax import errors, extras
from mlic_jax.classical import checks

# ffmpeg's default conversions drop bits on the way to YCbCr and interpolate colour coarsely on the way back: up to
# 1.4 dB on some photographs, which would be counted against VVC.
_EXACT = "scale=flags=bicubic+accurate_rnd+full_chroma_int+full_chroma_inp"
_LEAST = 16  # the shortest side that VVenC takes
_SIZE = struct.Struct(">HH")  # height and width, before the stream


def missing() -> str | None:
    """None if imageio-ffmpeg is there, else what to install."""
    if extras.installed("imageio_ffmpeg"):
        return None
    return extras.missing("imageio_ffmpeg", "the classical codec 'vvc' needs the ffmpeg of")


@functools.cache
def _ffmpeg() -> str:
    """The path of ffmpeg. Raises UsageError where the package, its binary, or VVenC in it is missing."""
    try:
        import imageio_ffmpeg

        path = imageio_ffmpeg.get_ffmpeg_exe()
        encoders = subprocess.run([path, "-hide_banner", "-encoders"], capture_output=True, check=True).stdout
    except (ImportError, RuntimeError, OSError, subprocess.CalledProcessError) as error:
        raise errors.UsageError(missing() or f"imageio-ffmpeg is installed but has no ffmpeg: {error}") from error
    if b"libvvenc" not in encoders:
        raise errors.UsageError(
            f"{path} was built without VVenC: pip install -U imageio-ffmpeg, and unset IMAGEIO_FFMPEG_EXE"
        )
    return path


def library() -> str:
    """The versions that decide the files."""
    first = subprocess.run([_ffmpeg(), "-version"], capture_output=True, text=True, check=True).stdout.split()
    return f"imageio-ffmpeg {importlib.metadata.version('imageio-ffmpeg')}, ffmpeg {first[2]} with VVenC"


def qp_of(quality: float) -> int:
    """Quality 0 is the quantisation parameter 60, quality 100 is 10; every 12 points, 6 of them, halve the step."""
    return round(60 - checks.quality(quality, "VVC") / 2)


def _run(words: list[str], data: bytes) -> subprocess.CompletedProcess:
    return subprocess.run([_ffmpeg(), "-hide_banner", "-loglevel", "error", *words], input=data, capture_output=True)


def _reason(done: subprocess.CompletedProcess) -> str:
    return " ".join(done.stderr.decode(errors="replace").split())[-300:]


def encode(image: np.ndarray, quality: float) -> bytes:
    """VVC intra, 4:2:0 of 10 bits, preset fast, without perceptual adaptation: the bare stream behind its size.

    VVC 4:2:0 has even sides, and VVenC takes none below 16: the last row and column are repeated, and cut by `decode`.
    The size, 4 bytes, stands in for a container, of which HEIC and AVIF have some hundreds.
    """
    image = checks.image(image, "VVC", 8192)
    qp = qp_of(quality)
    height, width = image.shape[:2]
    padding = [(0, max(_LEAST, side + side % 2) - side) for side in (height, width)]
    padded = np.pad(image, [*padding, (0, 0)], "edge")
    source = ["-f", "rawvideo", "-pix_fmt", "rgb24", "-s", f"{padded.shape[1]}x{padded.shape[0]}", "-i", "-"]
    encoder = ["-c:v", "libvvenc", "-preset", "fast", "-qp", str(qp), "-qpa", "0", "-vvenc-params", "threads=1"]
    target = ["-frames:v", "1", "-vf", _EXACT, "-pix_fmt", "yuv420p10le", *encoder, "-f", "vvc", "-"]
    done = _run(source + target, padded.tobytes())
    if done.returncode or not done.stdout:
        raise errors.UsageError(f"VVC: the encoder failed on a {width}x{height} image: {_reason(done)}")
    return _SIZE.pack(height, width) + done.stdout


def decode(data: bytes) -> np.ndarray:
    """What `encode` wrote -> uint8 [H, W, 3].

    Raises:
      CorruptStreamError: it is something else, or damaged.
    """
    reason = "it is shorter than its size"
    if len(data) > _SIZE.size:
        height, width = _SIZE.unpack_from(data)
        coded_h, coded_w = (max(_LEAST, side + side % 2) for side in (height, width))
        target = ["-vf", _EXACT, "-f", "rawvideo", "-pix_fmt", "rgb24", "-"]
        done = _run(["-threads", "1", "-f", "vvc", "-i", "-", *target], data[_SIZE.size :])
        if not done.stderr and len(done.stdout) == 3 * coded_h * coded_w:
            return np.frombuffer(done.stdout, np.uint8).reshape(coded_h, coded_w, 3)[:height, :width].copy()
        reason = _reason(done) or "another size came out"
    raise errors.CorruptStreamError(f"VVC: the file of {len(data)} bytes cannot be decoded: {reason}")
