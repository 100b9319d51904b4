"""The law of growth of components, fitted to trajectories.

Under gradient flow from a balanced start, a component that is the outer product of N vectors (or a
singular value of a product of N matrices) has a norm sigma with
``d sigma / dt = N sigma^(2 - 2/N) <-grad L(W), normalized component>`` [TF and HTF, dynamical
characterization]. The inner product is called the component's drive here.
"""

import math

import numpy as np
from torch import Tensor


def fit_growth_law(times: Tensor, norms: Tensor, drives: Tensor) -> tuple[float, float] | None:
    """Fit ``d sigma / dt = coefficient * sigma^exponent * drive`` to a component's trajectory.

    The slope of ``log(d log sigma / dt) - log(drive)`` against ``log sigma`` is the exponent less
    1. Rates are differences of log sigma, exact where growth is exponential.

    Parameters
    ----------
    times : Tensor
        Shape (times,), rising: time of gradient flow, the sum of step sizes.
    norms, drives : Tensor
        Shape (times,): the component's norm and drive at those times.

    Returns
    -------
    exponent, coefficient : float
        Expected: ``2 - 2/N`` and N. None if fewer than three pairs of successive times have a
        rising norm and a positive drive at both ends.
    """
    time, norm, drive = (series.double().cpu().numpy() for series in (times, norms, drives))
    grows = (norm[:-1] > 0) & (norm[1:] > norm[:-1]) & (drive[:-1] > 0) & (drive[1:] > 0)
    if grows.sum() < 3:
        return None
    log_norm, log_drive = (
        np.log(np.stack([series[:-1][grows], series[1:][grows]])) for series in (norm, drive)
    )
    rate = np.log(np.diff(log_norm, axis=0)[0] / np.diff(time)[grows])
    slope, intercept = np.polyfit(log_norm.mean(0), rate - log_drive.mean(0), 1)
    return 1 + float(slope), math.exp(intercept)
