"""What is measured of a recurrent layer, and its pictures."""

from __future__ import annotations

import sys
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32, FLOAT64
from torch import Tensor

import gatewise
from gatewise import cells
from gatewise.inspect import measures, plots

T, B, I, H = 12, 3, 5, 4


@gatewise.cell(gates="r z n")
def of_the_papers(x, h):  # type: ignore[no-untyped-def]
    r = torch.sigmoid(x.r + h.r)
    z = torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + r * h.n)
    return z * n + (1 - z) * h


@gatewise.cell(gates="z n")
def leaky(x, h, c):  # type: ignore[no-untyped-def]
    z = torch.sigmoid(x.z + h.z)
    c = (1 - z) * torch.tanh(x.n + h.n) + c * z
    return torch.tanh(c), c


def recording(layer: Any, **options: Any) -> gatewise.inspect.Recording:
    with gatewise.record(layer) as seen, torch.no_grad():
        layer(torch.randn(T, B, I), **options)
    return seen


# --- numbers ----------------------------------------------------------------------------------------------


def test_saturation_counts_steps() -> None:
    values = torch.tensor([[0.05, 0.5], [0.95, 0.5], [0.02, 0.91], [torch.nan, torch.nan]]).unsqueeze(1)
    low, high = measures.saturation(values)
    assert torch.allclose(low, torch.tensor([2 / 3, 0.0]))
    assert torch.allclose(high, torch.tensor([1 / 3, 1 / 3]))
    low, high = measures.saturation(values, 0.6, 0.92)
    assert torch.allclose(low, torch.tensor([2 / 3, 2 / 3]))
    assert torch.allclose(high, torch.tensor([1 / 3, 0.0]))


def test_a_time_constant_is_when_a_state_has_decayed_to_1_of_e() -> None:
    for keep in (0.5, 0.9, 0.999):
        (steps,) = measures.time_constants(torch.full((T, B, 1), keep, dtype=torch.float64))
        assert keep**steps == pytest.approx(torch.e**-1)
    ends = measures.time_constants(torch.stack([torch.ones(T, B), torch.zeros(T, B)], -1))
    assert ends.tolist() == [torch.inf, 0.0]


def test_what_keeps_a_state_is_read_from_the_equations() -> None:
    expected = {
        cells.gru: {"h": ("z", False)},
        cells.gru_reset_before: {"h": ("z", False)},
        of_the_papers: {"h": ("z", True)},
        leaky: {"c": ("z", False)},
        cells.rnn: {},
        cells.lstm: {"c": ("f", False)},
        cells.lstm_projected: {"c": ("f", False)},
        cells.lstm_peephole: {"c": ("f", False)},
        gatewise.layer_norm(cells.lstm): {"c": ("f", False)},
        gatewise.clip_state_grad(cells.gru, 1.0): {"h": ("z", False)},
    }
    for cell, keepers in expected.items():
        assert measures.keepers(cell) == keepers, cell.name


def test_singular_values_are_those_of_each_gate_s_weights() -> None:
    layer = randomize(gatewise.LSTM(I, H, 2, bidirectional=True, proj_size=2))
    model = torch.nn.ModuleDict({"net": layer})
    found = measures.singular_values(model)
    assert list(found) == ["net.l0", "net.l0_reverse", "net.l1", "net.l1_reverse"]
    for key, gates in found.items():
        blocks = getattr(layer, f"weight_hh_{key.removeprefix('net.')}").chunk(4)
        assert list(gates) == ["i", "f", "g", "o"]
        for values, block in zip(gates.values(), blocks, strict=True):
            assert values.shape == (2,)
            assert_close((values**2).sum(), (block.detach() ** 2).sum(), FLOAT32)
            assert_close(values[0], torch.linalg.matrix_norm(block.detach(), 2), FLOAT32)


def test_gradient_norms_of_an_rnn_are_products_of_its_steps() -> None:
    layer = randomize(gatewise.RNN(I, H, dtype=torch.float64))
    x = torch.randn(T, B, I, dtype=torch.float64)
    norms = measures.gradient_norms(layer, x, lambda output: output[-1].sum())["h"]
    assert norms.shape == (T + 1, 1)
    h, expected = layer(x)[0].detach(), [torch.ones(B, H, dtype=torch.float64)]
    for t in range(T - 1, -1, -1):  # dh_t / dh_{t-1} = diag(1 - h_t^2) W
        expected.append((expected[-1] * (1 - h[t] ** 2)) @ layer.weight_hh_l0.detach())
    assert_close(norms[:, 0], torch.stack([g.norm(dim=1).mean() for g in reversed(expected)]), FLOAT64)


def test_gradient_norms_of_all_states_and_layers() -> None:
    layer, x = randomize(gatewise.LSTM(I, H, 2)), torch.randint(I, (T, B))
    with torch.no_grad():  # as in an evaluation
        norms = measures.gradient_norms(layer, x, lambda output: output[5].sum())
    assert {name: tuple(values.shape) for name, values in norms.items()} == {"h": (T + 1, 2), "c": (T + 1, 2)}
    assert (norms["h"][7:] == 0).all()  # what comes later changes nothing
    assert norms["h"][6, 0] == 0  # the first layer's state is read by the second one a step before
    assert norms["h"][6, 1] == pytest.approx(H**0.5)
    assert (norms["c"][:6] > 0).all()
    with pytest.raises(ValueError, match="bidirectional=False"):
        measures.gradient_norms(gatewise.GRU(I, H, bidirectional=True), x, torch.sum)


