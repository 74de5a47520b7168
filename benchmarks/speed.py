"""Seconds to encode and decode one picture: Tiny and Base, Pillow's codecs, CompressAI, in turns on equal cores.

    python benchmarks/speed.py [PHOTO] [--compressai VENV/bin/python] [--threads 1 2] [--rounds 7]
    python benchmarks/speed.py [PHOTO] --efforts --rounds 2
    python benchmarks/speed.py [PHOTO] --serial [--compressai VENV/bin/python] --rounds 3

Without PHOTO it is a bundled one, repeated to 768x512 or --size. Each codec runs in a process of its own, bound to as
many cores as threads are allowed, and keeps its models; each round asks every codec for one encoding and one decoding.
Shown are the fastest and the median after the first, which compiles, and the least seconds of the processor, which say
more than the clock's where other work runs beside. Pillow's codecs and our range coder use one core at a time.
Then `mlic compress` and `mlic decompress` as whole commands, with the compilation cache warm, least of three.

VENV is what benchmarks/compressai_env.sh makes; its weights are random, which makes no difference to the networks and
flatters its entropy coder; so are those of our models in --serial, which have no published ones. This file runs in both
environments.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import turns

OURS = {
    f"KltNet {model.capitalize()}, quality {quality}": (model, quality, 0)
    for model, quality in (("tiny", 20), ("tiny", 50), ("tiny", 90), ("base", 50))
}
EFFORTS = {f"KltNet Tiny, quality 50, effort {effort}": ("tiny", 50, effort) for effort in (1, 2, 4, 6, 9)}
PILLOW = {
    "JPEG, quality 75": ("JPEG", {"quality": 75}),
    "WebP, quality 75": ("WEBP", {"quality": 75}),
    "AVIF, quality 60 (speed 6)": ("AVIF", {"quality": 60}),
}
THEIRS = {"CompressAI bmshj2018-hyperprior, 3": "bmshj2018_hyperprior", "CompressAI mbt2018-mean, 3": "mbt2018_mean"}
# With random weights: (model, widths).
SERIAL = {
    "mbt2018, 3": ("mbt2018", {"N": 192, "M": 192}),
    "cheng2020-anchor, 3": ("cheng2020-anchor", {"N": 128}),
    "cheng2020-attn, 3": ("cheng2020-attn", {"N": 128}),
}
THEIR_SERIAL = {
    "CompressAI mbt2018, 3": "mbt2018",
    "CompressAI cheng2020-anchor, 3": "cheng2020_anchor",
    "CompressAI cheng2020-attn, 3": "cheng2020_attn",
}


def coder_of(name, threads):
    """(image uint8 [H, W, 3] -> what is stored, what is stored -> bytes, and back), of one codec."""
    if name in OURS or name in EFFORTS:
        from mlic_jax import api

        model, quality, effort = {**OURS, **EFFORTS}[name]
        return lambda image: api.compress(image, model, quality, effort=effort), len, api.decompress
    if name in SERIAL:
        import jax

        from mlic_jax import api, zoo

        model, widths = SERIAL[name]
        codec = zoo.make(model, **widths)
        artifact = codec.export(*codec.init(jax.random.key(0), (64, 64, 3)))
        return lambda image: api.compress(image, artifact), len, lambda data: api.decompress(data, artifact)
    if name in PILLOW:
        from PIL import Image

        form, options = PILLOW[name]

        def encode(image):
            file = io.BytesIO()
            Image.fromarray(image).save(file, form, **options)
            return file.getvalue()

        return encode, len, lambda data: np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    from compressai_side import load_torch

    torch = load_torch(threads)
    import compressai.zoo

    net = getattr(compressai.zoo, (THEIRS | THEIR_SERIAL)[name])(quality=3, pretrained=False).eval()
    net.update(force=True)

    def compress(image):
        with torch.no_grad():
            return net.compress(torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255)

    def decompress(stored):
        with torch.no_grad():
            return net.decompress(stored["strings"], stored["shape"])["x_hat"]

    return compress, lambda stored: sum(len(one[0]) for one in stored["strings"]), decompress


def work(name, threads, photo):
    """A codec's process: for every line on stdin, one encoding and one decoding; answers two seconds of the clock, two
    of the processor, and bytes."""
    answers = turns.answers()
    encode, size, decode = coder_of(name, threads)
    image = np.load(photo)
    for _ in sys.stdin:
        times = [(time.perf_counter(), time.process_time())]
        stored = encode(image)
        times.append((time.perf_counter(), time.process_time()))
        decode(stored)
        times.append((time.perf_counter(), time.process_time()))
        (encoding, encoding_cpu), (decoding, decoding_cpu) = np.diff(times, axis=0).tolist()
        answer = [encoding, decoding, encoding_cpu, decoding_cpu, size(stored)]
        print(json.dumps(answer), file=answers, flush=True)


def commands(photo):
    """Seconds of the whole commands `mlic compress` and `mlic decompress`, least of three after the first."""
    from PIL import Image

    with tempfile.TemporaryDirectory() as folder:
        png, mlic, back = (str(pathlib.Path(folder, name)) for name in ("photo.png", "photo.mlic", "back.png"))
        Image.fromarray(np.load(photo)).save(png)
        fastest = {}
        for arguments in (["compress", png, "-o", mlic, "-f"], ["decompress", mlic, "-o", back, "-f"]):
            times = []
            for _ in range(4):
                began = time.perf_counter()
                command = [sys.executable, "-m", "mlic_jax", *arguments]
                subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
                times.append(time.perf_counter() - began)
            fastest[f"mlic {arguments[0]}"] = min(times[1:])
        return fastest


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photo", nargs="?")
    parser.add_argument("--compressai", help="the Python of an environment with CompressAI")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, nargs=2, default=[768, 512], metavar=("WIDTH", "HEIGHT"))
    parser.add_argument("--efforts", action="store_true", help="of the package's model, and nothing else")
    parser.add_argument("--serial", action="store_true", help="of models with a serial context, and nothing else")
    parser.add_argument("--work", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.work:
        return work(args.work, args.threads[0], args.photo)

    from coding import picture
    from train_step import processor

    from mlic_jax import data

    image = data.read_image(args.photo) if args.photo else picture(*args.size[::-1])
    theirs = (THEIR_SERIAL if args.serial else THEIRS) if args.compressai else {}
    names = [*EFFORTS] if args.efforts else [*(SERIAL if args.serial else OURS | PILLOW), *theirs]
    print(f"{image.shape[1]}x{image.shape[0]}; {datetime.date.today()}, {processor()}, load {os.getloadavg()[0]:.1f}\n")
    print("| threads | codec | bytes | encode s, fastest, median, processor | decode s | the first |")
    print("|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        photo = pathlib.Path(folder, "photo.npy")
        np.save(photo, image)
        for threads in args.threads:
            workers = {
                name: [args.compressai if name in theirs else sys.executable, __file__, str(photo)]
                + ["--work", name, "--threads", str(threads)]
                for name in names
            }
            for name, asked in turns.take_turns(workers, threads, args.rounds + 1).items():
                cells = []
                for which in (0, 1):
                    times = [turn[which] for turn in asked[1:]]
                    processor_s = min(turn[2 + which] for turn in asked[1:])
                    cells.append(f"{min(times):.3f}, {statistics.median(times):.3f}, {processor_s:.3f}")
                size = "" if name in theirs else f"{asked[0][4]:,}"
                print(f"| {threads} | {name} | {size} | {' | '.join(cells)} | {asked[0][0]:.1f}, {asked[0][1]:.1f} |")
        print()
        if args.serial:
            return
        for command, seconds in commands(photo).items():
            print(f"{command}, the whole command: {seconds:.2f} s")


if __name__ == "__main__":
    main()
