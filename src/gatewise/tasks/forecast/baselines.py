"""What a net has to beat: the naive and the seasonal naive forecast, and exponential smoothing."""

import warnings
from collections.abc import Sequence
from typing import Any

import numpy as np

from gatewise.errors import require

SIMULATIONS = 1000  # futures drawn from an ETS model for its bands


def naive(values: np.ndarray, horizon: int, season: int = 1) -> np.ndarray:
    """The last value again and again, or the last season: ŷ_{t+k} = y_{t+k-m⌈k/m⌉}.

    Args:
        values: (N, D) the history, at least `season` long.
        horizon: h.
        season: m; 1 is the naive forecast.

    Returns:
        (h, D).
    """
    return values[len(values) - season + np.arange(horizon) % season]


class ETS:
    """Exponential smoothing (statsmodels' ETSModel), its form chosen by AICc.

    The error is additive; the trend is none, additive or damped; the season none, additive or, for positive values,
    multiplicative. Form, parameters and the error's variance are fitted once, on the history before the test; the
    states then follow the data up to each origin. So it is treated as the net is, whose weights are fixed too, and
    it has the held-out part to learn from besides.

    Args:
        values: (N,) the whole series.
        fitted: the parameters come from the first so many values.
        season: m.
        estimate: the first states are parameters too; else statsmodels' rule sets them, at a tenth of the time.

    Raises:
        ValueError: no form can be fitted, as of a history of a few values.

    Source: Hyndman, Koehler, Ord and Snyder, Forecasting with Exponential Smoothing (2008).
    """

    def __init__(self, values: np.ndarray, fitted: int, season: int, estimate: bool = True) -> None:
        require("statsmodels", extra="forecast")
        from statsmodels.tsa.exponential_smoothing.ets import ETSModel

        history = values[:fitted]
        seasons: list[str | None] = [None]
        if season > 1 and fitted >= 3 * season:
            seasons += ["add"] if history.min() <= 0 else ["add", "mul"]
        start = "estimated" if estimate else "heuristic"
        best: Any = None
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # a form that does not converge has a poor likelihood, and is not chosen
            for trend, damped in ((None, False), ("add", False), ("add", True)):
                for seasonal in seasons:
                    form: dict[str, Any] = {"trend": trend, "damped_trend": damped, "seasonal": seasonal}
                    form |= {"seasonal_periods": season if seasonal else None, "initialization_method": start}
                    try:
                        found = ETSModel(history, **form).fit(disp=False)
                    except (ValueError, ZeroDivisionError, np.linalg.LinAlgError):  # too short for this form
                        continue
                    if np.isfinite(found.aicc) and (best is None or found.aicc < best[0].aicc):
                        best = found, form
            if best is None:
                raise ValueError(f"no ETS model fits a history of {fitted} values")
            self.fit, form = best
            # statsmodels takes no model with a multiplicative season of values that are not all positive, as later
            # ones may be, though such a model can follow them.
            model = ETSModel(np.where(values > 0, values, 1.0) if form["seasonal"] == "mul" else values, **form)
            model.endog = np.array(values, dtype=np.float64)
            if not estimate:  # else the rule would set the first states by what comes after the history
                first = self.fit.model
                model.set_initialization_method(
                    "known", first.initial_level, first.initial_trend, first.initial_seasonal
                )
            self.followed = model.smooth(self.fit.params)
        damping = "Ad" if form["damped_trend"] else "A"
        self.name = (
            f"ETS(A,{damping if form['trend'] else 'N'},{ {None: 'N', 'add': 'A', 'mul': 'M'}[form['seasonal']] })"
        )

    def forecast(self, known: int, horizon: int, levels: Sequence[float]) -> np.ndarray:
        """Forecasts after the first `known` values, from the states there.

        Args:
            known: at least 1.
            horizon: h.
            levels: quantiles, whose bands are those of drawn futures; none gives the point forecast alone.

        Returns:
            (h, Q), or (h, 1) without levels; the level 0.5 is the point forecast.
        """
        draws = np.random.default_rng(0).standard_normal((horizon, SIMULATIONS if levels else 1))
        draws[:, 0] = 0  # the future without errors is the point forecast
        futures: np.ndarray = np.asarray(
            self.followed.simulate(
                horizon,
                anchor=known - 1,  # statsmodels counts from the step before the first drawn one
                repetitions=draws.shape[1],
                random_errors=draws * np.sqrt(self.fit.scale),
            )
        ).reshape(horizon, -1)
        if not levels:
            return futures
        bands: np.ndarray = np.quantile(futures, levels, axis=1).T
        bands[:, list(levels).index(0.5)] = futures[:, 0]
        return bands
