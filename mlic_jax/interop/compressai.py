"""Weights from CompressAI (https://github.com/InterDigitalInc/CompressAI), and back to it, without PyTorch.

    artifact = artifact_of("bmshj2018-hyperprior-3-6d87be32.pth.tar", "bmshj2018-hyperprior", quality=3)

which `mlic import compressai` calls. Apart, to go on with parameters:

    weights = read_checkpoint("bmshj2018-hyperprior-3-6d87be32.pth.tar")
    codec = zoo.make("bmshj2018-hyperprior", **architecture_of("bmshj2018-hyperprior", weights))
    params, state = from_compressai("bmshj2018-hyperprior", weights)

The networks are the same and give the same numbers (tests/models/test_parity.py); streams are not interchangeable. The
medians are CompressAI's (the middle ones of its `quantiles`), its integer tables are left out: `export` makes ours.

    CompressAI                               shape            here
    g_a.0.weight (convolution)               [O, I, k, k]     g_a/layers_0/kernel  [k, k, I, O]
    g_s.0.weight (transposed convolution)    [I, O, k, k]     g_s/layers_0/kernel  [k, k, I, O], flipped in both k
    g_a.1.beta, .gamma                       [C], [C, C]      g_a/layers_1/beta, gamma
    g_a.0.conv1.weight (in a residual block) [O, I, k, k]     g_a/layers_0/branches_0/layers_0/kernel; see _BLOCKS
    context_prediction.weight                [O, I, k, k]     context_prediction/layers_0/kernel, with a mask
    entropy_bottleneck.matrices.0 ..         [C, f', f]       prior_z/matrix_0 .. (prior_y in the factorized model)
    entropy_bottleneck.quantiles             [C, 1, 3]        state: prior_z/medians [C]
"""

from __future__ import annotations

import collections
import functools
import os
import pathlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from mlic_jax import zoo
from mlic_jax.entropy.priors.factorized import quantiles
from mlic_jax.entropy.scanning import Checkerboard, Raster
from mlic_jax.errors import ModelError, UsageError
from mlic_jax.families.common import check_choices
from mlic_jax.fileformat.artifact import Artifact, flatten, unflatten
from mlic_jax.interop.torch_files import read_checkpoint
from mlic_jax.models import bmshj2018, cheng2020, elic2022, mbt2018

# What CompressAI saves and computes anew: tables, and bounds as buffers.
_DERIVED = re.compile(
    r"(.*\.)?gaussian_conditional\..*|(.*\.)?context_prediction\.mask|.*_reparam\..*|.*likelihood_lower_bound\..*"
    r"|(.*\.)?entropy_bottleneck\.(_offset|_quantized_cdf|_cdf_length|target)"
)
_OLD_NAMES = {"_matrix": "matrices.", "_bias": "biases.", "_factor": "factors."}
_TAIL_MASS = 1e-9  # CompressAI's


class _Theirs(NamedTuple):
    """A model of CompressAI's zoo.

    Attributes:
      widths: quality -> {"N", ..}, which are arguments of ours, too.
      shaped: argument -> the weight whose first axis is as long.
      transposed: names of transposed convolutions.
      numbers: "g_s.8" as layers are counted here -> "g_s.7.0" as there, where they differ.
      folders: "h_a", the first part of a name, -> "latent_codec.hyper.h_a", what stands there in its place.
      order: of its serial context.
      further: (weights) -> further arguments.
    """

    widths: Mapping[int, Mapping[str, int]]
    shaped: Mapping[str, str]
    transposed: str = r"g_s\.\d+\.|h_s\.[02]\."
    numbers: Mapping[str, str] = {}
    folders: Mapping[str, str] = {}
    order: type = Raster
    further: Callable[[Mapping[str, np.ndarray]], dict] = lambda weights: {}

    @property
    def quantiles(self) -> str:
        """The weight that holds medians."""
        return f"{self.folders.get('entropy_bottleneck', 'entropy_bottleneck')}.quantiles"


def _arguments(widths):
    return {quality: dict(zip("NM", values, strict=False)) for quality, values in widths.items()}


def _of_two(widths):
    return _Theirs(_arguments(widths), {"N": "g_a.0.weight", "M": "g_a.6.weight"})


