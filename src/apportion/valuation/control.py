"""A free game as control variate of the game that is credited: what coalitions' own images say of it.

The odd part of a coalition and its complement is that of their credits and of interactions between players.
Interactions are noise to a fit of credits. The part of them that own images show can be subtracted, because
it has no Shapley values: for any number rho, y - rho c has the Shapley values of y, where c is the odd part
of own images less that of their Shapley values. See docs/methods.md, section "Own images as a control".
"""

from typing import NamedTuple

import numpy as np

from apportion.valuation.coalitions import Coalitions, Vector
from apportion.valuation.multifidelity import (
    CheapGame,
    CheapValues,
    WeightedPairs,
    all_pairs_present,
    assisted,
    centred,
    known_credits,
    leverage_pairs,
)

PAIRS_LEFT_OVER = 4
"""Pairs beyond the coefficients of the fit, at least: with fewer, rho is too uncertain."""


NONE_LEFT = 1e-9  # of a pair, where the fit passes through it


class Adjusted(NamedTuple):
    """Values y (m,) with the Shapley values of the game, and less noise for a fit of them. errors (n,
    sources): what the errors of the control's own Shapley values add to the error of each credit; products of
    errors, summed over sources, are their covariance. rho: the coefficient of the control."""

    y: Vector
    errors: Vector
    rho: float


def adjusted(Z: Coalitions, y: Vector, control: CheapGame) -> Adjusted | None:
    """The values y (m,) of coalitions Z (m, n), which are complementary pairs of the `leverage` design, with
    the help of a control that was evaluated on them too.

    None where the estimated variance of all credits together, with the errors of the control, does not become
    smaller, and where there are too few pairs. rho is fitted to all pairs but the one that it is used for, so
    that no pair chooses its own. Where all coalitions were evaluated it is the same for all pairs, so that
    credits stay exact.
    Raises ValuationError for coalitions that are not such pairs or that the control lacks, and for a control
    of fewer than eight pairs.
    """
    pairs, game = leverage_pairs(Z), CheapValues.of(control, Z.shape[1])
    nuisance = _nuisance(pairs)
    J, k = nuisance.shape
    if k + 1 + PAIRS_LEFT_OVER > J:
        return None
    own_odd = game.pairs.odd(game.y)
    fit = known_credits(game.pairs, assisted(game.pairs, own_odd).as_known(), game.noise_free)
    phi = fit.phi - fit.phi.mean()
    shift = fit.shift - fit.shift.mean(axis=0)
    if not np.isfinite(shift).all():
        return None
    # Functions of size have no Shapley values either. They can be far larger than the rest.
    own_sizes, root = _sizes(game.pairs), np.sqrt(game.pairs.weight)
    rest = own_odd - centred(game.pairs.S) @ phi
    trend = np.linalg.lstsq(own_sizes * root[:, None], rest * root, rcond=None)[0]
    c, D = game.odd_of(pairs) - centred(pairs.S) @ phi - _sizes(pairs) @ trend, pairs.odd(y)
    coefficients = _coefficients(np.column_stack([nuisance, c]), D, pairs.weight)
    rho = float(np.average(coefficients, weights=pairs.weight))
    if all_pairs_present(pairs):
        coefficients = np.full(J, rho)
    change = coefficients * c
    without, by_pairs = (_variance(nuisance, odd, pairs.weight, len(phi)) for odd in (D, D - change))
    if not by_pairs + np.sum((rho * shift) ** 2) < without:
        return None
    values = y.copy()
    values[pairs.rows[:, 0]] -= change
    values[pairs.rows[:, 1]] += change
    return Adjusted(values, rho * shift, rho)


def _nuisance(pairs: WeightedPairs) -> Vector:
    """The columns of the fit beside the control, (pairs, k): players, less what they have in common, and
    functions of size, as in `shapley.weighted`."""
    J, n = pairs.S.shape
    count = min((n - 1) // 2, 2 if 2 * n <= J else 1 if n < J else 0)
    return np.column_stack([centred(pairs.S)[:, 1:], _sizes(pairs)[:, :count]])


def _sizes(pairs: WeightedPairs) -> Vector:
    """Functions of size that are odd, (pairs, 2)."""
    off = 2 * pairs.S.mean(axis=1) - 1
    return np.stack([off, off**3], axis=1)


def _coefficients(X: Vector, D: Vector, weight: Vector) -> Vector:
    """The last coefficient of the weighted fit of X (pairs, k) to all odd parts but one, for each of them,
    (pairs,)."""
    root = np.sqrt(weight)
    A, b = X * root[:, None], D * root
    gram = np.linalg.pinv(A.T @ A, hermitian=True)
    theta = gram @ (A.T @ b)
    remaining = np.maximum(1.0 - np.einsum("pi,ij,pj->p", A, gram, A), NONE_LEFT)
    return np.asarray(theta[-1] - (A @ gram)[:, -1] * (b - A @ theta) / remaining, dtype=np.float64)


def _variance(X: Vector, D: Vector, weight: Vector, n: int) -> float:
    """The summed variance of the n credits by the weighted fit of X (pairs, k), whose first columns are those
    of all players but the first (HC2)."""
    root = np.sqrt(weight)
    A, b = X * root[:, None], D * root
    gram = np.linalg.pinv(A.T @ A, hermitian=True)
    T = np.vstack([np.zeros(len(D)), (gram @ A.T)[: n - 1]])
    T -= T.mean(axis=0)
    remaining = np.maximum(1.0 - np.einsum("pi,ij,pj->p", A, gram, A), NONE_LEFT)
    return float(np.sum((T * (b - A @ (gram @ (A.T @ b)))) ** 2 / remaining))
