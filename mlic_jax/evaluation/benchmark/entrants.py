"""What a benchmark measures: standard codecs and our models, each a curve of points."""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import mlic_jax
from mlic_jax import api, classical, zoo
from mlic_jax.data import images
from mlic_jax.errors import UsageError
from mlic_jax.fileformat import model_names
from mlic_jax.fileformat.artifact import Artifact

# The step of our quality scale.
STEP = 0.5


class Point(NamedTuple):
    """A codec at one setting: one point of its curve.

    Attributes:
      name: what tables call it.
      key: all that decides the file and its pixels, beside the picture. Results are found again by it.
      encode: uint8 [H, W, 3] -> file.
      decode: file -> uint8 [H, W, 3].
      artifact: the model; None for standard codecs.
      estimate: uint8 [H, W, 3] -> bits, -log2 P by the model; None where there is no such estimate of the file.
    """

    name: str
    key: Mapping[str, Any]
    encode: Callable[[np.ndarray], bytes]
    decode: Callable[[bytes], np.ndarray]
    artifact: Artifact | None = None
    estimate: Callable[[np.ndarray], float] | None = None


class Entrant(NamedTuple):
    """A codec in a benchmark.

    Attributes:
      label: the name of its curve.
      family: "ours" or "classical", as `report.plots` draws them.
      about: settings and versions, for people.
      points: of its curve.
      at: quality -> Point, where the codec has a scale of qualities from 0 to 100; None for models of one rate.
      step: the smallest change of quality worth trying.
    """

    label: str
    family: str
    about: str
    points: tuple[Point, ...]
    at: Callable[[float], Point] | None
    step: float = STEP


def standard(name: str) -> Entrant:
    """A standard codec with the ladder of its registry row. Raises UsageError as `classical.get`."""
    codec = classical.get(name)
    settings = {"codec": name, "settings": codec.description, "library": codec.library()}

    def at(quality: float) -> Point:
        def encode(image):
            return codec.encode(image, quality)

        return Point(f"quality {quality:g}", {**settings, "quality": float(quality)}, encode, codec.decode)

    about = f"{codec.description}; {settings['library']}"
    return Entrant(name, "classical", about, tuple(map(at, codec.qualities)), at, codec.step)


class Spec(NamedTuple):
    """A model as it is named on the command line."""

    label: str | None
    path: str
    effort: int


def parse(word: str) -> Spec:
    """`[label=]path[@effort]` -> Spec. A word that names an existing file or folder is taken as it stands.

    Raises:
      UsageError: an effort that is no digit, or an empty label or path.
    """
    label, path, effort = None, word, "0"
    if not os.path.exists(word):
        if "=" in word:
            label, path = word.split("=", 1)
        if "@" in path and not os.path.exists(path):
            path, effort = path.rsplit("@", 1)
    if label == "" or not path or not (effort.isdecimal() and len(effort) == 1):
        raise UsageError(f"{word!r} is not understood: a model is given as [label=]path[@effort], an effort is 0 to 9")
    return Spec(label, path, int(effort))


def models(specs: Sequence[Spec], load: Callable[[str], Artifact]) -> list[Entrant]:
    """Our models as entrants.

    Models of one rate that have the same label form one curve, in the order in which they are given; a model of
    several rates is a curve by itself. Without a label, a model has its own name, or its architecture's, and its effort
    if there is one.

    Args:
      specs: the models.
      load: path -> Artifact.

    Raises:
      UsageError: a model that is given twice, or a label that a model of several rates shares with another.
      ModelError, InputError: as `load`.
    """
    curves: dict[str, list[tuple[Spec, Artifact]]] = {}
    for spec in specs:
        artifact = load(spec.path)
        name = model_names.name_of(artifact.fingerprint, artifact.model)
        label = spec.label or name + (f", effort {spec.effort}" if spec.effort else "")
        curves.setdefault(label, []).append((spec, artifact))
    return [_entrant(label, members) for label, members in curves.items()]


def _entrant(label: str, members: Sequence[tuple[Spec, Artifact]]) -> Entrant:
    several = [spec.path for spec, artifact in members if zoo.codec_of(artifact).traits.ladder]
    if several and len(members) > 1:
        raise UsageError(
            f"{several[0]!r} has several rates, and is a curve by itself, but {len(members)} models are called "
            f"{label!r}: give them labels, as label=path"
        )
    if len({(artifact.fingerprint, spec.effort) for spec, artifact in members}) < len(members):
        raise UsageError(f"two of the models called {label!r} are the same")
    spec, artifact = members[0]
    about = ", ".join([_about(artifact), *(f"fingerprint {model.fingerprint.hex()}" for _, model in members)])
    about += f", effort {spec.effort}" if spec.effort else ""
    if several:
        at = functools.partial(point_of, artifact, spec.effort)
        return Entrant(label, "ours", about, tuple(map(at, zoo.codec_of(artifact).traits.ladder)), at)
    names = [os.path.splitext(os.path.basename(os.path.normpath(spec.path)))[0] for spec, _ in members]
    points = [point_of(model, spec.effort, None, name) for (spec, model), name in zip(members, names, strict=True)]
    return Entrant(label, "ours", about, tuple(points), None)


def _about(artifact: Artifact) -> str:
    """What a model is, and how it was trained, as far as its card says so."""
    parameters = sum(array.size for name, array in artifact.arrays().items() if name.startswith("params/"))
    words = f"{artifact.model}, {parameters / 1e6:.2f} million parameters"
    if not {"step", "trained_with"} <= artifact.card.keys():
        return words
    data, side = artifact.card["trained_with"]["data"], artifact.card["trained_with"]["data"]["patch_size"]
    photos = "the bundled photos" if data["source"] == "bundled" else os.path.basename(data["source"])
    steps = f"{artifact.card['step']} steps of {data['batch_size']} patches of {side}x{side} pixels"
    return f"{words}, trained for {steps} from {photos}"


def point_of(artifact: Artifact, effort: int, quality: float | None, name: str | None = None) -> Point:
    """A model at a quality (None: it has one rate) and an effort of the encoder, 0 to 9."""
    import jax

    codec = zoo.codec_of(artifact)
    key = {
        "model": artifact.model,
        "fingerprint": artifact.fingerprint.hex(),
        "quality": quality if quality is None else float(quality),
        "effort": effort,
        "library": f"mlic_jax {mlic_jax.__version__}, jax {jax.__version__}",
    }
    if artifact.encoder:
        key["encoder"] = artifact.encoder
    if codec.traits.extension:
        key["file"] = codec.traits.extension

    def encode(image):
        data = api.compress(image, artifact, quality, effort=effort)
        # What such a model is for is the standard file itself: its bytes count, without a container around them.
        return api.to_standard(data)[0] if codec.traits.extension else data

    def decode(data):
        if not codec.traits.extension:
            return api.decompress(data, artifact)
        return images.decode_image(data, f"the {codec.traits.extension} file of {artifact.model}")

    def estimate(image):
        at = () if quality is None else (quality,)
        estimated = codec.estimate(artifact.variables["params"], artifact.variables["state"], image[None], *at)
        return float(estimated["bits"][0])

    # The estimate knows of no search in the encoder.
    return Point(name or f"quality {quality:g}", key, encode, decode, artifact, None if effort else estimate)
