"""Changing a cell: dropout, zoneout, layer normalisation and clipped gradients, against plain loops of the papers."""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randomize
from tolerances import FLOAT64
from torch import Tensor, nn
from torch.autograd import forward_ad

import gatewise
from gatewise import Graph, cells

DOUBLE = torch.float64
CELLS = [cells.rnn, cells.gru, cells.gru_reset_before, cells.lstm, cells.lstm_peephole, cells.lstm_projected]


def variant(cell: Graph) -> Graph:
    """Another candidate, and a gate that is one minus another, where there are two."""
    names = dict(cell.names)
    changed = gatewise.activations(cell, **{"g" if "g" in names else "n" if "n" in names else "h": "softsign"})
    return gatewise.coupled(changed, **({"f": "i"} if "f" in names else {"z": "r"} if "z" in names else {}))


CHANGES: dict[str, Callable[[Graph], Graph]] = {
    "recurrent_dropout": lambda cell: gatewise.recurrent_dropout(cell, 0.3),
    "zoneout": lambda cell: gatewise.zoneout(cell, 0.3),
    "layer_norm": gatewise.layer_norm,
    "clip_state_grad": lambda cell: gatewise.clip_state_grad(cell, 0.7),
    "variant": variant,
    "all": lambda cell: gatewise.zoneout(
        gatewise.recurrent_dropout(gatewise.clip_state_grad(gatewise.layer_norm(cell), 5.0), 0.2), 0.1
    ),
}


def layer_of(cell: Graph, inputs: int = 3, hidden: int = 4, layers: int = 1, **options: object) -> gatewise.Recurrent:
    size = 2 if cell.projects_output else 0
    made = gatewise.Recurrent(cell, inputs, hidden, layers, dtype=DOUBLE, proj_size=size, **options)
    randomize(made)
    return made


def drawn(seed: int, layer: gatewise.Recurrent, x: Tensor) -> list[Tensor]:
    """The masks that a layer of one direction draws from this seed for x, recorded as it draws them."""
    from gatewise.scan import stages

    made: list[Tensor] = []

    def spy(*args: object) -> tuple[Tensor, ...]:
        masks = stages.draw_masks(*args)
        made.extend(masks)
        return masks

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("gatewise.layer.draw_masks", spy)
        torch.manual_seed(seed)
        layer(x)
    return made


def by_gate(layer: gatewise.Recurrent, gates: str) -> tuple[dict[str, Callable[[Tensor], Tensor]], ...]:
    """x.g and h.g of each gate as functions."""
    p = dict(layer.named_parameters())
    sides = []
    for side in ("ih", "hh"):
        weights, biases = (p[f"{kind}_{side}_l0"].split(layer.hidden_size) for kind in ("weight", "bias"))
        blocks = zip(gates.split(), weights, biases, strict=True)
        sides.append({g: lambda a, w=w, b=b: F.linear(a, w, b) for g, w, b in blocks})
    return tuple(sides)


# --- every change of every cell -------------------------------------------------------------------------


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("cell", CELLS, ids=lambda c: c.name)
def test_a_changed_cell_is_a_cell(cell: Graph, change: str) -> None:
    changed = CHANGES[change](cell)
    assert Graph.parse(changed.text) == changed
    assert changed.states == cell.states
    assert set(dict(cell.names)) <= set(dict(changed.names))  # what could be watched still can be
    layer = layer_of(changed, layers=2, bidirectional=True)
    x = torch.randn(5, 2, 3, dtype=DOUBLE, requires_grad=True)
    results = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        output, _ = layer(x)
        results.append((output, *torch.autograd.grad(output.square().sum(), [x, *layer.parameters()])))
    assert all(torch.equal(a, b) for a, b in zip(*results[:2], strict=True))  # the seed makes the masks
    assert torch.equal(results[0][0], results[2][0]) != bool(changed.masks)
    layer.eval()
    assert not changed.expected.masks
    assert torch.equal(layer(x)[0], layer(x)[0])


