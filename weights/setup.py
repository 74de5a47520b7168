"""mlic_jax_base: the weights of KltNet Base for mlic_jax. `pip install ./weights` in a clone of the repository.

Data alone: it needs nothing, and mlic_jax finds it by its entry point.
"""

from setuptools import setup

setup(
    name="mlic_jax_base",
    version="0.1.0",
    description="KltNet Base, a model of mlic_jax for learned image compression",
    license="Apache-2.0",
    python_requires=">=3.11",
    packages=["mlic_jax_base"],
    package_data={"mlic_jax_base": ["*.mlicm", "*.md"]},
    zip_safe=False,
    entry_points={"mlic_jax.models": ["kltnet-base = mlic_jax_base:FOLDER"]},
)
