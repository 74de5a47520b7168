"""Nonlinear transform coding on sources that are small enough to be understood.

    from mlic_jax import toy

    toy.ecsq("laplace", lam=1.0).loss                  # the best scalar quantiser
    toy.ecvq("banana", lam=1.0).codewords              # a codebook, by Lloyd's iteration
    code = toy.ntc("banana", lam=1.0)                  # trains analysis, prior and synthesis: some minutes
    code.measure().loss                                # rate + lam * distortion of fresh samples
    data = toy.Coder(code).encode(toy.draw("banana", 1000))

Balle, Chou, Minnen, Singh, Johnston, Agustsson, Hwang, Toderici, "Nonlinear Transform Coding", IEEE JSTSP, 2021.
Everything is imported when it is first used. docs/toy.md has the figures.
"""

from mlic_jax import imported_when_used

_HOME = {
    "Coder": "coding",
    "Point": "points",
    "Recipe": "training",
    "Source": "sources",
    "Trained": "training",
    "blahut_arimoto": "anchors",
    "defaults": "training",
    "draw": "sources",
    "ecsq": "scalar",
    "ecvq": "vector",
    "klt": "anchors",
    "laplace_ecsq": "anchors",
    "ltc": "training",
    "ntc": "training",
    "phase_code": "anchors",
    "shannon_lower_bound": "anchors",
    "source": "sources",
    "train": "training",
    "variable": "variable_rate",
    "vecvq": "vector",
}

__all__ = sorted(_HOME)


def __getattr__(name: str):
    return imported_when_used(__name__, _HOME, name)


def __dir__():
    return __all__
