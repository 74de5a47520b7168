"""Pre-editing in miniature: fewer bits for a plain JPEG of the same PSNR, MS-SSIM or LPIPS."""

from mlic_jax.evaluation.claim import Arm, Claim

CONFIG = "talebi2020"
QUALITIES = (8, 14, 25, 40)


def get_claim() -> Claim:
    return Claim(
        title="Editing pictures before JPEG",
        source="After Talebi, Kelly, Luo, Garcia Dorado, Yang, Milanfar, Elad: *Better Compression with Deep "
        "Pre-Editing*, IEEE TIP 2021, [arXiv 2002.00113](https://arxiv.org/abs/2002.00113)",
        text="""The paper: a network that edits a picture before JPEG codes it, trained through differentiable JPEG,
gives files that look better at the same size; the decoder is everybody's. **Talebi-style**: the paper could not be read
in full, so this is no reproduction.

The arms are one small editor each (five layers of 24 channels, 17 kMAC/pixel) for the JPEG qualities 5 to 60. `edit`
measures its distortion (MSE) between the picture and its edited form; `perceptual` has half of the weight of its
distortion in LPIPS behind JPEG with straight-through rounding, the other half in the MSE of the edit. `edit, effort 5`
goes on from the editor's picture by 50 steps of gradient descent on the pixels of each picture. Both sides write
optimised Huffman codes and progressive scans: default codes would give away 22 % at quality 10. An edited file is a
plain JPEG; its bytes count, and no container's.""",
        arms=(
            Arm("edit", f"{CONFIG}:tiny", qualities=QUALITIES, steps_per_second=4.77),
            Arm("perceptual", f"{CONFIG}:perceptual", qualities=QUALITIES, steps_per_second=3.97),
            Arm("edit, effort 5", of="edit", effort=5, qualities=QUALITIES),
        ),
        steps=2000,
        codecs=("jpeg-optimised",),
        anchors=("jpeg-optimised",),
        metrics=("psnr", "ms-ssim", "lpips-alex"),
        published=(
            {"source": "the paper, figure 1", "figure": "0.4726 bpp edited beside 0.4809 bpp of JPEG, fewer artefacts"},
            {
                "source": "Ye, Liu, Li, Liu, TCSVT 2025",
                "figure": "-7.59 % BD-rate (MSE) on Kodak, optimised pre-processor",
            },
            {"source": "the same", "figure": "-38.65 % BD-rate (LPIPS), optimised for each picture"},
        ),
        notes="""The reach of editing is small where PSNR is the judge: optimising the pixels of single pictures by
gradient gained 3 to 8 % at quality 20. An editor trained with straight-through or cubic rounding in its distortion
learns to chase rounding errors and *needs more* bits (+20 % and +70 % in trials): `tests/models/test_talebi2020.py`
holds that.""",
    )