def test_the_summary_is_a_table() -> None:
    seen = recording(randomize(gatewise.LSTM(I, H, 2)), lengths=torch.tensor([12, 3, 7]))
    table = gatewise.inspect.summary(seen)
    assert [(line.layer, line.name) for line in table] == [(k, n) for k in ("l0", "l1") for n in "hcifgo"]
    f = next(line for line in table if (line.layer, line.name) == ("l1", "f"))
    there = seen["l1"]["f"][~seen["l1"]["f"].isnan()]
    assert f.mean == pytest.approx(there.mean().item())
    assert f.std == pytest.approx(there.std().item())
    assert f.low == pytest.approx((there < 0.1).float().mean().item())
    assert f.time is not None
    assert f.time[1] == pytest.approx(measures.time_constants(seen["l1"]["f"]).quantile(0.5).item())
    assert [line.name for line in table if line.time] == ["f", "f"]
    assert [line.name for line in table[:6] if line.low is None] == ["h", "c"]  # they have no ends
    head, *rows = str(table).splitlines()
    assert head == "layer  value    mean    std  near low  near high  remembers, steps (quartiles)"
    words = rows[3].split()
    assert words[:2] == ["l0", "f"]
    assert words[2:6] == [f"{f:.3f}" for f in (table[3].mean, table[3].std)] + [
        f"{share:.0%}" for share in (table[3].low, table[3].high)
    ]
    assert words[6:] == [f"{t:.3g}" for t in table[3].time]
    assert len(rows) == 12


def test_the_summary_of_the_papers_gru_takes_what_is_kept() -> None:
    layer = gatewise.Recurrent(of_the_papers, I, H)
    seen = recording(layer)
    line = next(line for line in gatewise.inspect.summary(seen) if line.name == "z")
    assert line.time is not None
    assert line.time[1] == pytest.approx(measures.time_constants(1 - seen["l0"]["z"]).quantile(0.5).item())


# --- pictures ---------------------------------------------------------------------------------------------

pyplot = pytest.importorskip("matplotlib.pyplot")


@pytest.fixture(autouse=True)
def _closed() -> Any:
    pyplot.switch_backend("agg")
    yield
    pyplot.close("all")


def test_a_gate_map_shows_units_and_letters() -> None:
    seen = recording(gatewise.GRU(I, H))["l0"]
    ax = plots.gate_map(seen["z"][:, 0], "a word or tw", units=[2, 0])
    (image,) = ax.images
    assert torch.equal(torch.from_numpy(image.get_array().data), seen["z"][:, 0, [2, 0]].T)
    assert image.get_clim() == (0, 1)
    assert "".join(label.get_text() for label in ax.get_xticklabels()) == "a·word·or·tw"
    assert plots.gate_map(seen["h"][:, :1]).images[0].get_clim() == (-1, 1)
    with pytest.raises(ValueError, match="text has 3 strings, expected one for each of the 12 steps"):
        plots.gate_map(seen["z"][:, 0], "abc")
    with pytest.raises(ValueError, match=r"values of 3 samples, expected one; choose it: values\[:, 0\]"):
        plots.gate_map(seen["z"])


def test_each_plot_draws_what_it_is_given_into_given_axes() -> None:
    layer = gatewise.GRU(I, H)
    seen = recording(layer)["l0"]
    gates = {name: seen[name] for name in "rz"}
    norms = measures.gradient_norms(layer, torch.randn(T, B, I), lambda o: o[-1].sum())["h"][:, 0]
    spectra = measures.singular_values(layer)["l0"]
    drawn: list[tuple[Any, Any, list[Tensor]]] = [
        (plots.traces, {"z": seen["z"][:, 0, 0], "r": seen["r"][:, 0, 0]}, [seen["z"][:, 0, 0], seen["r"][:, 0, 0]]),
        (plots.memories, {"z": measures.time_constants(seen["z"])}, [measures.time_constants(seen["z"]).sort().values]),
        (plots.gradients, {"gru": norms}, [norms]),
        (plots.spectra, spectra, [torch.ones(2), *spectra.values()]),
        (plots.saturations, gates, [torch.tensor([1.0, 0.0])]),
    ]
    for function, given, expected in drawn:
        ax = pyplot.subplots()[1]
        assert function(given, ax=ax, title="a title") is ax
        assert ax.get_title(loc="left") == "a title" or ax.get_title() == "a title"
        for line, values in zip(ax.lines, expected, strict=True):
            assert_close(torch.as_tensor(line.get_ydata(), dtype=torch.float32), values.detach(), FLOAT32)
        assert function(given) is not ax
    low, high = measures.saturation(gates["r"])
    points = plots.saturations(gates).collections[0].get_offsets()
    assert_close(torch.from_numpy(points.data).float(), torch.stack([low, high], 1), FLOAT32)


def test_without_matplotlib_one_line_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'plots need matplotlib.*pip install "gatewise\[train\]"'):
        plots.spectra({"z": torch.ones(3)})
