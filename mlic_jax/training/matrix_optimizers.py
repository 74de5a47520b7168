"""Optimisers that see matrices: SOAP and Muon.

Adam treats every entry of a kernel by itself. These two treat the kernel as the linear map it is, and need fewer steps
for a few matrix products more in each. Both are for kernels [k, k, Cin, Cout] and matrices [Cin, Cout]; parameters for
which that makes no sense (biases, tables of gains, depthwise kernels, kernels that read or write pixels) go to Adam.

    SOAP    G [K, Cin, Cout]   a gradient, K = k * k taps
            C = running mean of sum_k G_k^T G_k            [Cout, Cout]; of sum_k G_k G_k^T for the side of the input
            Q = eigenvectors of C
            G -> G Q -> Adam -> U -> U Q^T

    Muon    M [k*k*Cin, Cout]  running mean of gradients, M = U S V^T -> U V^T

Vyas et al., "SOAP: Improving and Stabilizing Shampoo using Adam", 2024, arXiv 2409.11321.
Jordan et al., "Muon: An optimizer for hidden layers in neural networks", 2024, kellerjordan.github.io/posts/muon.
Liu et al., "Muon is Scalable for LLM Training", 2025, arXiv 2502.16982: how Muon's updates are scaled.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from mlic_jax.errors import UsageError

# a x + b x^3 + c x^5, repeated, brings singular values in (0, 1] near 1. Jordan et al. chose a polynomial that is steep
# at 0; the price is that values end between 0.68 and 1.14.
_QUINTIC = (3.4445, -4.7750, 2.0315)

# Channels on either side of a kernel below which it is left to Adam.
SMALLEST = 32


def soap(
    learning_rate: optax.ScalarOrSchedule,
    b1: float = 0.95,
    b2: float = 0.95,
    shampoo_beta: float = 0.95,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    precondition_every: int = 10,
    sides: str = "one",
    smallest: int = SMALLEST,
    largest: int = 512,
) -> optax.GradientTransformation:
    """SOAP for kernels and matrices, Adam for everything else.

    Args:
      learning_rate: of both; what is right for Adam is right here.
      b1, b2, eps: decay of the first and of the second moment, and what is added to the root of the latter; of both.
      shampoo_beta: decay of the factors C.
      weight_decay: decoupled, as AdamW's; of the matrices alone.
      precondition_every: updates from one refresh of the eigenvectors to the next.
      sides: "one" rotates the smaller of Cin and Cout (Cout if they are equal); "both" rotates both, which is the whole
        method, at twice the cost.
      smallest: a parameter with a smaller Cin or Cout is left to Adam.
      largest: a larger side is not rotated; a parameter without a side to rotate is left to Adam.

    The first update of a matrix is zero (but for weight decay): its gradient serves to find the eigenvectors.

    Raises UsageError for a value that makes no sense.
    """
    _check_decays(b1=b1, b2=b2, shampoo_beta=shampoo_beta)
    if sides not in ("one", "both"):
        raise UsageError(f"sides is {sides!r}: expected 'one' or 'both'")
    if precondition_every < 1:
        raise UsageError(f"precondition_every is {precondition_every}: expected 1 or more")
    if not 1 <= smallest <= largest:
        raise UsageError(f"smallest is {smallest} and largest {largest}: expected 1 <= smallest <= largest")

    def rotated(shape):
        return rotated_sides(shape, sides, smallest, largest)

    return _with_adam(
        scale_by_soap(rotated, b1, b2, shampoo_beta, eps, precondition_every),
        optax.scale_by_adam(b1, b2, eps),
        rotated,
        learning_rate,
        weight_decay,
    )


def muon(
    learning_rate: optax.ScalarOrSchedule,
    beta: float = 0.95,
    ns_steps: int = 5,
    rms: float = 0.2,
    adam_b1: float = 0.9,
    adam_b2: float = 0.999,
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    smallest: int = SMALLEST,
) -> optax.GradientTransformation:
    """Muon, with Nesterov's momentum, for kernels and matrices, Adam for everything else.

    Args:
      learning_rate: of both; what is right for Adam is right here.
      beta: decay of the gradients' running mean.
      ns_steps: iterations of Newton and Schulz.
      rms: root mean square of a matrix's update at learning rate 1; 0.2 is what Adam's usually is.
      adam_b1, adam_b2, eps: of Adam.
      weight_decay: decoupled, as AdamW's; of the matrices alone.
      smallest: a parameter with a smaller Cin or Cout is left to Adam.

    Raises UsageError for a value that makes no sense.
    """
    _check_decays(beta=beta, adam_b1=adam_b1, adam_b2=adam_b2)
    if ns_steps < 1:
        raise UsageError(f"ns_steps is {ns_steps}: expected 1 or more")
    return _with_adam(
        scale_by_muon(beta, ns_steps, rms),
        optax.scale_by_adam(adam_b1, adam_b2, eps),
        lambda shape: is_matrix(shape, smallest),
        learning_rate,
        weight_decay,
    )


def is_matrix(shape: tuple[int, ...], smallest: int) -> bool:
    """Whether a parameter is a kernel or matrix whose Cin and Cout are `smallest` or more."""
    return len(shape) >= 2 and min(shape[-2:]) >= smallest


def _with_adam(matrices, adam, chosen: Callable, learning_rate, weight_decay: float) -> optax.GradientTransformation:
    """`matrices` for parameters of the shapes that are `chosen`, `adam` for all others."""

    def kind(params):
        return jax.tree.map(lambda p: "matrices" if chosen(p.shape) else "others", params)

    decaying = optax.chain(matrices, optax.add_decayed_weights(weight_decay)) if weight_decay else matrices
    parts = optax.partition({"matrices": decaying, "others": adam}, kind)
    return optax.chain(parts, optax.scale_by_learning_rate(learning_rate))


def has_matrices(state: Any) -> bool:
    """Whether `soap` or `muon`, by their state, have any parameter that is not left to Adam."""
    parts = [part for part in jax.tree.leaves(state, is_leaf=_is_partition) if _is_partition(part)]
    return any(leaf.ndim for part in parts for leaf in jax.tree.leaves(part.inner_states["matrices"]))


def _is_partition(node) -> bool:
    return isinstance(node, optax.transforms.PartitionState)


def _check_decays(**decays: float) -> None:
    for name, value in decays.items():
        if not 0 <= value < 1:
            raise UsageError(f"{name} is {value}: expected 0 <= {name} < 1")


def _taps(x: jax.Array) -> jax.Array:
    """[..., Cin, Cout] -> [K, Cin, Cout]."""
    return x.reshape(-1, *x.shape[-2:])


# ---------------------------------------------------------------------- SOAP


class Matrix(NamedTuple):
    """What SOAP keeps of one parameter.

    Attributes:
      mean, square: Adam's moments in the eigenbasis, [K, Cin, Cout].
      factors: side -> C: "in" [Cin, Cin] and "out" [Cout, Cout], or the one of them that is rotated.
      bases: side -> Q, eigenvectors in columns; zeros before the first update.
    """

    mean: jax.Array
    square: jax.Array
    factors: dict[str, jax.Array]
    bases: dict[str, jax.Array]


class SoapState(NamedTuple):
    """The updates so far, int32, and a `Matrix` for each parameter."""

    count: jax.Array
    matrices: Any


def rotated_sides(shape: tuple[int, ...], sides: str, smallest: int, largest: int) -> tuple[str, ...]:
    """Which sides of a parameter `soap` rotates, of "in" and "out"; none where it is left to Adam."""
    if not is_matrix(shape, smallest):
        return ()
    c_in, c_out = shape[-2:]
    wanted = {"in": c_in} if c_in < c_out else {"out": c_out}
    if sides == "both":
        wanted = {"in": c_in, "out": c_out}
    return tuple(side for side, size in wanted.items() if size <= largest)


def scale_by_soap(
    rotated: Callable, b1: float, b2: float, shampoo_beta: float, eps: float, precondition_every: int
) -> optax.GradientTransformation:
    """SOAP's direction, for parameters that are all matrices; `rotated` gives the sides to rotate for a shape."""

    def initial(param):
        sizes = dict(zip(("in", "out"), param.shape[-2:]))

        def moment():
            return jnp.zeros_like(_taps(param))

        def square_matrices():
            return {side: jnp.zeros((sizes[side],) * 2, param.dtype) for side in rotated(param.shape)}

        return Matrix(moment(), moment(), square_matrices(), square_matrices())

    def init(params):
        return SoapState(jnp.zeros((), jnp.int32), jax.tree.map(initial, params))

    def direction(gradient, matrix, count):
        taps = _taps(gradient)
        # In the first update the bases are zero; so are then the moments, and the direction.
        turned = _rotate(taps, matrix.bases)
        mean = b1 * matrix.mean + (1 - b1) * turned
        square = b2 * matrix.square + (1 - b2) * turned**2
        corrected = jnp.maximum(count, 1)  # moments begin with the second update
        adam = mean / (1 - b1**corrected) / (jnp.sqrt(square / (1 - b2**corrected)) + eps)
        factors = {
            side: shampoo_beta * factor + (1 - shampoo_beta) * _gram(taps, side)
            for side, factor in matrix.factors.items()
        }
        # What goes through a conditional is copied: no more than has to.
        which = (count == 0) + 2 * ((count > 0) & ((count + 1) % precondition_every == 0))
        bases, mean = jax.lax.switch(which, (_keep, _begin, _refresh), factors, matrix.bases, mean)
        return _rotate(adam, matrix.bases, back=True).reshape(gradient.shape), Matrix(mean, square, factors, bases)

    def update(gradients, state, params=None):
        del params
        leaves, structure = jax.tree.flatten(gradients)
        # GPUs and TPUs would round to 10 or 7 bits, after which bases are no longer orthogonal.
        with jax.default_matmul_precision("highest"):
            pairs = [direction(g, m, state.count) for g, m in zip(leaves, structure.flatten_up_to(state.matrices))]
        directions, matrices = (structure.unflatten([pair[i] for pair in pairs]) for i in (0, 1))
        return directions, SoapState(state.count + 1, matrices)

    return optax.GradientTransformation(init, update)


