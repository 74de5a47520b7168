"""What exactness costs, and what happens without it.

    python benchmarks/exactness.py --run runs/mbt2018_mean --images KODAK

Every picture is coded twice with the same latents and tables: once as `mlic compress` does, once with the network on
the parse path evaluated in float32 (such a file can be read on the machine that wrote it at best). One line a picture,
and the sum. `--images` are pictures to measure on; integer ranges are chosen at export, on bundled photos.

Then both networks are computed in ways that should make no difference: hidden channels in another order, seven pictures
at once, operands rounded as matrix units round them (TF32 has 11 significant bits, bfloat16 8). Printed is how many
entries of y would be read with a wrong row of the table. One is enough to lose the rest of a file. (Not of models with
serial contexts, whose networks read what was decoded before.)

At last every file is decoded at three precisions, by processes of one core and of two, and by the decoder in plain
NumPy, which encodes again what it reads: how many give the same latents is printed.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import zlib
from unittest import mock

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np

from mlic_jax import reference, zoo
from mlic_jax.cli import common
from mlic_jax.entropy import coders
from mlic_jax.entropy.priors.gaussian import scale_index
from mlic_jax.errors import MlicError
from mlic_jax.families import latent_coding
from mlic_jax.fileformat.artifact import Artifact


def floating(coder, network, latent, prior=None):
    """The network on the parse path as a codec evaluates it that does not care for other machines."""
    del prior
    if coder._apart is None or latent.shape[1] == 1:
        return network(latent)
    middle = latent.shape[1] // 2  # of surroundings [n, k, k, C], as of positions in a scan
    return np.asarray(network(jnp.asarray(latent)))[:, middle, middle][None, None]


def collect(applications):
    """A stand-in for Encoding.exact that keeps (network's params and integers, symbols, latent) and goes on."""
    exactly = coders.Encoding.exact

    def exact(coder, network, latent, prior=None):
        if prior is None:
            applications.clear()  # what follows from here on depends on more than one network
            return exactly(coder, network, latent)
        symbols = np.rint(latent - np.asarray(prior.center))
        alone, variables = network.unbind()
        applications.append((alone, variables, symbols, latent))
        return network.integers(symbols)

    return exact


def permuted(variables, order):
    """The same network with the first hidden channels in another order."""
    params, state = ({key: dict(value) for key, value in variables[kind].items()} for kind in ("params", "state"))
    first, second = sorted(params)[:2]
    for key in ("kernel", "bias"):
        params[first][key] = np.asarray(params[first][key])[..., order]
    params[second]["kernel"] = np.asarray(params[second]["kernel"])[:, :, order]
    for key in ("kernel", "bias", "shift"):
        state["layer_0"][key] = np.asarray(state["layer_0"][key])[..., order]
    state["layer_1"]["kernel"] = np.asarray(state["layer_1"]["kernel"])[:, :, order]
    return {"params": params, "state": state}


def rounded(array, bits):
    """float32 with `bits` significant bits, to nearest."""
    if bits == 8:
        return np.asarray(array, np.float32).astype(ml_dtypes.bfloat16).astype(np.float32)
    mantissa, exponent = np.frexp(np.asarray(array, np.float32))
    return np.ldexp(np.rint(np.ldexp(mantissa, bits)), exponent - bits).astype(np.float32)


def rounded_operands(variables, bits):
    """Weights with fewer bits. Integers of eight bits do not change; asserted, since it is what the design rests on."""
    params = {layer: {k: rounded(v, bits) for k, v in arrays.items()} for layer, arrays in variables["params"].items()}
    for layer in variables["state"].values():
        kernel = np.asarray(layer["kernel"]).astype(np.float32)
        assert (rounded(kernel, bits) == kernel).all()
    return {"params": params, "state": variables["state"]}


def rows(network, variables, x, method=None):
    """The table rows of y, of symbols by `method="integers"` or a latent by floating point."""
    out = network.apply(variables, x, method=method) if method else network.apply(variables, x)
    channels = out.shape[-1] // (1 if gives_scales_only(network) else 2)
    return scale_index(np.asarray(out)[-1:, ..., :channels])


def gives_scales_only(network):
    """Whether the network gives scales and no means: it ends in an activation."""
    return network.parts()[-1][1] is not None


def control(applications):
    """Prints how many rows differ, in floating point and in integers."""
    ways = {
        "hidden channels in another order": None,
        "seven pictures at once": None,
        "operands of 11 bits (TF32)": 11,
        "operands of 8 bits (bfloat16)": 8,
    }
    wrong = {way: [0, 0] for way in ways}
    total = 0
    for network, variables, symbols, latent in applications:
        order = np.random.default_rng(0).permutation(network.parts()[0][0].features)
        for kind, (x, method) in enumerate([(latent, None), (symbols, "integers")]):
            right = rows(network, variables, x, method)
            total += right.size * (1 - kind)
            for way, bits in ways.items():
                if bits:
                    other = rows(network, rounded_operands(variables, bits), x if method else rounded(x, bits), method)
                elif way.startswith("seven"):
                    batch = np.concatenate([x * (i % 3) for i in range(6)] + [x])
                    other = rows(network, variables, batch, method)
                else:
                    other = rows(network, permuted(variables, order), x, method)
                wrong[way][kind] += int((other != right).sum())
    print(f"wrong rows among {total} entries of y:")
    for way, (floats, integers) in wrong.items():
        print(f"  {way}: {floats} in floating point, {integers} in integers")


def received(artifact, files):
    """A checksum of what the decoder's networks receive of each file; None where it cannot be read."""
    module, found = zoo.codec_of(artifact).compress.__self__.exact, []
    for chunk, size in files:
        try:
            values = latent_coding.receive(module, artifact, chunk, size)
            found.append(zlib.crc32(np.ascontiguousarray(values).tobytes()))
        except MlicError:
            found.append(None)
    return found


def by_reference(artifact, files):
    """Whether the NumPy decoder reads each file, and writes it again."""
    found = []
    for chunk, size in files:
        try:
            reference.decode_chunks([chunk], artifact, *size)
            found.append(True)
        except MlicError:
            found.append(False)
    return found


def on_cores(count, artifact, files):
    """As `received`, of a process that is bound to so many cores."""
    with tempfile.TemporaryDirectory() as folder:
        artifact.save(pathlib.Path(folder, "model.mlicm"))
        for i, (chunk, _) in enumerate(files):
            pathlib.Path(folder, str(i)).write_bytes(chunk)
        sizes = json.dumps([size for _, size in files])
        command = [sys.executable, __file__, "--decode", folder, "--sizes", sizes, "--cores", str(count)]
        done = subprocess.run(command, check=True, capture_output=True)
    return json.loads(done.stdout.splitlines()[-1])


def compare_decoders(artifact, files):
    """Prints how many files decode to the same latents in other ways."""
    wanted = received(artifact, files)
    ways = {}
    for precision in ("tensorfloat32", "bfloat16", "highest"):
        with jax.default_matmul_precision(precision):
            jax.clear_caches()
            ways[f"matmul precision {precision}"] = received(artifact, files)
    for count in (1, 2):
        ways[f"a process of {count} cores" if count > 1 else "a process of one core"] = on_cores(count, artifact, files)
    print(f"the same latents, of {len(files)} files:")
    for way, found in ways.items():
        print(f"  {way}: {sum(one is not None and one == other for one, other in zip(found, wanted, strict=True))}")
    print(f"  plain NumPy, encoded again: {sum(by_reference(artifact, files))}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--run", help="workdir of a run")
    given.add_argument("--model", help="model file (.mlicm)")
    given.add_argument("--decode", help=argparse.SUPPRESS)
    parser.add_argument("--sizes", help=argparse.SUPPRESS)
    parser.add_argument("--cores", type=int, help=argparse.SUPPRESS)
    parser.add_argument("--which", default="best", help="checkpoint of --run: best, latest or a step")
    parser.add_argument("--images", help="folder of pictures (default: the bundled ones held out from training)")
    parser.add_argument("--limit", type=int, default=0, help="the first so many pictures only")
    arguments = parser.parse_args()
    if arguments.decode:
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: arguments.cores])  # before XLA starts its threads
        folder, sizes = pathlib.Path(arguments.decode), json.loads(arguments.sizes)
        files = [((folder / str(i)).read_bytes(), tuple(size)) for i, size in enumerate(sizes)]
        return print(json.dumps(received(Artifact.load(folder / "model.mlicm"), files)))
    if arguments.run:
        from mlic_jax.training.runs import export_run

        artifact = export_run(arguments.run, arguments.which)
    else:
        from mlic_jax import load_model

        artifact = load_model(arguments.model)
    codec = zoo.codec_of(artifact)
    totals, pixels, applications, files = [0, 0], 0, [], []
    for name, image in common.pictures(arguments.images, arguments.limit):
        with mock.patch.object(coders.Encoding, "exact", collect(applications)):
            (chunk,) = codec.compress(artifact, image)
        exact = len(chunk)
        files.append((chunk, image.shape[:2]))
        with mock.patch.object(coders.Encoding, "exact", floating):
            other = len(codec.compress(artifact, image)[0])
        print(f"{name}: {exact} bytes in integers, {other} in floating point, {exact / other - 1:+.2%}")
        totals = [totals[0] + exact, totals[1] + other]
        pixels += image.shape[0] * image.shape[1]
    bpp = [8 * total / pixels for total in totals]
    print(f"all: {bpp[0]:.4f} bpp in integers, {bpp[1]:.4f} in floating point, {bpp[0] / bpp[1] - 1:+.3%}")
    if applications:
        control(applications)
    compare_decoders(artifact, files)


if __name__ == "__main__":
    main()
