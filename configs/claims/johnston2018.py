"""Johnston 2018 in miniature: priming, the loss weighted by SSIM, and bits where they are needed."""

from mlic_jax.evaluation.claim import Arm, Claim

CONFIG = "johnston2018:tiny"
# Of the transform, and then of the entropy model.
STEPS, CODER = 600, 100
UNIFORM = {
    "model.arguments.allocation": "uniform",
    "model.arguments.cell": "residual_gru",
    "model.arguments.divisor": 8,
    "train.steps": STEPS + CODER,
    "phases": (STEPS, CODER),
    "optimizer.decay_steps": STEPS,
}
# Means of 1, 2, 3, 4 and 6 passes, for a curve with heights as for one without.
QUALITIES = (16.5, 33.5, 50, 66.5, 100)


def get_claim() -> Claim:
    return Claim(
        title="Priming, a loss weighted by SSIM, and spatially adaptive bit rates",
        source="Johnston, Vincent, Minnen, Covell, Singh, Chinen, Hwang, Shor, Toderici: *Improved Lossy Image "
        "Compression with Priming and Spatially Adaptive Bit Rates for Recurrent Networks*, CVPR 2018, "
        "[arXiv 1703.10114](https://arxiv.org/abs/1703.10114)",
        text="""The paper: three things make recurrent codecs better. *Priming* runs the networks a few times for their
hidden states alone, before the first bit; the *weighted loss* counts blocks more whose SSIM is low; *SABR* sends fewer
passes of the cells that need fewer. With all three, MS-SSIM is above BPG's.

The arms are networks of an eighth of the paper's widths, residual GRUs, with 3x3 kernels everywhere, six passes,
trained for equal numbers of steps: without priming and with the plain loss; with three steps of priming; with the
weighted loss besides.
`primed, weighted, adaptive` is the last model again, its passes distributed by the errors of each cell of 16x16 pixels;
the map of their heights is in the file.""",
        arms=(
            Arm(
                "plain",
                CONFIG,
                {**UNIFORM, "model.arguments.prime_steps": 0, "model.arguments.loss": "l1"},
                qualities=QUALITIES,
                steps_per_second=3.98,
            ),
            Arm("primed", CONFIG, {**UNIFORM, "model.arguments.loss": "l1"}, qualities=QUALITIES, steps_per_second=3.1),
            Arm("primed, weighted", CONFIG, UNIFORM, qualities=QUALITIES, steps_per_second=3.12),
            Arm(
                "primed, weighted, adaptive",
                "",
                {"model.arguments.allocation": "adaptive"},
                qualities=QUALITIES,
                of="primed, weighted",
            ),
        ),
        seeds=(0, 1, 2),
        codecs=("jpeg",),
        anchors=("plain", "primed, weighted", "jpeg"),
        metrics=("psnr", "ms-ssim"),
        rates=(0.1, 0.2, 0.3, 0.5),
        published=(
            {"pictures": "Kodak, 0.098 bpp", "codec": "the authors' best", "PSNR dB": "25.04", "MS-SSIM": "0.8917"},
            {"pictures": "Kodak, 0.217 bpp", "codec": "the authors' best", "PSNR dB": "27.26", "MS-SSIM": "0.9415"},
            {"pictures": "Kodak, 0.515 bpp", "codec": "the authors' best", "PSNR dB": "30.60", "MS-SSIM": "0.9743"},
            {"pictures": "Kodak, 0.994 bpp", "codec": "the authors' best", "PSNR dB": "33.93", "MS-SSIM": "0.9878"},
        ),
        notes="""The published points are the authors' own of all three parts together, read from the results in the
repository of TensorFlow Compression; by our computation from them, files are 42.7 % smaller than those of Toderici et
al. 2017 (bits as they are) at the same MS-SSIM on Kodak, and 6.8 % smaller than BPG's (4:2:0). What each part adds
alone could not be read. The arms here are trained for four minutes each, on the package's photos, and end at 22 dB.

What shows after that is the beginning of it: after the first pass, at equal bytes, priming and the weighted loss
together are 0.5 dB and 0.012 in MS-SSIM better than plain, priming alone 0.05 dB; from the second pass on plain is
ahead by 0.1 to 0.4 dB, within the spread of its seeds. Heights take passes from cells that would still gain by them,
since pictures are far from good enough anywhere: adaptive files are worse than uniform ones of the same size. Tried
before: networks of a sixteenth (400 steps of GRUs: 20 dB; priming +1.1 dB after the first pass, the weighted loss -0.8
dB), and one crop of 128x128 pixels a step in place of four of 64x64 (2.5 dB worse after as many steps).""",
    )