@pytest.mark.parametrize("change", [c for c in CHANGES if c != "clip_state_grad" and c != "all"])
@pytest.mark.parametrize(
    "cell",
    [pytest.param(cells.gru_reset_before, marks=pytest.mark.slow), cells.lstm_projected],
    ids=lambda c: c.name,
)
def test_first_and_second_derivatives(cell: Graph, change: str) -> None:
    layer = layer_of(CHANGES[change](cell), 1, 3)
    x = torch.randn(2, 2, 1, dtype=DOUBLE, requires_grad=True)
    names = [name for name, _ in layer.named_parameters()]

    def run(x: Tensor, *parameters: Tensor) -> Tensor:
        torch.manual_seed(0)
        return torch.func.functional_call(layer, dict(zip(names, parameters, strict=True)), (x,))[0]

    p = [v.detach().requires_grad_() for v in layer.parameters()]
    assert torch.autograd.gradcheck(run, (x, *p))
    assert torch.autograd.gradgradcheck(run, (x, *p), atol=1e-4)


# "all" has the others in it.
@pytest.mark.parametrize(
    "change", [c if c in ("all", "variant") else pytest.param(c, marks=pytest.mark.slow) for c in CHANGES]
)
def test_a_changed_cell_under_vmap_and_compile(change: str) -> None:
    layer = layer_of(CHANGES[change](cells.lstm))
    layer.eval()
    xs = torch.randn(3, 5, 2, 3, dtype=DOUBLE)
    assert_close(torch.vmap(lambda x: layer(x)[0])(xs), torch.stack([layer(x)[0] for x in xs]), FLOAT64)
    layer.train()
    different = torch.vmap(lambda x: layer(x)[0], randomness="different")(xs[:1].expand(3, -1, -1, -1))
    assert torch.equal(different[0], different[1]) != bool(layer.cell.masks)
    torch._dynamo.reset()
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager", dynamic=True)
    for t in (5, 7):
        x = torch.randn(t, 2, 3, dtype=DOUBLE)
        torch.manual_seed(5)
        expected = layer(x)[0]
        torch.manual_seed(5)
        assert_close(compiled(x)[0], expected, FLOAT64)


def test_changes_nest_with_masks_of_their_own() -> None:
    twice = gatewise.zoneout(gatewise.zoneout(cells.gru, 0.1), 0.1)
    assert [twice.nodes[i].key for i in twice.masks] == ["zone_h", "zone_h_2"]
    assert twice.name == "zoneout(zoneout(gru,0.1),0.1)"


def test_no_rate_no_change() -> None:
    assert gatewise.zoneout(cells.gru, 0.0) is cells.gru
    assert gatewise.zoneout(cells.lstm, {"h": 0.0}) is cells.lstm
    assert gatewise.recurrent_dropout(cells.gru, 0) is cells.gru


# --- one by one, against the papers' equations -----------------------------------------------------------


def test_recurrent_dropout_is_one_mask_a_sequence_on_what_is_projected() -> None:
    layer = layer_of(gatewise.recurrent_dropout(cells.gru, 0.4), hidden=50)
    x = torch.randn(6, 3, 3, dtype=DOUBLE)
    (mask,) = drawn(7, layer, x)
    assert mask.shape == (3, 50)
    assert set(mask.unique().tolist()) == {0.0, 1 / 0.6}
    i, u = by_gate(layer, "r z n")
    h, outputs = torch.zeros(3, 50, dtype=DOUBLE), []
    for x_t in x:
        m = mask * h
        r = torch.sigmoid(i["r"](x_t) + u["r"](m))
        z = torch.sigmoid(i["z"](x_t) + u["z"](m))
        n = torch.tanh(i["n"](x_t) + r * u["n"](m))
        h = (1 - z) * n + z * h
        outputs.append(h)
    torch.manual_seed(7)
    assert_close(layer(x)[0], torch.stack(outputs), FLOAT64)
    layer.eval()
    plain = layer_of(cells.gru, hidden=50)
    plain.load_state_dict(layer.state_dict())
    assert torch.equal(layer(x)[0], plain(x)[0])


