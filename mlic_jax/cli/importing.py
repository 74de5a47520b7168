"""`mlic import`."""

from __future__ import annotations

from mlic_jax import runtime
from mlic_jax.cli import batch, command, common

SOURCES = ("compressai",)


def add_arguments(parser):
    parser.add_argument("source", choices=SOURCES, help="whose weights they are")
    parser.add_argument("input", metavar="FILE", help="a checkpoint that PyTorch wrote (.pth, .pth.tar)")
    parser.add_argument(
        "--model",
        required=True,
        help="bmshj2018-factorized, bmshj2018-hyperprior, mbt2018-mean, mbt2018, cheng2020-anchor or cheng2020-attn",
    )
    parser.add_argument(
        "--quality",
        type=int,
        help="1 to 8, of cheng2020 1 to 6: refuse widths that are not of this quality, and note it",
    )
    parser.add_argument(
        "--cost", action="store_true", help="print what the rounding to integers costs on the pictures of --calibrate"
    )
    parser.add_argument("-o", "--output", required=True, help="model file to write (.mlicm)")
    common.add_calibrate(parser)
    command.add_force(parser)


def import_weights(arguments):
    batch.refuse_overwriting(arguments.output, arguments.force)
    runtime.prepare_jax()
    from mlic_jax.interop import compressai

    images = common.calibration_pictures(arguments.calibrate)
    artifact = compressai.artifact_of(arguments.input, arguments.model, arguments.quality, images)
    artifact.save(arguments.output)
    print(common.about_model(artifact, arguments.output))
    if arguments.cost:
        pictures = images or [image for _, image in common.pictures(None, 0)]
        more_bits, psnr_db = compressai.cost_of_integers(artifact, pictures)
        print(f"integers cost {100 * more_bits:+.2f} % of the bits and {psnr_db:+.3f} dB")


COMMAND = command.Command(
    "import",
    "Make a model file of weights that others trained: CompressAI's, without PyTorch.",
    add_arguments,
    import_weights,
    "The networks compute what they did there; what decides probabilities is rounded to integers, so that files "
    "decode alike everywhere. Files of CompressAI itself cannot be read. " + command.EXIT_CODES,
    examples=(
        "mlic import compressai mbt2018-mean-3.pth.tar --model mbt2018-mean --quality 3 -o mean-3.mlicm",
        "mlic import compressai mine.pth.tar --model mbt2018 -o mine.mlicm --calibrate photos --cost",
    ),
)