def _rotate(x: jax.Array, bases: dict[str, jax.Array], back: bool = False) -> jax.Array:
    """[K, Cin, Cout] into the eigenbasis, or back out of it."""
    for side, basis in bases.items():
        basis = basis.T if back else basis
        x = jnp.einsum("kio,ij->kjo" if side == "in" else "kio,oj->kij", x, basis)
    return x


def _gram(x: jax.Array, side: str) -> jax.Array:
    """[K, Cin, Cout] -> the sum over taps of G_k G_k^T for the side "in", of G_k^T G_k for "out"."""
    return jnp.einsum("kio,kjo->ij" if side == "in" else "kio,kij->oj", x, x)


def _keep(factors, bases, mean):
    del factors
    return bases, mean


def _begin(factors, bases, mean):
    """The first eigenvectors."""
    del bases
    return {side: jnp.linalg.eigh(factor)[1] for side, factor in factors.items()}, mean


def _refresh(factors, bases, mean):
    """Eigenvectors turned towards those of the present factors, by one step of orthogonal iteration, QR(C Q).

    The first moment goes from the old basis into the new one. The second stays as it is: bases turn slowly.
    """

    def turned(factor, basis):
        image = factor @ basis
        # The iteration converges where columns are ordered by eigenvalue, here by the present estimates of them. Each
        # then goes back to its place, where its moments are.
        order = jnp.argsort(-jnp.sum(basis * image, 0))
        return jnp.linalg.qr(image[:, order])[0][:, jnp.argsort(order)]

    new = {side: turned(factor, bases[side]) for side, factor in factors.items()}
    return new, _rotate(mean, {side: bases[side].T @ basis for side, basis in new.items()})


