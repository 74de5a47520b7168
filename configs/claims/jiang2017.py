"""Jiang 2017 in miniature: what a network before JPEG, one after it, and both are worth at low rates."""

from mlic_jax.evaluation.claim import Arm, Claim

CONFIG = "jiang2017:tiny"
QUALITIES = (5, 8, 12, 18, 26, 38, 50, 60)


def get_claim() -> Claim:
    return Claim(
        title="A network before JPEG and one after it",
        source="Jiang, Tao, Liu, Ren, Guo, Zhao: *An End-to-End Compression Framework Based on Convolutional Neural "
        "Networks*, IEEE TCSVT 2018, [arXiv 1708.00838](https://arxiv.org/abs/1708.00838)",
        text="""The paper: at low rates, a picture that a network made half as large, that JPEG carried, and that a
second network restored, is better than JPEG's own of the same size, and than what a network behind JPEG can repair.
Grey pictures, PSNR and SSIM on luma.

The arms are pairs of small networks (form `compact`, 48 channels: 11 and 32 kMAC/pixel where the paper's have 10 and
665), each one pair for the JPEG qualities 5 to 60 where the paper trains a pair for each quality. `both` trains the two
at once through differentiable JPEG; `alternating` in turn, as the paper does, with the codec left out for ComCNN;
`ComCNN only` enlarges by bicubic interpolation, `RecCNN only` halves by 2x2 means. JPEG in the middle has the tables
of the standard and default Huffman codes, as in the paper; `both, optimised` is `both` with optimised Huffman codes and
progressive scans (the same pixels in fewer bytes), and is what to hold against `jpeg-optimised`.""",
        arms=(
            Arm("both", CONFIG, qualities=QUALITIES, steps_per_second=2.84),
            Arm("ComCNN only", CONFIG, {"model.arguments.part": "com"}, qualities=QUALITIES, steps_per_second=15.06),
            Arm("RecCNN only", CONFIG, {"model.arguments.part": "rec"}, qualities=QUALITIES, steps_per_second=4.86),
            Arm("both, optimised", "", {"model.arguments.codec": "jpeg-optimised"}, qualities=QUALITIES, of="both"),
            Arm(
                "alternating",
                CONFIG,
                {"schedule": ("rec", "com"), "phases": (150, 60), "optimizers.com": {"learning_rate": 2e-4}},
                qualities=QUALITIES[::2],
                steps_per_second=4.76,
            ),
        ),
        steps=5000,
        codecs=("jpeg", "jpeg-optimised"),
        anchors=("jpeg", "jpeg-optimised"),
        metrics=("psnr", "ssim", "ms-ssim"),
        grey=True,
        rates=(0.15, 0.2, 0.285, 0.4, 0.5),
        published=(
            {"pictures": "7 test images, JPEG quality 5", "codec": "JPEG", "PSNR dB": "25.43", "SSIM": "0.7456"},
            {"pictures": "the same rate", "codec": "ComCNN only", "PSNR dB": "26.69", "SSIM": "0.7934"},
            {"pictures": "the same rate", "codec": "RecCNN only", "PSNR dB": "28.02", "SSIM": "0.8351"},
            {"pictures": "the same rate", "codec": "both", "PSNR dB": "28.83", "SSIM": "0.8535"},
            {"pictures": "7 test images, JPEG quality 10", "codec": "JPEG", "PSNR dB": "28.17", "SSIM": "0.8206"},
            {"pictures": "the same rate", "codec": "both", "PSNR dB": "30.59", "SSIM": "0.8895"},
            {"pictures": "Kodak, 0.282 bpp", "codec": "JPEG, quality 10", "PSNR dB": "28.07", "SSIM": "0.7708"},
            {
                "pictures": "Kodak, 0.285 bpp",
                "codec": "both, the authors' released weights",
                "PSNR dB": "28.93",
                "SSIM": "0.8159",
            },
        ),
        notes="""The paper's figures are for seven pictures of 256 to 512 pixels a side; those on Kodak are of the
authors' released weights (JPEG quality 50 in the middle), run for this comparison. Default Huffman codes waste 22 % of
a file at quality 10, on both sides; the anchor `jpeg-optimised` wastes none.""",
    )
