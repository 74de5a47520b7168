"""Hu 2020 in miniature: the published order of six entropy models, on one budget."""

from mlic_jax.evaluation.claim import Arm, Claim

STEPS = 800
# As long as published, of these steps.
STAGES = (145, 175, 189)
# Widths of all transforms; channels of y; of what decides probabilities.
WIDTHS = {"model.arguments.N": 24, "model.arguments.M": 36}
SLICES = {"model.arguments.H": 24, "model.arguments.C": 24, "model.arguments.D": 16}
FINE = {"model.arguments.C": 36, "model.arguments.Y": 24, "model.arguments.Z": 16, "model.arguments.W": 24}
RECIPE = {
    "data.batch_size": 8,
    "data.patch_size": 64,
    "data.detail_weight": 1.0,
    "data.cache_mib": 1024,
    "optimizer.learning_rate": 2e-3,
    "train.evaluate_every": STEPS,
    "train.checkpoint_every": STEPS,
    "train.samples": 0,
}
POINTS = tuple({"model.arguments.lmbda": lmbda} for lmbda in (0.002, 0.05))


def _arm(name, config, changes, **more):
    return Arm(name, f"{config}:tiny", {**RECIPE, **changes}, points=POINTS, **more)


def get_claim() -> Claim:
    return Claim(
        title="Coarse-to-fine hyperpriors, and the order of entropy models",
        source="Hu, Yang, Liu: *Coarse-to-Fine Hyper-Prior Modeling for Learned Image Compression*, AAAI 2020; Hu, "
        "Yang, Ma, Liu: *Learning End-to-End Lossy Image Compression: A Benchmark*, TPAMI 2021, "
        "[arXiv 2002.03711](https://arxiv.org/abs/2002.03711)",
        text="""The paper: two layers of hyperpriors, decoded in three passes, code better than a serial context. Its
benchmark has the order factorized, hyperprior, context, coarse-to-fine, from the worst to the best; the models of mean
and scale and of channels in slices stand behind the hyperprior and before the context, and first of all, by their own
authors' figures.

The arms are narrow models with transforms of 24 channels and latents of 36 (those of Hu et al. 36 and 36), trained for
equal numbers of steps on equal batches, at two weights of the distortion. Coarse to fine is trained as published, its
first three stages a quarter of the steps: trained all at once, its coarser latents stay zero.""",
        arms=(
            _arm("factorized", "bmshj2018_factorized", WIDTHS),
            _arm("hyperprior", "bmshj2018_hyperprior", WIDTHS),
            _arm("mean and scale", "mbt2018_mean", WIDTHS),
            _arm("context", "mbt2018", WIDTHS),
            _arm("channel-wise", "minnen2020", {**WIDTHS, **SLICES}),
            _arm("coarse to fine", "hu2020", {**FINE, "model.arguments.stages": STAGES}),
        ),
        seeds=(0, 1, 2),
        steps=STEPS,
        codecs=("jpeg",),
        anchors=("hyperprior", "jpeg"),
        metrics=("psnr", "ms-ssim"),
        rates=(0.25, 0.35),
        published=(
            {
                "pictures": "Kodak, BD-rate against BPG (4:4:4)",
                "factorized": "+32.5",
                "hyperprior": "+3.4",
                "mean and scale": "−3.3",
                "context": "−4.8 (by Hu et al.), −11.2",
                "channel-wise": "−20.5",
                "coarse to fine": "−7.7",
            },
            {
                "pictures": "Tecnick",
                "factorized": "+32.2",
                "hyperprior": "−5.4",
                "mean and scale": "–",
                "context": "–",
                "channel-wise": "–",
                "coarse to fine": "–",
            },
            {
                "pictures": "CLIC 2019 validation",
                "factorized": "+52.1",
                "hyperprior": "+10.2",
                "mean and scale": "–",
                "context": "–",
                "channel-wise": "–",
                "coarse to fine": "–",
            },
        ),  # fmt: skip
        notes="""Figures of the factorized model, the hyperprior and the first of the context are those of the poster of
Hu et al. That of coarse to fine is by our computation from the author's ten points against BPG of TensorFlow
Compression, with pchip over the points of 0.4 to 1.15 bpp (tests/evaluation/test_protocols.py); over all rates it is
−8.7. Those of mean and scale, the second of the context and channel-wise are computed from CompressAI's and the
authors' points over the whole common range, so that rows of different sources compare by their order at most.

The papers train for half a million to five million steps; these arms end after 800 steps of eight tiles, on the
package's photos. What shows after that is how fast the models learn.""",
    )
