"""How good forecasts are: errors in the data's units, scaled errors, and what the bands cover.

The arrays have the axes (origins, horizon); a mean over both is what the tables show.
"""

import numpy as np


def mae(truth: np.ndarray, forecast: np.ndarray) -> float:
    """Mean absolute error: mean |y - ŷ|, in the data's units."""
    return float(np.abs(truth - forecast).mean())


def rmse(truth: np.ndarray, forecast: np.ndarray) -> float:
    """Root of the mean squared error: sqrt(mean (y - ŷ)²), in the data's units."""
    return float(np.sqrt(np.square(truth - forecast).mean()))


def mase(truth: np.ndarray, forecast: np.ndarray, scale: float) -> float:
    """Mean absolute scaled error: MAE / scale; below 1 is better than the seasonal naive forecast of one step was.

    Args:
        truth, forecast: (N, h).
        scale: `naive_error` of what was known before the test (Hyndman and Koehler 2006,
            doi:10.1016/j.ijforecast.2006.03.001).
    """
    return mae(truth, forecast) / scale


def smape(truth: np.ndarray, forecast: np.ndarray) -> float:
    """Symmetric mean absolute percentage error: 100 mean 2|y - ŷ| / (|y| + |ŷ|), from 0 to 200; 0 where both are 0."""
    size = np.abs(truth) + np.abs(forecast)
    return float(200 * np.divide(np.abs(truth - forecast), size, out=np.zeros_like(size), where=size > 0).mean())


def coverage(truth: np.ndarray, lower: np.ndarray, upper: np.ndarray) -> float:
    """The share of the truth that lies in the band, its ends included, from 0 to 1."""
    return float(((lower <= truth) & (truth <= upper)).mean())


def pinball(truth: np.ndarray, forecast: np.ndarray, level: float) -> float:
    """The loss whose minimum is the quantile: mean max(q (y - ŷ), (q - 1) (y - ŷ))."""
    error = truth - forecast
    return float(np.maximum(level * error, (level - 1) * error).mean())


def naive_error(values: np.ndarray, season: int) -> np.ndarray:
    """The seasonal naive forecast's mean absolute error within a history: mean |y_t - y_{t-m}|, for each target.

    Args:
        values: (N, D).
        season: m.

    Returns:
        (D,), NaN where the history has no two values that far apart.
    """
    if len(values) <= season:
        return np.full(values.shape[1], np.nan)
    return np.asarray(np.abs(values[season:] - values[:-season]).mean(0))