# ---------------------------------------------------------------------- Muon


class MuonState(NamedTuple):
    """The running mean of the gradients."""

    mean: Any


def scale_by_muon(beta: float, ns_steps: int, rms: float) -> optax.GradientTransformation:
    """Muon's direction, for parameters that are all matrices."""

    def init(params):
        return MuonState(jax.tree.map(jnp.zeros_like, params))

    def direction(gradient, mean):
        ahead = (beta * mean + (1 - beta) * gradient).reshape(-1, gradient.shape[-1])
        # Orthogonal, the entries' root mean square is one over the root of the longer side.
        scale = rms * math.sqrt(max(ahead.shape))
        return (scale * orthogonalise(ahead, ns_steps)).reshape(gradient.shape)

    def update(gradients, state, params=None):
        del params
        mean = jax.tree.map(lambda m, g: beta * m + (1 - beta) * g, state.mean, gradients)
        return jax.tree.map(direction, gradients, mean), MuonState(mean)

    return optax.GradientTransformation(init, update)


def orthogonalise(x: jax.Array, steps: int) -> jax.Array:
    """U V^T of x = U S V^T [rows, columns], nearly. Singular values below 1e-3 of the norm remain the smaller ones.

    The iteration of Newton and Schulz, x <- x p(x^T x), needs x itself only at the end: what it multiplies by commutes
    with the Gram matrix, so that is what is iterated. `optax.contrib.muon` multiplies the whole matrix in every step,
    which for a 3x3 kernel takes three times as long.
    """
    if x.shape[0] < x.shape[1]:
        return orthogonalise(x.T, steps).T
    a, b, c = _QUINTIC
    identity = jnp.eye(x.shape[1], dtype=x.dtype)
    with jax.default_matmul_precision("highest"):
        x = x / (jnp.linalg.norm(x) + 1e-30)  # now no singular value is above 1
        gram, product = x.T @ x, identity
        for _ in range(steps):
            factor = a * identity + (b * gram + c * gram @ gram)
            product, gram = product @ factor, factor @ gram @ factor
        return x @ product
