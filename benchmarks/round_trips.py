"""Pictures of all sizes and modes come back as they should.

    python benchmarks/round_trips.py --model MODEL.mlicm [--sizes 300]

Sizes of 1 to 67 pixels a side, sampled, and three long ones, each in every mode of fuzz/inputs.py: Pillow's grey, RGB,
palettes, with and without alpha, 1 bit, 16 bits, and arrays of 16 bits with 1 to 4 channels. Checked of each:

- size: width and height are those of the original;
- mode: the mode, or the type and the channels of the array (palettes come back as RGB or RGBA);
- alpha: bit by bit that of the original;
- pixels: those that the encoder itself reconstructs, bit by bit, as that mode shows them; of 1 bit the picture's own;
- symbols: of some, the symbols, table rows and latents that the NumPy decoder finds (mlic_jax/reference) are those
  that the decoder used.

Printed is the share of each that is right, which has to be 100 %; the script ends in failure where it is not.
"""

import argparse
import collections
import pathlib
import sys
import time
from unittest import mock

import numpy as np
from PIL import Image

import mlic_jax
from mlic_jax import data, reference
from mlic_jax.entropy import rangecoder
from mlic_jax.families import latent_coding
from mlic_jax.fileformat import container, encoding, modes

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "fuzz"))
import inputs

LONG = ((1, 4096), (4096, 1), (4099, 3), (3, 4099), (8191, 17), (17, 8191))
SIDE = 67
COMPARED = 30
MODE_BACK = {"P": "RGB", "P with transparency": "RGBA"}


class Recorded:
    """What encoder and decoder did inside of `mlic_jax.compress` and `decompress`: a context manager.

    Attributes:
      reconstruction: what the encoder expects its decoder to show, uint8 [H, W, 3].
      symbols: what the decoder read, a list of (symbols, table rows), [1, h, w, C] each, in coding order.
    """

    def __enter__(self):
        self.symbols = []
        encode, read = latent_coding.encode, rangecoder.Decoder.read

        def encoding(module, artifact, image, quality):
            stream, received = encode(module, artifact, image, quality)
            self.reconstruction = latent_coding.reconstruct(module, artifact, received, image.shape[:2], quality)
            return stream, received

        def reading(decoder, indexes, *rest):
            self.symbols.append((read(decoder, indexes, *rest), indexes))
            return self.symbols[-1][0]

        self.patches = [
            mock.patch.object(latent_coding, "encode", encoding),
            mock.patch.object(rangecoder.Decoder, "read", reading),
        ]
        for patch in self.patches:
            patch.start()
        return self

    def __exit__(self, *_):
        for patch in self.patches:
            patch.stop()


def check(original, kind: str, artifact, with_reference: bool) -> dict[str, bool]:
    """One round trip: what was checked, and whether it is right."""
    right = {}
    with Recorded() as recorded:
        if isinstance(original, Image.Image):
            seen = modes.from_pillow(original)
            file = mlic_jax.compress(original, artifact)
            image = mlic_jax.decompress_image(file, artifact)
            right["size"], right["mode"] = image.size == original.size, image.mode == MODE_BACK.get(kind, kind)
            array = np.asarray(image)
        else:
            seen = modes.from_array(original)
            file = mlic_jax.compress(original, artifact)
            array = mlic_jax.decompress(file, artifact)
            wanted = original[..., 0] if original.shape[2] == 1 else original
            right["size"] = array.shape[:2] == original.shape[:2]
            right["mode"] = array.dtype == original.dtype and array.shape == wanted.shape
    exact = mlic_jax.info(file)["model"] == encoding.EXACT
    expected = modes.to_array(seen.mode, seen.rgb if exact else recorded.reconstruction, seen.alpha)
    right["pixels"] = np.array_equal(array, expected) and array.dtype == expected.dtype
    if seen.alpha is not None:
        # From the original itself where it shows its alpha, so that nothing is compared with itself.
        alpha = np.asarray(original.convert("RGBA"))[..., 3] if hasattr(original, "convert") else original[..., -1]
        right["alpha"] = np.array_equal(array[..., -1], alpha)
    if with_reference and not exact:
        decoded = reference.decode(file, artifact)
        names = [name for name in ("z", "y") if name in decoded]
        right["symbols"] = len(names) == len(recorded.symbols) and all(
            np.array_equal(symbols[0], decoded[name])
            and (f"{name}_rows" not in decoded or np.array_equal(rows[0], decoded[f"{name}_rows"]))
            for name, (symbols, rows) in zip(names, recorded.symbols, strict=True)
        )
    header, _ = container.read_header(file)
    right["size"] &= (header.height, header.width) == seen.rgb.shape[:2]
    return right


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True, help="model file (.mlicm)")
    parser.add_argument("--sizes", type=int, default=300, help="how many are sampled")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    artifact = mlic_jax.load_model(arguments.model)
    rng = np.random.default_rng(arguments.seed)
    places = rng.permutation(SIDE * SIDE)[: arguments.sizes]
    sizes = [(int(place // SIDE) + 1, int(place % SIDE) + 1) for place in places] + list(LONG)
    compared = set(rng.permutation(len(sizes) * len(inputs.KINDS))[: COMPARED - len(LONG)].tolist())
    compared |= {(arguments.sizes + i) * len(inputs.KINDS) + i for i in range(len(LONG))}
    photos = [data.read_image(path) for path in data.bundled("train")]
    right, wrong, began = collections.Counter(), collections.defaultdict(list), time.perf_counter()
    total, said = collections.Counter(), began
    for i, (height, width) in enumerate(sizes):
        photo = photos[i % len(photos)]
        photo = np.pad(photo, ((0, max(0, height - 500)), (0, max(0, width - 500)), (0, 0)), mode="symmetric")
        top, left = rng.integers(0, 60, 2)
        rgb = np.ascontiguousarray(photo[top : top + height, left : left + width])
        for j, kind in enumerate(inputs.KINDS):
            outcome = check(inputs.picture(kind, rgb), kind, artifact, i * len(inputs.KINDS) + j in compared)
            for what, is_right in outcome.items():
                total[what] += 1
                right[what] += is_right
                if not is_right:
                    wrong[what].append(f"{width}x{height} {kind}")
        if time.perf_counter() - said > 30:
            said = time.perf_counter()
            print(f"  {i + 1} of {len(sizes)} sizes ...", file=sys.stderr, flush=True)
    print(
        f"{artifact.model}, {artifact.architecture}: {len(sizes)} sizes in {len(inputs.KINDS)} modes, "
        f"{time.perf_counter() - began:.0f} s"
    )
    for what, count in total.items():
        print(
            f"{what}: {right[what]} of {count}, {right[what] / count:.2%}" + "".join(f"; {w}" for w in wrong[what][:9])
        )
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
