"""The net that forecasts: both decodings by hand, quantiles, losses, metrics, baselines."""

import numpy as np
import pytest
import torch

pytest.importorskip("pandas")

from gatewise.errors import InputError
from gatewise.tasks.forecast import Forecaster, metrics, naive
from gatewise.tasks.forecast.model import loss_of

T, B, H = 9, 3, 5


def facts(targets=1, covariates=0, season=4, horizon=6, window=T):
    return {
        "targets": [f"y{k}" for k in range(targets)],
        "covariates": [f"x{k}" for k in range(covariates)],
        "series": ["a", "b"],
        "grid": {"kind": "steps", "step": 1, "anchor": "0"},
        "season": season,
        "calendar": True,
        "horizon": horizon,
        "window": window,
        "location": [[10.0] * targets, [-3.0] * targets],
        "deviation": [[2.0] * targets, [5.0] * targets],
    }


def windows(columns, seed=0):
    random = torch.Generator().manual_seed(seed)
    past = torch.randn(T, B, columns, generator=random, dtype=torch.float64) * 4 + 7
    location, deviation = torch.tensor([[10.0], [-3.0], [10.0]]), torch.tensor([[2.0], [5.0], [2.0]])
    return past, torch.tensor([0, 5, 11]), location.double(), deviation.double()


def textbook(cell="rnn", **changes):
    """No more than a recurrent layer, and a linear one back to the input's size."""
    choices = {"decode": "autoregressive", "normalise": "none", "residual": "none", "features": "none"}
    return Forecaster(cell, facts(), **{"hidden_size": H, "quantiles": "none", **choices, **changes})


@pytest.mark.parametrize("cell", ["rnn", "lstm"])
def test_autoregressive_decoding_is_the_textbooks_loop(cell):
    torch.manual_seed(0)
    net = textbook(cell)
    layer = {"rnn": torch.nn.RNN, "lstm": torch.nn.LSTM}[cell](1, H)
    layer.load_state_dict(net.layer.state_dict())
    past, first, *usual = windows(1)
    out, state = layer(past.float())
    y = net.output(out[-1])
    steps = [y]
    for _ in range(8):  # longer than the six that it was made for
        out, state = layer(y[None], state)
        y = net.output(out[-1])
        steps.append(y)
    forecast = net(past, first, *usual, 9)
    assert forecast.shape == (9, B, 1, 1)
    torch.testing.assert_close(forecast[..., 0].float(), torch.stack(steps), rtol=1e-4, atol=1e-5)


