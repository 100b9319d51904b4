"""The law of growth of components, fitted to trajectories.

Under gradient flow from a balanced start, a component that is the outer product of N vectors (or a
singular value of a product of N matrices) has a norm sigma with
``d sigma / dt = N sigma^(2 - 2/N) <-grad L(W), normalized component>`` [TF and HTF, dynamical
characterization]. The inner product is called the component's drive here.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from scipy import stats
from torch import Tensor

from bench.core.errors import require
from bench.measures.ranks import component_norms


@dataclass(frozen=True)
class GrowthLaw:
    """A fit of ``d sigma / dt = coefficient * sigma^exponent * drive``.

    Attributes
    ----------
    exponent : float
        Expected: ``2 - 2/N``.
    interval : tuple of float
        Confidence interval of the exponent.
    coefficient : float
        Expected: N.
    observations : int
        What the interval rests on: intervals of time in one trajectory, or trajectories.
    """

    exponent: float
    interval: tuple[float, float]
    coefficient: float
    observations: int


def expected_exponent(vectors: int) -> float:
    """Return ``2 - 2/N`` for components that are outer products of N vectors."""
    return 2 - 2 / vectors


def component_drives(factors: Tensor, gradients: Tensor) -> Tensor:
    """Return ``<-grad L(W), normalized component>`` for every component of a CP factorization.

    By multilinearity it equals ``-<grad of w_r^n, w_r^n> / sigma_r`` for every mode n, so that the
    parameters' gradient suffices; the mean over the modes is taken.

    Parameters
    ----------
    factors, gradients : Tensor
        Shape (..., order, mode_dim, rank): the parameters, and the loss's gradient in them.

    Returns
    -------
    Tensor
        Shape (..., rank).
    """
    projections = (factors * gradients).sum(-2).mean(-2)
    return -projections / component_norms(factors)


def singular_value_drives(product: Tensor, gradient: Tensor) -> Tensor:
    """Return ``-u_r^T (grad L(W)) v_r`` for every singular value of an end matrix W.

    Parameters
    ----------
    product, gradient : Tensor
        Shape (..., rows, columns): W, and the loss's gradient in it.

    Returns
    -------
    Tensor
        Shape (..., min(rows, columns)), in the order of falling singular values.
    """
    left, _, right = torch.linalg.svd(product, full_matrices=False)
    return -torch.einsum("...ir,...ij,...rj->...r", left, gradient, right)


def fit_growth_law(
    times: Tensor, norms: Tensor, drives: Tensor, confidence: float = 0.95
) -> GrowthLaw:
    """Fit the law of growth to one component's trajectory, where it grows.

    The slope of ``log(d log sigma / dt) - log(drive)`` against ``log sigma`` is the exponent less
    1. Rates are differences of log sigma, exact where growth is exponential.

    Parameters
    ----------
    times : Tensor
        Shape (times,), rising: time of gradient flow, the sum of step sizes.
    norms, drives : Tensor
        Shape (times,): the component's norm and drive at those times.
    confidence : float
        Level of the interval, in (0, 1). It takes the points' deviations as independent; for
        several trajectories `pool_growth_laws` does not have to.

    Returns
    -------
    GrowthLaw
        `observations` counts the pairs of successive times used: those with a rising norm and a
        positive drive at both ends.

    Raises
    ------
    UserError
        For fewer than three such pairs, or a level outside (0, 1).
    """
    require(0 < confidence < 1, f"confidence={confidence}", "a number between 0 and 1")
    time, norm, drive = (
        series.detach().double().cpu().numpy() for series in (times, norms, drives)
    )
    grows = (norm[:-1] > 0) & (norm[1:] > norm[:-1]) & (drive[:-1] > 0) & (drive[1:] > 0)
    pairs = int(grows.sum())
    require(
        pairs >= 3,
        f"a trajectory that grows between {pairs} pairs of its {len(norm)} points",
        "at least 3 pairs",
        "measure more often while the component grows",
    )
    log_norm, log_drive = (
        np.log(np.stack([series[:-1][grows], series[1:][grows]])) for series in (norm, drive)
    )
    rate = np.log(np.diff(log_norm, axis=0)[0] / np.diff(time)[grows])
    line, covariance = np.polyfit(log_norm.mean(0), rate - log_drive.mean(0), 1, cov=True)
    exponent = 1 + float(line[0])
    half = float(stats.t.ppf((1 + confidence) / 2, pairs - 2) * math.sqrt(covariance[0, 0]))
    return GrowthLaw(exponent, (exponent - half, exponent + half), math.exp(line[1]), pairs)


def pool_growth_laws(laws: Sequence[GrowthLaw], confidence: float = 0.95) -> GrowthLaw:
    """Return the mean of several trajectories' fits, with Student's interval over trajectories.

    Raises
    ------
    UserError
        For fewer than two fits, or a level outside (0, 1).
    """
    require(len(laws) >= 2, f"{len(laws)} trajectories", "at least 2", "add seeds or components")
    require(0 < confidence < 1, f"confidence={confidence}", "a number between 0 and 1")
    exponents = np.array([law.exponent for law in laws])
    error = stats.sem(exponents)
    half = float(stats.t.ppf((1 + confidence) / 2, len(laws) - 1) * error)
    mean = float(exponents.mean())
    coefficient = math.exp(float(np.mean([math.log(law.coefficient) for law in laws])))
    return GrowthLaw(mean, (mean - half, mean + half), coefficient, len(laws))
