"""Toderici 2017 in miniature: which recurrent cell and which framework, and what the coder of their bits saves."""

from mlic_jax.evaluation.claim import Arm, Claim

CONFIG = "toderici2017:tiny"
# Of 1, 2, 4 and 8 passes.
QUALITIES = (12.5, 25, 50, 100)


def get_claim() -> Claim:
    return Claim(
        title="Recurrent networks that code what is left over: cells, frameworks, and the coder of their bits",
        source="Toderici, Vincent, Johnston, Hwang, Minnen, Shor, Covell: *Full Resolution Image Compression with "
        "Recurrent Neural Networks*, CVPR 2017, [arXiv 1608.05148](https://arxiv.org/abs/1608.05148)",
        text="""The paper: one recurrent network codes a picture at every rate, 1/8 bit per pixel a pass, and beats JPEG
at most rates in MS-SSIM. It compares cells (LSTM, associative LSTM, residual GRU) and frameworks: what the decoder says
in a pass is the picture (*one-shot*), a correction (*additive*), or a correction that is enlarged by a gain
(*scaling*). A second network, trained afterwards, codes the bits without loss.

The arms are networks of a sixteenth of the paper's widths, eight passes, trained for equal numbers of steps: three
frameworks with LSTMs, and two other cells in the additive one. Every curve has 1, 2, 4 and 8 passes.
`LSTM additive, bits as they are` is the model of `LSTM additive` with its bits written as they come, eight to a byte:
the same pictures, and the difference of the files is what the entropy coder saves.""",
        arms=(
            Arm("LSTM additive", CONFIG, qualities=QUALITIES, steps_per_second=3.82),
            Arm(
                "LSTM one-shot",
                CONFIG,
                {"model.arguments.framework": "one_shot"},
                qualities=QUALITIES,
                steps_per_second=3.87,
            ),
            Arm(
                "LSTM scaling",
                CONFIG,
                {"model.arguments.framework": "scaling"},
                qualities=QUALITIES,
                steps_per_second=2.71,
            ),
            Arm(
                "residual GRU additive",
                CONFIG,
                {"model.arguments.cell": "residual_gru"},
                qualities=QUALITIES,
                steps_per_second=3.65,
            ),
            Arm(
                "associative LSTM additive",
                CONFIG,
                {"model.arguments.cell": "associative_lstm"},
                qualities=QUALITIES,
                steps_per_second=2.62,
            ),
            Arm(
                "LSTM additive, bits as they are",
                changes={"model.arguments.entropy": "none"},
                qualities=QUALITIES,
                of="LSTM additive",
            ),
        ),
        seeds=(0, 1, 2),
        codecs=("jpeg",),
        anchors=("LSTM additive, bits as they are", "jpeg"),
        metrics=("psnr", "ms-ssim"),
        rates=(0.1, 0.2, 0.4, 0.5),
        published=(
            {"pictures": "Kodak, 0.125 bpp", "codec": "the authors' best", "PSNR dB": "23.01", "MS-SSIM": "0.8191"},
            {"pictures": "Kodak, 0.25 bpp", "codec": "the authors' best", "PSNR dB": "25.65", "MS-SSIM": "0.9037"},
            {"pictures": "Kodak, 0.5 bpp", "codec": "the authors' best", "PSNR dB": "28.27", "MS-SSIM": "0.9538"},
            {"pictures": "Kodak, 1 bpp", "codec": "the authors' best", "PSNR dB": "31.62", "MS-SSIM": "0.9796"},
            {"pictures": "Kodak, 2 bpp", "codec": "the authors' best", "PSNR dB": "34.63", "MS-SSIM": "0.9887"},
        ),
        notes="""The published points are the authors' own of their best model, with bits as they are, read from the
results in the repository of TensorFlow Compression. The paper trains for about a million steps of 32 tiles on six
million photos; these arms train for 500 steps of four tiles on the package's photos and are far from converged, so that
the order of the arms says how fast they learn, not how good they become.

The entropy coder saves 36 % of the bits after the first pass, and 35, 31 and 26 % after two, four and eight: later ones
are closer to noise. The recipe was tuned on additive LSTMs; the associative LSTM's gains were set by one trial.""",
    )
