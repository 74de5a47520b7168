"""Golden streams: files that every later version, and every machine, has to decode to the same symbols.

`tests/golden/` holds, for each model, weights of a narrow variant, files that version 1 of the format was fixed with,
and `symbols.json`, the SHA-256 of all symbols and table rows in each; `looks.json` says what the pictures look like,
which may differ by one step of 8 bits between machines. As a script this prints the digests as they come out here, in
the way it is told:

    python tests/golden_streams.py [--variant NAME] [--model MODEL]

`tests/golden/make.py` made them. They are never made again. Weights that people use have files of their own there,
which `tests/golden/make_weights.py` made: `weights.json` has both symbols and looks.
"""

import argparse
import contextlib
import hashlib
import json
import os
import pathlib
import sys
from unittest import mock

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "golden"
MODELS = ("bmshj2018-factorized", "bmshj2018-hyperprior", "mbt2018-mean", "kltnet")
# Weights by their names.
WEIGHTS = ("kltnet-tiny", "kltnet-base")
VARIANTS = ("plain", "tensorfloat32", "bfloat16", "highest", "eager", "batch of 7", "4 devices")


def names(model, way="plain"):
    """The golden files of a model, without suffix; some, for ways to compute that compile each size or nothing."""
    whole = way not in ("eager", "batch of 7", "4 devices")
    return sorted(path.stem for path in (FOLDER / model).glob("*.mlic" if whole else "*-1.mlic"))


def content(model, name):
    return (FOLDER / model / f"{name}.mlic").read_bytes()


def weights(model):
    from mlic_jax.fileformat.artifact import Artifact

    if model in WEIGHTS:
        from mlic_jax import api

        return api.load_model(model)
    return Artifact.load(FOLDER / f"{model}.mlicm")


def expected():
    """{model: {name: {"z": digest, "z_rows": .., "y": .., "y_rows": ..}}}."""
    files = json.loads((FOLDER / "weights.json").read_text())
    symbols = {model: {name: about["symbols"] for name, about in files[model].items()} for model in files}
    return json.loads((FOLDER / "symbols.json").read_text()) | symbols


def looks(model):
    """{name: what `look` gave}."""
    if model in WEIGHTS:
        return {name: about["look"] for name, about in json.loads((FOLDER / "weights.json").read_text())[model].items()}
    return json.loads((FOLDER / "looks.json").read_text())[model]


def look(picture):
    """Shape, type, and the mean of each sixteenth of a picture, in its own units."""
    rows = [part for half in np.array_split(picture.astype(float), 4) for part in np.array_split(half, 4, axis=1)]
    means = [round(float(part.mean()), 3) if part.size else None for part in rows]
    return {"shape": list(picture.shape), "dtype": str(picture.dtype), "means": means}


def digest(array):
    return hashlib.sha256(np.asarray(array).astype("<i4").tobytes()).hexdigest()


def module_of(artifact):
    """The Flax module of a latent model."""
    from mlic_jax.models import bmshj2018, kltnet, mbt2018

    kinds = (bmshj2018.Factorized, bmshj2018.ScaleHyperprior, mbt2018.MeanScaleHyperprior, kltnet.KltNet)
    return dict(zip(MODELS, kinds, strict=True))[artifact.model](**artifact.architecture)


def symbols(data, artifact):
    """{"z": .., "z_rows": .., "y": .., "y_rows": ..} as the package's decoder reads them from a file.

    Of a y in steps, "y_0" and so on.
    """
    from mlic_jax.entropy import rangecoder
    from mlic_jax.families import latent_coding
    from mlic_jax.fileformat import container

    header, chunks = container.unpack(data)
    found, read = [], rangecoder.Decoder.read

    def recorded(self, indexes, *arguments):
        found.append((read(self, indexes, *arguments), np.array(indexes)))
        return found[-1][0]

    with mock.patch.object(rangecoder.Decoder, "read", recorded):
        latent_coding.receive(
            module_of(artifact), artifact, chunks[0].content, (header.height, header.width), header.quality
        )
    arrays = {}
    steps = [f"y_{step}" for step in range(len(found) - 1)] if len(found) > 2 else ["y"]
    for name, (values, rows) in zip(steps if len(found) == 1 else ("z", *steps), found, strict=True):
        arrays.update({name: values[0], f"{name}_rows": rows[0]})
    return arrays


def repeated(times):
    """A stand-in for ExactStack.integers: computes a batch, on all devices there are, and keeps its last example."""
    import jax
    from jax.sharding import Mesh, NamedSharding, PartitionSpec

    def integers(self, symbols):
        mesh = Mesh(np.array(jax.devices()[: times if times % 2 == 0 else 1]), ("batch",))
        # Other pictures beside it, so that an example's result could depend on its neighbours.
        batch = np.concatenate([symbols * (i % 3) for i in range(1, times)] + [symbols])
        batch = batch if self.of_values else batch.clip(-127, 127)
        batch = jax.device_put(batch.astype(np.float32), NamedSharding(mesh, PartitionSpec("batch")))
        alone, variables = self.unbind()
        compute = jax.jit(lambda variables, x: alone.apply(variables, x, method="integers_whole"))
        return np.asarray(compute(variables, batch))[-1:]

    return integers


@contextlib.contextmanager
def variant(name):
    """The way in which networks on the parse path are computed."""
    import jax

    from mlic_jax.entropy.exact import ExactStack

    if name in ("tensorfloat32", "bfloat16", "highest"):
        with jax.default_matmul_precision(name):
            yield
    elif name == "eager":
        with jax.disable_jit():
            yield
    elif name in ("batch of 7", "4 devices"):
        times = int(name.split()[-1] if name.startswith("batch") else name.split()[0])
        if name == "4 devices" and len(jax.devices()) < 4:
            raise SystemExit("4 devices are needed: XLA_FLAGS=--xla_force_host_platform_device_count=4")
        with mock.patch.object(ExactStack, "integers", repeated(times)):
            yield
    else:
        yield


def digests(model, way="plain"):
    """{name: {array: digest}} of a model's files, decoded here."""
    artifact = weights(model)
    with variant(way):
        return {
            name: {key: digest(array) for key, array in symbols(content(model, name), artifact).items()}
            for name in names(model, way)
        }


def wanted(model, way="plain"):
    """What `digests` should return."""
    return {name: expected()[model][name] for name in names(model, way)}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--variant", choices=VARIANTS, default="plain")
    parser.add_argument("--model", choices=MODELS + WEIGHTS, action="append")
    arguments = parser.parse_args()
    found = {model: digests(model, arguments.variant) for model in arguments.model or MODELS}
    json.dump(found, sys.stdout, indent=1)
    right = found == {model: wanted(model, arguments.variant) for model in found}
    count = sum(map(len, found.values()))
    where = f"{os.cpu_count()} cores, {arguments.variant}"
    print(
        f"{'all' if right else 'NOT ALL'} of {count} golden files as they should be ({where})",
        file=sys.stderr,
    )
    return 0 if right else 1


if __name__ == "__main__":
    sys.exit(main())