def _of_cheng(last):
    """last: the number of the layer that makes the picture. Convolutions and what moves their samples are one there."""
    numbers = {f"g_s.{last}": f"g_s.{last}.0", "h_s.2": "h_s.2.0", "h_s.5": "h_s.4", "h_s.7": "h_s.6.0"}
    numbers["h_s.10"] = "h_s.8"
    return _Theirs(_arguments(cheng2020.WIDTHS), {"N": "g_a.0.conv1.weight"}, "$none", numbers)


_HYPER = {name: f"latent_codec.hyper.{name}" for name in ("h_a", "h_s", "entropy_bottleneck")}


def _of_checkerboard():
    inside = {name: f"latent_codec.y.{name}" for name in ("context_prediction", "entropy_parameters")}
    return _of_cheng(7)._replace(widths={}, folders=_HYPER | inside, order=Checkerboard)


def _of_elic():
    y, names = "latent_codec.y", range(len(elic2022.PAPER["groups"]))
    folders = {f"context_{k}": f"{y}.latent_codec.y{k}.context_prediction" for k in names}
    folders |= {f"parameters_{k}": f"{y}.latent_codec.y{k}.entropy_parameters" for k in names}
    folders |= {f"channels_{k}": f"{y}.channel_context.y{k + 1}" for k in names}

    def groups(weights):
        found = (weights.get(f"{folders[f'context_{k}']}.weight") for k in names)
        return {"groups": tuple(array.shape[1] for array in found if array is not None)}

    return _Theirs(
        {},
        {"N": "g_a.0.weight", "M": "g_a.13.weight"}
        | {"C": f"{folders['channels_0']}.0.weight", "D": f"{folders['channels_0']}.2.weight"},
        r"g_s\.(1|5|10|14)\.|.*\.h_s\.",
        {f"context_{k}.0": f"context_{k}" for k in names},
        _HYPER | folders,
        Checkerboard,
        groups,
    )


MODELS = {
    "bmshj2018-factorized": _of_two(bmshj2018.WIDTHS),
    "bmshj2018-hyperprior": _of_two(bmshj2018.WIDTHS),
    "mbt2018-mean": _of_two(mbt2018.WIDTHS),
    "mbt2018": _of_two(mbt2018.WIDTHS_JOINT),
    "cheng2020-anchor": _of_cheng(7),
    "cheng2020-attn": _of_cheng(9),
    # Without published weights.
    "cheng2020-anchor-checkerboard": _of_checkerboard(),
    "elic2022": _of_elic(),
}
# What stands within a block -> its name there. The first set that a block's own equals says what block it is.
_BLOCKS = (
    {"branches_0.layers_0": "conv1", "branches_0.layers_2": "conv2"},
    {
        "branches_0.layers_0": "conv1",
        "branches_0.layers_2": "conv2",
        "branches_0.layers_3": "gdn",
        "branches_1.layers_0": "skip",
    },
    {
        "branches_0.layers_0": "subpel_conv.0",
        "branches_0.layers_3": "conv",
        "branches_0.layers_4": "igdn",
        "branches_1.layers_0": "upsample.0",
    },
    {f"branches_0.layers_{i}": f"conv{i // 2 + 1}" for i in (0, 2, 4)},
)
# Within attention modules.
_UNIT = {f"branches_0.layers_{i}": f"conv.{i}" for i in (0, 2, 4)}


def architecture_of(model: str, weights: Mapping[str, np.ndarray]) -> dict[str, int]:
    """The widths, {"N", ..}, of CompressAI weights, from their shapes. Raises ModelError where there are none."""
    if model not in MODELS:
        raise ModelError(f"CompressAI's {model} is not known: use one of {', '.join(MODELS)}")
    weights = _renamed(weights)
    shaped = MODELS[model].shaped
    try:
        found = {argument: int(weights[name].shape[0]) for argument, name in shaped.items()}
        return found | MODELS[model].further(weights)
    except (KeyError, IndexError) as reason:
        raise ModelError(f"no CompressAI weights of {model}: {' or '.join(shaped.values())} is missing") from reason