def test_zoneout_keeps_old_values_and_in_evaluation_mixes_them() -> None:
    layer = layer_of(gatewise.zoneout(cells.lstm, {"h": 0.2, "c": 0.6}), hidden=50)
    x = torch.randn(6, 3, 3, dtype=DOUBLE)
    mask_h, mask_c = drawn(7, layer, x)
    assert mask_h.shape == mask_c.shape == (6, 3, 50)
    assert 0.1 < mask_h.mean() < 0.3 < 0.5 < mask_c.mean() < 0.7
    i, u = by_gate(layer, "i f g o")

    def loop(masks_h: Tensor, masks_c: Tensor) -> Tensor:
        h = c = torch.zeros(3, 50, dtype=DOUBLE)
        outputs = []
        for x_t, m_h, m_c in zip(x, masks_h, masks_c, strict=True):
            a = {g: i[g](x_t) + u[g](h) for g in "ifgo"}
            new_c = torch.sigmoid(a["f"]) * c + torch.sigmoid(a["i"]) * torch.tanh(a["g"])
            h = m_h * h + (1 - m_h) * torch.sigmoid(a["o"]) * torch.tanh(new_c)
            c = m_c * c + (1 - m_c) * new_c
            outputs.append(h)
        return torch.stack(outputs)

    torch.manual_seed(7)
    assert_close(layer(x)[0], loop(mask_h, mask_c), FLOAT64)
    layer.eval()
    whole = torch.ones(6, dtype=DOUBLE)
    assert_close(layer(x)[0], loop(0.2 * whole, 0.6 * whole), FLOAT64)


