"""What exactness costs: bytes of files whose tables were chosen in integers, against floating point.

    python benchmarks/exactness.py --run runs/mbt2018_mean --images KODAK

Every picture is coded twice with the same latents and tables: once as `mlic compress` does, once with the network on
the parse path evaluated in float32 (such a file can be read on the machine that wrote it at best). One line a picture,
and the sum. `--images` are pictures to measure on; integer ranges are chosen at export, on bundled photos.
"""

import argparse
from unittest import mock

from mlic_jax import cli, zoo
from mlic_jax.entropy import coders


def floating(network, latent, prior):
    """The network on the parse path as a codec evaluates it that does not care for other machines."""
    del prior
    return network(latent)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--run", required=True, help="workdir of a run")
    parser.add_argument("--which", default="best", help="checkpoint: best, latest or a step")
    parser.add_argument("--images", help="folder of pictures (default: the bundled ones held out from training)")
    parser.add_argument("--limit", type=int, default=0, help="the first so many pictures only")
    arguments = parser.parse_args()
    artifact = cli._artifact_of_run(arguments.run, arguments.which)
    codec = zoo.codec_of(artifact)
    totals, pixels = [0, 0], 0
    for name, image in cli._pictures(arguments.images, arguments.limit):
        exact = len(codec.compress(artifact, image)[0])
        with mock.patch.object(coders.Encoding, "exact", staticmethod(floating)):
            other = len(codec.compress(artifact, image)[0])
        print(f"{name}: {exact} bytes in integers, {other} in floating point, {exact / other - 1:+.2%}")
        totals = [totals[0] + exact, totals[1] + other]
        pixels += image.shape[0] * image.shape[1]
    bpp = [8 * total / pixels for total in totals]
    print(f"all: {bpp[0]:.4f} bpp in integers, {bpp[1]:.4f} in floating point, {bpp[0] / bpp[1] - 1:+.3%}")


if __name__ == "__main__":
    main()