def artifact_of(
    path: str | os.PathLike, model: str, quality: int | None = None, images: Sequence[np.ndarray] | None = None
) -> Artifact:
    """The model of a checkpoint that CompressAI's users saved, with integers and tables of ours.

    Args:
      path: see `read_checkpoint`.
      model: name in the zoo, which is CompressAI's: one of MODELS.
      quality: 1..8 of CompressAI's zoo, which the widths must be those of; the card tells it. None: any widths.
      images: uint8 [H, W, 3], by which the integer ranges of the parse path are chosen; None for the bundled photos.

    Raises:
      UsageError: a model that is not in CompressAI's zoo and here, or a quality that it does not have.
      ModelError: a file that cannot be read, or weights of another model or quality.
    """
    check_choices("import", ("model", model, tuple(MODELS)))
    widths = MODELS[model].widths
    if quality is not None:
        if not widths:
            raise UsageError(f"import: CompressAI has no weights of {model}, and no qualities")
        check_choices("import", ("quality", quality, tuple(widths)))
    weights = read_checkpoint(path)
    params, state = from_compressai(model, weights)
    architecture = architecture_of(model, weights)
    if quality is not None and architecture != widths[quality]:
        wanted, found = (_listed(arguments) for arguments in (widths[quality], architecture))
        raise ModelError(f"{str(path)!r} holds {model} with {found}: quality {quality} has {wanted}")
    artifact = zoo.make(model, **architecture).export(params, state, images)
    artifact.card |= {"weights": f"CompressAI's {model}, from {pathlib.Path(path).name}"}
    if quality is not None:
        artifact.card |= {"quality": quality}
    return artifact