def test_layer_norm_of_the_lstm_is_the_papers() -> None:
    layer = layer_of(gatewise.layer_norm(cells.lstm))
    p = {name.removesuffix("_l0"): v for name, v in layer.named_parameters()}

    def normal(a: Tensor, which: str) -> Tensor:  # i, f, g and o together, over 4H numbers
        gain, bias = (torch.cat([p[f"{kind}_{which}_{g}"] for g in "ifgo"]) for kind in ("gain", "bias"))
        return F.layer_norm(a, a.shape[-1:], gain, bias)

    x = torch.randn(6, 3, 3, dtype=DOUBLE)
    h = c = torch.zeros(3, 4, dtype=DOUBLE)
    outputs = []
    for x_t in x:
        a = normal(F.linear(x_t, p["weight_ih"], p["bias_ih"]), "x")
        i, f, g, o = (a + normal(F.linear(h, p["weight_hh"], p["bias_hh"]), "h")).chunk(4, 1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(F.layer_norm(c, (4,), p["gain_c"], p["bias_c"]))
        outputs.append(h)
    output, (_, last) = layer(x)
    assert_close(output, torch.stack(outputs), FLOAT64)
    assert_close(last[0], c, FLOAT64)  # the cell state itself is carried on as it is


def test_layer_norm_of_the_gru_is_the_papers() -> None:
    layer = layer_of(gatewise.layer_norm(cells.gru))
    p = {name.removesuffix("_l0"): v for name, v in layer.named_parameters()}

    def normal(a: Tensor, which: str, gates: str) -> Tensor:
        gain, bias = (torch.cat([p[f"{kind}_{which}_{g}"] for g in gates]) for kind in ("gain", "bias"))
        return F.layer_norm(a, a.shape[-1:], gain, bias)

    x = torch.randn(6, 3, 3, dtype=DOUBLE)
    h, outputs = torch.zeros(3, 4, dtype=DOUBLE), []
    for x_t in x:
        a, b = F.linear(x_t, p["weight_ih"], p["bias_ih"]), F.linear(h, p["weight_hh"], p["bias_hh"])
        r, z = torch.sigmoid(normal(a[:, :8], "x", "rz") + normal(b[:, :8], "h", "rz")).chunk(2, 1)
        n = torch.tanh(normal(a[:, 8:], "x", "n") + r * normal(b[:, 8:], "h", "n"))
        h = (1 - z) * n + z * h
        outputs.append(h)
    assert_close(layer(x)[0], torch.stack(outputs), FLOAT64)


def test_layer_norm_starts_from_gain_one_and_bias_zero() -> None:
    layer = gatewise.Recurrent(gatewise.layer_norm(cells.gru), 3, 4, 2)
    for name, p in layer.named_parameters():
        if name.startswith("gain"):
            assert torch.equal(p, torch.ones_like(p))
        elif name.startswith("bias_x") or name.startswith("bias_h_"):
            assert torch.equal(p, torch.zeros_like(p))
        else:
            assert p.std() > 0


@pytest.mark.parametrize("c", [0.01, 0.3])
def test_clip_state_grad_clamps_what_flows_back(c: float) -> None:
    layer = layer_of(gatewise.clip_state_grad(cells.lstm, c))
    plain = layer_of(cells.lstm)
    plain.load_state_dict(layer.state_dict())
    x, weight = torch.randn(6, 3, 3, dtype=DOUBLE), 10 * torch.randn(6, 3, 4, dtype=DOUBLE)

    def clamped(g: Tensor) -> Tensor:
        return g.clamp(-c, c)

    states, outputs = tuple(torch.zeros(1, 3, 4, dtype=DOUBLE, requires_grad=True) for _ in "hc"), []
    first = states
    for x_t in x:
        held = tuple(s * 1 for s in states)
        for s in held:
            s.register_hook(clamped)
        output, states = plain(x_t.unsqueeze(0), held)
        outputs.append(output)
    expected = torch.autograd.grad((torch.cat(outputs) * weight).sum(), [*plain.parameters(), *first])

    hx = tuple(torch.zeros(1, 3, 4, dtype=DOUBLE, requires_grad=True) for _ in "hc")
    output, _ = layer(x, hx)
    assert_close(output, torch.cat(outputs), FLOAT64)
    made = torch.autograd.grad((output * weight).sum(), [*layer.parameters(), *hx])
    for a, b in zip(made, expected, strict=True):
        assert_close(a, b, FLOAT64)
    assert max(g.abs().max() for g in made[-2:]) == c  # the bound was reached


def test_two_states_of_one_value_are_carried_on_as_they_are() -> None:
    @gatewise.cell(gates="i g")
    def three(x, h, c, d):
        new = torch.sigmoid(x.i + h.i) * c + torch.tanh(x.g + h.g) + 0.1 * d
        return torch.tanh(new), new, new

    outputs = dict(gatewise.layer_norm(three).outputs)
    assert outputs["c"] == outputs["d"]


@pytest.mark.parametrize("p", [0, 1, np.float64(0.1), np.float32(0.25), 0.05, 0.13])
def test_any_number_makes_a_cell_that_can_be_saved(p: float) -> None:
    for change in (gatewise.zoneout, gatewise.recurrent_dropout, gatewise.clip_state_grad):
        if (change is gatewise.recurrent_dropout and p == 1) or (change is gatewise.clip_state_grad and p == 0):
            continue
        cell = change(cells.gru, p)
        assert pickle.loads(pickle.dumps(cell)) == cell
    if p < 1:
        assert gatewise.recurrent_dropout(cells.gru, p).expected.nodes == cells.gru.nodes


def test_a_cell_inlined_twice_has_masks_of_its_own_each_time() -> None:
    zoned = gatewise.zoneout(cells.rnn, 0.2)

    @gatewise.cell(gates="n")
    def pair(x, h, k):
        return zoned(x, h), zoned(x, k)

    assert [pair.nodes[i].key for i in pair.masks] == ["zone_h", "zone_h_2"]


def test_clipping_holds_inside_forward_mode_ad() -> None:
    layer = layer_of(gatewise.clip_state_grad(cells.gru, 1e-3))
    x, hx = 10 * torch.randn(5, 2, 3, dtype=DOUBLE), torch.zeros(1, 2, 4, dtype=DOUBLE, requires_grad=True)
    with forward_ad.dual_level():  # without a tangent it is an ordinary backward
        assert torch.autograd.grad(layer(x, hx)[0].sum() * 100, hx)[0].abs().max() <= 1e-3


# --- what they refuse --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (lambda: gatewise.zoneout(cells.gru, math.nan), ValueError, "zoneout: p is nan, expected a probability"),
        (lambda: gatewise.zoneout(cells.gru, 1.5), ValueError, "p is 1.5"),
        (lambda: gatewise.zoneout(cells.gru, True), ValueError, "p is True"),
        (lambda: gatewise.zoneout(cells.gru, "0.1"), ValueError, "p is '0.1'"),
        (lambda: gatewise.zoneout(cells.gru, {"c": 0.1}), ValueError, "gru has no state 'c', expected one of: h"),
        (lambda: gatewise.zoneout(cells.lstm, {"c": -0.1}), ValueError, "p of c is -0.1"),
        (lambda: gatewise.recurrent_dropout(cells.gru, math.nan), ValueError, "recurrent_dropout: p is nan"),
        (lambda: gatewise.recurrent_dropout(cells.gru, 1.0), ValueError, "p is 1, expected less"),
        (lambda: gatewise.clip_state_grad(cells.gru, 0.0), ValueError, "c is 0.0, expected a positive number"),
        (lambda: gatewise.clip_state_grad(cells.gru, math.nan), ValueError, "c is nan"),
        (lambda: gatewise.layer_norm(cells.gru, eps=0.0), ValueError, "eps is 0.0"),
        (lambda: gatewise.layer_norm(gatewise.zoneout(cells.lstm, 0.1)), ValueError, "normalise first"),
        (lambda: gatewise.layer_norm(nn.GRU), TypeError, "layer_norm: cell is .*expected what @gatewise.cell"),
    ],
)
def test_what_is_refused(change: Callable[[], Graph], error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        change()


def test_dropout_of_a_cell_that_projects_nothing() -> None:
    @gatewise.cell(gates="n")
    def no_past(x, h):
        return torch.tanh(x.n) + 0.5 * h

    with pytest.raises(ValueError, match="no_past projects no state"):
        gatewise.recurrent_dropout(no_past, 0.1)


# --- what the changes are made of ------------------------------------------------------------------------


def test_the_mean_is_over_the_units_of_a_sample() -> None:
    @gatewise.cell(gates="n")
    def centred(x, h, *, p):
        n = x.n + h.n
        return torch.tanh(n - torch.mean(n) + torch.mean(p) * h)

    layer = layer_of(centred)
    p = {name.removesuffix("_l0"): v for name, v in layer.named_parameters()}
    x = torch.randn(4, 3, 3, dtype=DOUBLE)
    h, outputs = torch.zeros(3, 4, dtype=DOUBLE), []
    for x_t in x:
        n = F.linear(x_t, p["weight_ih"], p["bias_ih"]) + F.linear(h, p["weight_hh"], p["bias_hh"])
        h = torch.tanh(n - n.mean(1, keepdim=True) + p["p"].mean() * h)
        outputs.append(h)
    output = layer(x)[0]
    assert_close(output, torch.stack(outputs), FLOAT64)
    made, expected = (torch.autograd.grad(o.square().sum(), layer.parameters()) for o in (output, torch.stack(outputs)))
    for a, b in zip(made, expected, strict=True):
        assert_close(a, b, FLOAT64)


def test_a_vectors_default_is_where_it_starts() -> None:
    @gatewise.cell(gates="n")
    def scaled(x, h, *, free, gain=2.0, shift=0):
        return torch.tanh(gain * (x.n + h.n) + shift + free)

    layer = gatewise.Recurrent(scaled, 3, 50, 2)
    assert torch.equal(layer.gain_l1, torch.full((50,), 2.0))
    assert torch.equal(layer.shift_l0, torch.zeros(50))
    assert layer.free_l0.std() > 0
    assert Graph.parse(scaled.text) == scaled
    with torch.no_grad():
        layer.gain_l1.zero_()
    layer.reset_parameters()
    assert torch.equal(layer.gain_l1, torch.full((50,), 2.0))
    with pytest.raises(gatewise.CellError, match="a vector's default is the number that it starts from"):

        @gatewise.cell(gates="n")
        def worded(x, h, *, gain="one"):
            return torch.tanh(gain * (x.n + h.n))
