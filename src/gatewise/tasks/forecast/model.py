"""The net that forecasts."""

import math
from typing import Any

import torch
from torch import Tensor, nn

import gatewise
from gatewise.errors import InputError
from gatewise.tasks.find_cell import find_cell
from gatewise.tasks.forecast.settings import ModelSettings, levels, listed

State = Any  # a tensor (L, B, H), or a tuple of them for a cell with several states


class Forecaster(nn.Module):
    """A recurrent layer reads a window, a linear layer forecasts.

        z_t = (y_t - location) / scale                     of the window, or of the series
        h_t = layer((z_t, z_t - z_{t-m}, …), h_{t-1})
        direct:          ẑ_{T+1}, …, ẑ_{T+h} = base + W h_T + b
        autoregressive:  ẑ_{t+1} = base + W h_t + b, and ẑ_{t+1} is the next input

    `base` is 0, or the (seasonal) naive forecast; the differences to it are an input then. With quantiles, W h + b
    holds the median and the steps from each level to the next, made positive, so that no two levels cross.

    Args:
        cell: a built-in cell's name or `"FILE.py:NAME"`, or a `gatewise.Graph`.
        facts: of the data, as `ForecastData.facts` gives them.
        choices: `hidden_size`, `num_layers`, `dropout`, `decode`, `normalise`, `residual`, `features`, `quantiles`;
            see `ModelSettings`.

    Raises:
        InputError: there is no such cell, or a choice is out of its range.
    """

    layer: Any  # a layer of gatewise; it has `cell`, `hidden_size` and so on, which nn.Module does not declare

    def __init__(self, cell: Any, facts: dict[str, Any], **choices: Any) -> None:
        super().__init__()
        graph = find_cell(cell) if isinstance(cell, str) else cell
        self.choices = s = ModelSettings(**{"cell": graph.name, **choices})
        self.facts = facts
        self.targets, self.season, self.horizon = len(facts["targets"]), facts["season"], facts["horizon"]
        self.levels = levels(s.quantiles)
        self.lag = {"seasonal": self.season, "naive": 1, "none": 0}[s.residual]
        if self.lag > facts["window"]:
            raise InputError(
                f"a window of {facts['window']} steps holds no season of {self.season}:"
                " raise --window, or --residual none"
            )
        # The lags of the differences that are read: those that the net is to forecast, and those over a season.
        self.features = listed(s.features)
        if s.features == "auto":  # a cycle that is no calendar's, as the sunspots', has no phase that can be told
            self.features = ("level", "phase") if facts["calendar"] and self.season > 1 else ("level",)
        self.lags = sorted({self.lag, self.season if "differences" in self.features else 0} - {0})
        inputs = self.targets * (1 + len(self.lags)) + len(facts["covariates"])
        inputs += 2 * ("phase" in self.features) + self.targets * ("level" in self.features)
        self.layer = gatewise.Recurrent(graph, inputs, s.hidden_size, s.num_layers, dropout=s.dropout)
        steps = self.horizon if s.decode == "direct" else 1
        self.output = nn.Linear(s.hidden_size, steps * self.targets * max(1, len(self.levels)))

    def forward(
        self, past: Tensor, first: Tensor, location: Tensor, deviation: Tensor, horizon: int | None = None
    ) -> Tensor:
        """Forecasts.

        Args:
            past: (T, B, D + C) targets and covariates, in the data's units, float64.
            first: (B,) the number of each window's first step.
            location, deviation: (B, D) of the whole series, as far as it was learned.
            horizon: h, the steps to forecast; None takes those that the net was trained for.

        Returns:
            (h, B, D, Q), in the data's units, float64: the levels rising; without quantiles Q = 1, the mean.

        Raises:
            InputError: decoding is direct, and h is longer than what the net was trained for.
        """
        horizon = self.horizon if horizon is None else horizon
        if self.choices.decode == "direct" and horizon > self.horizon:
            raise InputError(
                f"this net forecasts {self.horizon} steps at once, and {horizon} are asked for:"
                f" train one with --horizon {horizon}, or with --decode autoregressive"
            )
        mean = past[..., : self.targets].mean(0)
        # A window that hardly moves is not blown up: a hundredth of the series' usual deviation is added.
        spread = (past[..., : self.targets].var(0, correction=0) + (0.01 * deviation).square()).sqrt()
        level = ((mean - location) / deviation).tanh()
        location, scale = {
            "window": (mean, spread),
            "location": (mean, deviation),
            "series": (location, deviation),
            "none": (torch.zeros_like(mean), torch.ones_like(mean)),
        }[self.choices.normalise]
        z = ((past[..., : self.targets] - location) / scale).to(self.output.weight.dtype)
        covariates = self._covariates(past[..., self.targets :])
        if "level" in self.features:  # squashed above, so that a trend does not lead out of what was seen in training
            covariates = torch.cat((covariates, level.expand(len(z), -1, -1)), -1)
        covariates = covariates.to(z.dtype)
        decode = self._direct if self.choices.decode == "direct" else self._autoregressive
        forecast = decode(z, covariates, first, horizon)
        return location[None, ..., None] + scale[None, ..., None] * forecast.double()

    def settings(self) -> ModelSettings:
        """The choices, as settings from which a model with the same parameters can be built."""
        return self.choices

    def _direct(self, z: Tensor, covariates: Tensor, first: Tensor, horizon: int) -> Tensor:
        out, _ = self.layer(self._inputs(z, z, covariates, first))
        forecast = self._spread(self.output(out[-1]).unflatten(1, (self.horizon, self.targets, -1)).transpose(0, 1))
        forecast = forecast[:horizon]
        if self.lag:
            ago = torch.arange(horizon, device=z.device) % self.lag - self.lag
            forecast = forecast + z[ago].unsqueeze(-1)
        return forecast

    def _autoregressive(self, z: Tensor, covariates: Tensor, first: Tensor, horizon: int) -> Tensor:
        out, state = self.layer(self._inputs(z, z, covariates, first))
        longest = max(self.lags, default=0)
        history, steps = list(z[-longest:] if longest else z[-1:]), []
        for k in range(horizon):
            step = self._spread(self.output(out[-1]).unflatten(1, (self.targets, -1)))
            if self.lag:
                step = step + history[-self.lag].unsqueeze(-1)
            steps.append(step)
            point = step[..., len(self.levels) // 2 if not self.levels else self.levels.index(0.5)]
            history.append(point)
            if k + 1 < horizon:
                recent = torch.stack(history[-longest - 1 :])
                out, state = self.layer(self._inputs(point[None], recent, covariates[-1:], first + len(z) + k), state)
        return torch.stack(steps)

    def _inputs(self, z: Tensor, history: Tensor, covariates: Tensor, first: Tensor) -> Tensor:
        """What the layer reads of steps z (n, B, D), the last n of `history`; `first` is the number of the first."""
        parts = [z, covariates]
        for lag in self.lags:  # where nothing is known so long ago, no difference
            changes = (history[lag:] - history[:-lag])[-len(z) :]
            parts.append(torch.cat((z.new_zeros((len(z) - len(changes), *z.shape[1:])), changes)))
        if "phase" in self.features:
            steps = first + torch.arange(len(z), device=z.device)[:, None]
            angle = 2 * math.pi * (steps % self.season).to(z.dtype) / self.season
            parts.append(torch.stack((angle.sin(), angle.cos()), -1))
        return torch.cat(parts, -1)

    def _covariates(self, past: Tensor) -> Tensor:
        """The covariates, by mean and deviation of the window; they have no statistics of their own in the facts."""
        if not past.shape[-1] or self.choices.normalise == "none":
            return past
        return (past - past.mean(0)) / (past.std(0, correction=0) + 1e-6 * (1 + past.abs().mean(0)))

    def _spread(self, raw: Tensor) -> Tensor:
        """(…, Q) the levels, rising, from the median and the steps between neighbours."""
        if len(self.levels) < 2:
            return raw
        middle = self.levels.index(0.5)
        steps = nn.functional.softplus(raw)
        below = steps[..., :middle].flip(-1).cumsum(-1).flip(-1)
        above = steps[..., middle + 1 :].cumsum(-1)
        median = raw[..., middle : middle + 1]
        return torch.cat((median - below, median, median + above), -1)


def loss_of(forecast: Tensor, truth: Tensor, unit: Tensor, quantiles: tuple[float, ...]) -> tuple[Tensor, Tensor]:
    """The loss () that is minimised, and the mean absolute scaled error () of the point forecasts.

    With quantiles, the mean over levels of twice the pinball loss, so that the median's part is the absolute error:
    2 max(q e, (q - 1) e) with e = (y - ŷ) / unit; without, the mean of e².

    Args:
        forecast: (h, B, D, Q). truth: (h, B, D). unit: (B, D).
        quantiles: the levels.
    """
    error = (truth.unsqueeze(-1) - forecast) / unit[..., None]
    if not quantiles:
        return error.square().mean(), error.detach().abs().mean()
    level = error.new_tensor(quantiles)
    loss = 2 * torch.maximum(level * error, (level - 1) * error).mean()
    return loss, error.detach()[..., quantiles.index(0.5)].abs().mean()