def cost_of_integers(artifact: Artifact, images: Sequence[np.ndarray], side: int = 256) -> tuple[float, float]:
    """What the parse path in integers costs against floating point: (share of bits more, PSNR in dB more).

    By estimates, of the middle of each picture.

    Args:
      artifact: of `artifact_of`.
      images: uint8 [H, W, 3].
      side: of the part of each that is looked at.
    """
    codec = zoo.codec_of(artifact)
    floating = {name: values for name, values in artifact.state.items() if "medians" in values}
    totals = np.zeros((2, 2))  # integers, floating point; bits, PSNR
    for image in images:
        top, left = (max(0, (length - side) // 2) for length in image.shape[:2])
        part = image[None, top : top + side, left : left + side]
        for i, state in enumerate((artifact.state, floating)):
            found = codec.estimate(artifact.params, state, part)
            psnr_db = 10 * np.log10(255**2 / np.maximum(found["mse255"], 1e-9))
            totals[i] += float(found["bits"][0]), float(psnr_db[0]) / len(images)
    return totals[0, 0] / totals[1, 0] - 1, totals[0, 1] - totals[1, 1]


def from_compressai(model: str, weights: Mapping[str, np.ndarray]) -> tuple[dict, dict]:
    """(params, state) of a model from CompressAI's state dict.

    Args:
      model: name in the zoo, which is CompressAI's: one of MODELS.
      weights: name -> array in torch's layout; old names (`_matrix0`, `downsample`) and the prefix `module.` are
        understood.

    Raises:
      ModelError: unknown model; missing or unexpected names; shapes that do not fit.
    """
    weights = {name: np.asarray(a) for name, a in _renamed(weights).items() if not _DERIVED.fullmatch(name)}
    names = _names(model, **architecture_of(model, weights))
    quantiles_name = MODELS[model].quantiles
    needed = {*names, quantiles_name}
    missing, unexpected = sorted(needed - weights.keys()), sorted(weights.keys() - needed)
    if missing or unexpected:
        raise ModelError(
            f"these are no CompressAI weights of {model}: missing {_some(missing)}; unexpected {_some(unexpected)}"
        )
    params = {}
    for name, (path, shape) in names.items():
        array = _to_jax(model, name, weights[name]).astype(np.float32)
        if array.shape != shape:
            raise ModelError(f"{name} has shape {weights[name].shape}, which does not fit {model}'s {path} {shape}")
        params[path] = array
    prior = _prior(names)
    channels = params[f"{prior}/matrix_0"].shape[0]
    found = weights[quantiles_name]
    if found.shape != (channels, 1, 3):
        raise ModelError(f"{quantiles_name} has shape {found.shape}, ({channels}, 1, 3) is needed")
    return unflatten(params), {prior: {"medians": found[:, 0, 1].astype(np.float32)}}


def to_compressai(model: str, params: Mapping[str, Any], state: Mapping[str, Any] | None = None) -> dict:
    """The state dict that CompressAI's model loads, in torch's layout; call `net.update(force=True)` there afterwards.

    Args:
      model: name in the zoo.
      params, state: as `init`, training or an artifact has them. Medians are taken from state where it has them.

    Raises:
      ModelError: unknown model.
    """
    if model not in MODELS:
        raise ModelError(f"CompressAI's {model} is not known: use one of {', '.join(MODELS)}")
    flat = flatten(params)
    paths = _their_names(model, flat)
    names = {name: path for path, name in paths.items()}
    weights = {name: _to_torch(model, name, flat[path]) for name, path in names.items()}
    for name in [name for name in weights if name.endswith("context_prediction.weight")]:
        mask = np.float32(MODELS[model].order(weights[name].shape[-1]).mask())
        weights[name] = weights[name] * mask
        weights[f"{name.removesuffix('weight')}mask"] = np.broadcast_to(mask, weights[name].shape).copy()
    prior = _prior({name: (path, None) for name, path in names.items()})
    medians_and_tails = quantiles(params[prior], [_TAIL_MASS / 2, 0.5, 1 - _TAIL_MASS / 2])
    if state and prior in state:
        medians_and_tails[:, 1] = state[prior]["medians"]
    weights[MODELS[model].quantiles] = medians_and_tails[:, None].astype(np.float32)
    return weights


def _renamed(weights):
    """Today's names for old ones."""
    renamed = {}
    for name, array in weights.items():
        name = name.removeprefix("module.").replace(".downsample.", ".skip.")
        old = re.fullmatch(r"(entropy_bottleneck\.)(_matrix|_bias|_factor)(\d)", name)
        renamed[f"{old[1]}{_OLD_NAMES[old[2]]}{old[3]}" if old else name] = array
    return renamed


def _listed(arguments):
    return ", ".join(f"{name}={value}" for name, value in arguments.items())


def _some(names):
    """The first of them, in words."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return (", ".join(names[:3]) or "nothing") + more


@functools.lru_cache(maxsize=16)
def _names(model, **architecture) -> dict[str, tuple[str, tuple[int, ...]]]:
    """CompressAI's name -> (our path, our shape)."""
    codec = zoo.make(model, **architecture)
    params = flatten(codec.init(jax.random.key(0), (64, 64, 3))[0])
    return {name: (path, params[path].shape) for path, name in _their_names(model, params).items()}


def _their_names(model, paths) -> dict[str, str]:
    """Our path -> CompressAI's name."""
    blocks = collections.defaultdict(set)
    for path in paths:
        block, inside = _of_block(path)
        blocks[block].add(inside.rpartition(".")[0])
    return {path: _their_name(model, path, blocks) for path in paths}


def _of_block(path):
    """("g_a.layers_0", "branches_0.layers_2.kernel") of a path; the latter is all of one that is in no block."""
    path = path.replace("/", ".")
    block, within, rest = path.rpartition(".branches_")
    return (block, f"branches_{rest}") if within else ("", path)


def _their_name(model, path, blocks):
    folders = MODELS[model].folders
    if path.startswith("prior_"):
        kind, k = path.split("/")[1].split("_")
        return f"{folders.get('entropy_bottleneck', 'entropy_bottleneck')}.{_OLD_NAMES['_' + kind]}{k}"
    block, inside = _of_block(path)
    layer, _, kind = inside.rpartition(".")
    if block:
        kinds = _BLOCKS if "values" not in block and "gate" not in block else (_UNIT,)
        layer = f"{block}.{next(names for names in kinds if names.keys() == blocks[block])[layer]}"
    # Of attention modules: `values` and `gate`, whose units are two layers here.
    layer = re.sub(r"values\.layers_(\d+)", lambda found: f"conv_a.{int(found[1]) // 2}", layer)
    layer = re.sub(r"gate\.layers_(\d+)", lambda found: f"conv_b.{int(found[1]) // 2}", layer)
    layer = layer.replace("layers_", "").replace("context_prediction.0", "context_prediction")
    layer = MODELS[model].numbers.get(layer, layer)
    top, dot, rest = layer.partition(".")
    return f"{folders.get(top, top)}{dot}{rest}.{kind.replace('kernel', 'weight')}"


def _prior(names) -> str:
    return next(path for name, (path, _) in names.items() if name.endswith("matrices.0")).split("/")[0]


def _to_jax(model, name, array):
    if array.ndim != 4:
        return array
    transposed = re.match(MODELS[model].transposed, name)
    return array[..., ::-1, ::-1].transpose(2, 3, 0, 1) if transposed else array.transpose(2, 3, 1, 0)


def _to_torch(model, name, array):
    if array.ndim != 4:
        return array
    transposed = re.match(MODELS[model].transposed, name)
    return array.transpose(2, 3, 0, 1)[..., ::-1, ::-1] if transposed else array.transpose(3, 2, 0, 1)
