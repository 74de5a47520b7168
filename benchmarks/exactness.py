"""What exactness costs, and what happens without it.

    python benchmarks/exactness.py --run runs/mbt2018_mean --images KODAK

Every picture is coded twice with the same latents and tables: once as `mlic compress` does, once with the network on
the parse path evaluated in float32 (such a file can be read on the machine that wrote it at best). One line a picture,
and the sum. `--images` are pictures to measure on; integer ranges are chosen at export, on bundled photos.

Then both networks are computed in ways that should make no difference: hidden channels in another order, seven pictures
at once, operands rounded as matrix units round them (TF32 has 11 significant bits, bfloat16 8). Printed is how many
entries of y would be read with a wrong row of the table. One is enough to lose the rest of a file.
"""

import argparse
from unittest import mock

import ml_dtypes
import numpy as np

from mlic_jax import zoo
from mlic_jax.cli import common
from mlic_jax.entropy import coders
from mlic_jax.entropy.priors.gaussian import scale_index


def floating(network, latent, prior):
    """The network on the parse path as a codec evaluates it that does not care for other machines."""
    del prior
    return network(latent)


def collect(applications):
    """A stand-in for Encoding.exact that keeps (network's params and integers, symbols, latent) and goes on."""

    def exact(network, latent, prior):
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    given = parser.add_mutually_exclusive_group(required=True)
    given.add_argument("--run", help="workdir of a run")
    given.add_argument("--model", help="model file (.mlicm)")
    parser.add_argument("--which", default="best", help="checkpoint of --run: best, latest or a step")
    parser.add_argument("--images", help="folder of pictures (default: the bundled ones held out from training)")
    parser.add_argument("--limit", type=int, default=0, help="the first so many pictures only")
    arguments = parser.parse_args()
    if arguments.run:
        from mlic_jax.training.runs import export_run

        artifact = export_run(arguments.run, arguments.which)
    else:
        from mlic_jax import load_model

        artifact = load_model(arguments.model)
    codec = zoo.codec_of(artifact)
    totals, pixels, applications = [0, 0], 0, []
    for name, image in common.pictures(arguments.images, arguments.limit):
        with mock.patch.object(coders.Encoding, "exact", staticmethod(collect(applications))):
            exact = len(codec.compress(artifact, image)[0])
        with mock.patch.object(coders.Encoding, "exact", staticmethod(floating)):
            other = len(codec.compress(artifact, image)[0])
        print(f"{name}: {exact} bytes in integers, {other} in floating point, {exact / other - 1:+.2%}")
        totals = [totals[0] + exact, totals[1] + other]
        pixels += image.shape[0] * image.shape[1]
    bpp = [8 * total / pixels for total in totals]
    print(f"all: {bpp[0]:.4f} bpp in integers, {bpp[1]:.4f} in floating point, {bpp[0] / bpp[1] - 1:+.3%}")
    control(applications)


if __name__ == "__main__":
    main()
