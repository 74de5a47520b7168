"""Li 2018 in miniature: an importance map beside as many bits in every cell, and what context coding saves of both."""

from mlic_jax.evaluation.claim import Arm, Claim

CONFIG = "li2018"
# Of the transform (two stages), and then of the entropy model, on fixed codes.
FIRST, SECOND, CODER = 800, 1600, 150


def _length(steps):
    return {
        "train.steps": steps + CODER,
        "phases": (steps, CODER),
        "optimizer.decay_steps": steps,
        "optimizers.entropy": {"learning_rate": 5e-3, "warmup_steps": 20, "decay_steps": CODER},
    }


def get_claim() -> Claim:
    return Claim(
        title="An importance map says where bits go",
        source="Li, Zuo, Gu, Zhao, Zhang: *Learning Convolutional Networks for Content-Weighted Image Compression*, "
        "CVPR 2018, [arXiv 1703.10553](https://arxiv.org/abs/1703.10553)",
        text="""The paper: a network that says for each cell of 8x8 pixels how many of its binary codes are sent gives
better pictures at the same rate than as many codes everywhere; and coding what is sent by a network that looks at the
bits before saves 11 to 21 % of it.

The arms are models of one rate, of compact networks on 8x8 cells (64 channels). `map` has up to 32 bits a cell and 8
levels; its curve is one of weights gamma of the rate (r0 = 0: the mean of the map always costs). As in the paper, it
begins with the weights of a first stage that has no map; there each cell's bits are cut at random, so that the first
ones matter most. `no map` has a fixed number of bits a cell. Every model has 2400 steps of its networks, those of `map`
in two stages, and 150 of its coder's. The arms with `raw bits` are the same models, and write bits and levels as they
are. Bytes of whole files, the map's included.""",
        arms=(
            # Its last phase is never reached: the second stage has a coder of its own to train.
            Arm(
                "first stage",
                f"{CONFIG}:tiny_no_map",
                {
                    "train.steps": FIRST, "phases": (FIRST, CODER), "optimizer.decay_steps": FIRST,
                    "model.arguments.n": 32, "model.arguments.nested": True,
                },
                shown=False,
                steps_per_second=28.6,
            ),
            Arm(
                "map",
                f"{CONFIG}:tiny",
                {**_length(SECOND), "model.arguments.r0": 0.0, "model.arguments.n": 32},
                after="first stage",
                points=tuple({"model.arguments.gamma": gamma} for gamma in (1.5, 3.0, 6.0, 12.0)),
                steps_per_second=24.0,
            ),
            Arm(
                "no map",
                f"{CONFIG}:tiny_no_map",
                {**_length(FIRST + SECOND), "model.arguments.levels": 2},
                points=tuple({"model.arguments.n": n} for n in (6, 10, 16, 24)),
                steps_per_second=24.5,
            ),
            Arm("map, raw bits", of="map", changes={"model.arguments.entropy": "none"}),
            Arm("no map, raw bits", of="no map", changes={"model.arguments.entropy": "none"}),
        ),
        seeds=(0, 1, 2),
        codecs=("jpeg",),
        anchors=("no map", "no map, raw bits", "jpeg"),
        metrics=("psnr", "ms-ssim"),
        rates=(0.08, 0.1, 0.15, 0.2),
        published=(
            {"pictures": "Kodak at 752x496, released models", "bits a cell": "64", "bpp of bits, raw": "0.124",
             "coded": "0.098", "bpp of the map, raw": "0.0625", "map, coded": "0.020", "whole bpp": "0.118"},
            {"pictures": "the same", "bits a cell": "64", "bpp of bits, raw": "0.168", "coded": "0.145",
             "bpp of the map, raw": "0.0625", "map, coded": "0.027", "whole bpp": "0.172"},
            {"pictures": "the same", "bits a cell": "64", "bpp of bits, raw": "0.320", "coded": "0.260",
             "bpp of the map, raw": "0.0625", "map, coded": "0.033", "whole bpp": "0.293"},
            {"pictures": "the same", "bits a cell": "64", "bpp of bits, raw": "0.489", "coded": "0.435",
             "bpp of the map, raw": "0.0625", "map, coded": "0.037", "whole bpp": "0.472"},
            {"pictures": "the same; PSNR 33.47 dB, MS-SSIM 0.979", "bits a cell": "128", "bpp of bits, raw": "0.740",
             "coded": "0.633", "bpp of the map, raw": "0.078", "map, coded": "0.039", "whole bpp": "0.671"},
        ),
        notes="""At this size the map does not pay. What is coded by context is cheap where a picture is flat, map or
no map; with raw bits, where nothing else makes flat cells cheap, the map loses half as much. It wins on one picture,
the flattest (kodim02). Tried before, on four photos: 16 bits a cell, 900 steps, the gradient of all channels (it
empties the map), r0 in place of 0, maps from scratch, first stages in which all bits are sent (0.4 dB worse at 0.16 bpp
than one with random cuts). A map of 64 bits a cell, trained to its end, has more to choose from.

Published rates are those of the authors' released models (their files of rates), and the quality of the last is that of
their released reconstructions, measured for this comparison; the paper gives curves. Networks of 36 times fewer
multiplications, trained for two minutes in place of days, are far from those, and from JPEG: what is compared here is
the map with its absence.""",
    )  # fmt: skip