def test_direct_decoding_by_hand():
    """Window statistics, differences, phase, level and the seasonal naive base, each written out once more."""
    torch.manual_seed(0)
    net = Forecaster(
        "gru",
        facts(2, 1),
        hidden_size=H,
        normalise="window",
        residual="seasonal",
        features="level,phase",
        quantiles="none",
    )
    past, first, *usual = windows(3)
    y, x = past[..., :2], past[..., 2:]
    mean, deviation = y.mean(0), torch.sqrt(y.var(0, correction=0) + (0.01 * usual[1]).square())
    z = (y - mean) / deviation
    covariate = (x - x.mean(0)) / x.std(0, correction=0)
    level = ((mean - usual[0]) / usual[1]).tanh()
    change = torch.zeros_like(z)
    change[4:] = z[4:] - z[:-4]
    angle = 2 * torch.pi * (torch.arange(T)[:, None] + first) / 4
    phase = torch.stack((angle.sin(), angle.cos()), -1)
    gru = torch.nn.GRU(net.layer.input_size, H).double()
    gru.load_state_dict(net.layer.state_dict())
    out, _ = gru(torch.cat((z, covariate, level.expand(T, -1, -1), change, phase), -1))
    added = (out[-1] @ net.output.weight.double().T + net.output.bias.double()).view(B, 6, 2).transpose(0, 1)
    base = torch.stack([z[T - 4 + k % 4] for k in range(6)])
    expected = mean + deviation * (base + added)
    torch.testing.assert_close(net(past, first, *usual)[..., 0], expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(InputError, match=r"forecasts 6 steps at once, and 7 are asked for: train one with --horizon 7"):
        net(past, first, *usual, 7)
    assert torch.equal(net(past, first, *usual, 2), net(past, first, *usual)[:2])


def test_the_median_is_fed_back_with_its_own_phase_and_difference():
    torch.manual_seed(0)
    choices = {"normalise": "series", "residual": "seasonal", "features": "phase", "quantiles": "0.2,0.5,0.9"}
    net = Forecaster("gru", facts(), hidden_size=H, decode="autoregressive", **choices)
    past, first, *usual = windows(1)
    gru = torch.nn.GRU(4, H)
    gru.load_state_dict(net.layer.state_dict())
    z = list(((past - usual[0]) / usual[1]).float())
    state, medians = None, []
    for t in range(T + 5):
        if t >= T:  # what was forecast for this step comes in
            z.append(medians[-1])
        change = z[t] - z[t - 4] if t >= 4 else torch.zeros(B, 1)
        angle = (2 * torch.pi * ((first + t) % 4) / 4)[:, None]
        out, state = gru(torch.cat((z[t], change, angle.sin(), angle.cos()), 1)[None], state)
        if t >= T - 1:
            medians.append(net.output(out[0])[:, 1:2] + z[t - 3])
    expected = usual[0] + usual[1] * torch.stack(medians)
    forecast = net(past, first, *usual)
    torch.testing.assert_close(forecast[..., 1], expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("decode", ["direct", "autoregressive"])
@pytest.mark.parametrize("residual", ["seasonal", "naive"])
def test_a_net_that_adds_nothing_is_the_naive_forecast(decode, residual):
    net = Forecaster(
        "gru", facts(2), hidden_size=H, decode=decode, residual=residual, features="differences", quantiles="none"
    )
    torch.nn.init.zeros_(net.output.weight)
    torch.nn.init.zeros_(net.output.bias)
    past, first, *usual = windows(2)
    forecast = net(past, first, *usual)[..., 0].detach()
    for b in range(B):
        expected = naive(past[:, b].numpy(), 6, 4 if residual == "seasonal" else 1)
        np.testing.assert_allclose(forecast[:, b].numpy(), expected, rtol=1e-5)


@pytest.mark.parametrize("normalise", ["window", "location"])
@pytest.mark.parametrize("decode", ["direct", "autoregressive"])
def test_quantiles_rise_and_a_shift_of_the_data_shifts_them(normalise, decode):
    torch.manual_seed(0)
    net = Forecaster(
        "gru",
        facts(),
        hidden_size=H,
        decode=decode,
        normalise=normalise,
        features="phase",
        quantiles="0.05,0.3,0.5,0.9",
    )
    with torch.no_grad():
        net.output.bias.copy_(5 * torch.randn(net.output.bias.shape))
    past, first, *usual = windows(1)
    forecast = net(past, first, *usual)
    assert forecast.shape == (6, B, 1, 4)
    assert (forecast.diff(dim=-1) > 0).all()
    torch.testing.assert_close(net(past + 1000, first, *usual), forecast + 1000, rtol=1e-4, atol=1e-4)


def test_the_place_in_the_season_and_the_series_matter_where_they_are_read():
    torch.manual_seed(0)
    past, first, *usual = windows(1)
    for choices, moved in (
        ({"features": "phase"}, (True, False)),
        ({"features": "none"}, (False, False)),
        ({"features": "level"}, (False, True)),
        ({"normalise": "series", "features": "none"}, (False, True)),
    ):
        net = Forecaster("gru", facts(), hidden_size=H, **{"normalise": "window", "residual": "none", **choices})
        before = net(past, first, *usual)
        later, elsewhere = net(past, first + 1, *usual), net(past, first, usual[0] + 1, usual[1])
        assert (not torch.equal(later, before), not torch.equal(elsewhere, before)) == moved, choices


def test_the_loss_is_twice_the_pinball_loss():
    truth, forecast = torch.randn(6, B, 2).double(), torch.randn(6, B, 2, 3).double()
    unit = torch.rand(B, 2).double() + 0.5
    levels = (0.1, 0.5, 0.8)
    loss, mase = loss_of(forecast, truth, unit, levels)
    scaled = [((truth / unit).numpy(), (forecast[..., k] / unit).numpy(), q) for k, q in enumerate(levels)]
    assert loss.item() == pytest.approx(2 * np.mean([metrics.pinball(*part) for part in scaled]))
    assert mase.item() == pytest.approx(metrics.mae(*scaled[1][:2]))
    squared, _ = loss_of(forecast[..., :1], truth, unit, ())
    assert squared.item() == pytest.approx(np.square(scaled[0][0] - scaled[0][1]).mean())


def test_metrics_are_those_of_scikit_learn():
    learn = pytest.importorskip("sklearn.metrics")
    random = np.random.default_rng(0)
    truth, forecast = random.normal(5, 2, (20, 6)), random.normal(5, 2, (20, 6))
    assert metrics.mae(truth, forecast) == pytest.approx(learn.mean_absolute_error(truth, forecast))
    assert metrics.rmse(truth.ravel(), forecast.ravel()) == pytest.approx(
        learn.root_mean_squared_error(truth.ravel(), forecast.ravel())
    )
    for q in (0.1, 0.5, 0.9):
        assert metrics.pinball(truth, forecast, q) == pytest.approx(learn.mean_pinball_loss(truth, forecast, alpha=q))


def test_metrics_are_those_of_sktime():
    sktime = pytest.importorskip("sktime.performance_metrics.forecasting")
    random = np.random.default_rng(0)
    history, truth, forecast = random.normal(5, 2, 50), random.normal(5, 2, 12), random.normal(5, 2, 12)
    scale = float(metrics.naive_error(history[:, None], 4)[0])
    assert metrics.mase(truth, forecast, scale) == pytest.approx(
        sktime.mean_absolute_scaled_error(truth, forecast, y_train=history, sp=4)
    )
    assert metrics.smape(truth, forecast) == pytest.approx(
        100 * sktime.mean_absolute_percentage_error(truth, forecast, symmetric=True)
    )
    assert metrics.smape(np.zeros(3), np.zeros(3)) == 0
    assert metrics.coverage(truth, truth, truth + 1) == 1
    assert metrics.coverage(np.array([1.0, 2.0, 3.0, 4.0]), np.full(4, 1.5), np.full(4, 3.0)) == 0.5
    assert np.isnan(metrics.naive_error(history[:4, None], 4)).all()


def test_ets_is_statsmodels_forecast_from_any_origin():
    pytest.importorskip("statsmodels")
    from statsmodels.tsa.exponential_smoothing.ets import ETSModel

    from gatewise.tasks.forecast import ETS

    t = np.arange(96)
    values = 50 + 0.3 * t + 6 * np.sin(2 * np.pi * t / 4) + np.random.default_rng(0).normal(0, 1, 96)
    ets = ETS(values, 60, 4)
    assert ets.name == "ETS(A,A,A)"
    form = {"trend": "add", "seasonal": "add", "seasonal_periods": 4}
    for known in (60, 75, 96):
        alone = ETSModel(values[:known], **form).smooth(ets.fit.params)
        bands = ets.forecast(known, 8, (0.1, 0.5, 0.9))
        np.testing.assert_allclose(bands[:, 1], alone.forecast(8), rtol=1e-6)
        np.testing.assert_allclose(ets.forecast(known, 8, ())[:, 0], bands[:, 1])
    # The bands are those of the Gaussian: its quantiles ±1.2816 deviations, within the error of 1000 draws.
    spread = (bands[0, 2] - bands[0, 0]) / 2
    assert spread == pytest.approx(1.2816 * np.sqrt(ets.fit.scale), rel=0.1)
    changed = values.copy()
    changed[75:] += 1000
    np.testing.assert_array_equal(ETS(changed, 60, 4).forecast(75, 8, ()), ets.forecast(75, 8, ()))
    # statsmodels' rule for the first states reads five seasons: no more of them than the history has.
    one, other = (ETS(some, 60, 16, estimate=False).forecast(60, 8, ()) for some in (values, changed))
    np.testing.assert_array_equal(one, other)


def test_ets_follows_values_that_its_season_could_not_be_fitted_to():
    pytest.importorskip("statsmodels")
    from gatewise.tasks.forecast import ETS

    t = np.arange(80)
    values = (20 + t) * (1 + 0.5 * np.sin(2 * np.pi * t / 4)) + np.random.default_rng(0).normal(0, 0.3, 80)
    zero = values.copy()
    zero[70] = 0
    whole, ets = ETS(values, 60, 4), ETS(zero, 60, 4)
    assert ets.name == whole.name
    assert ets.name.endswith("M)")
    np.testing.assert_array_equal(ets.forecast(70, 4, ()), whole.forecast(70, 4, ()))
    assert not (ets.forecast(71, 4, ()) == whole.forecast(71, 4, ())).any()
    zero[70] = 1e-9
    np.testing.assert_allclose(ETS(zero, 60, 4).forecast(80, 4, ()), ets.forecast(80, 4, ()))
