"""Out of Python: torch.onnx.export to native nodes, TorchScript, and what is refused by name."""

from __future__ import annotations

import copy
import io
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32
from torch import Tensor, nn

import gatewise
from gatewise import cells

LAYERS = {
    "RNN": lambda **o: gatewise.RNN(3, 4, **o),
    "RNN relu": lambda **o: gatewise.RNN(3, 4, 1, "relu", **o),
    "GRU": lambda **o: gatewise.GRU(3, 4, 2, **o),
    "GRU reset before": lambda **o: gatewise.GRU(3, 4, reset_after=False, **o),
    "LSTM": lambda **o: gatewise.LSTM(3, 4, 2, **o),
    "Recurrent": lambda **o: gatewise.Recurrent(cells.gru_reset_before, 3, 4, **{"bias": "input", **o}),
}
SHAPES: list[Any] = [
    {"bidirectional": True, "batch_first": True},
    pytest.param({"bias": False}, marks=pytest.mark.slow),
]
T, B = torch.export.Dim("T", min=1, max=512), torch.export.Dim("B", min=1, max=512)


class Model(nn.Module):
    """A user's model: something before our layer and something after it."""

    def __init__(self, rnn: Any) -> None:
        super().__init__()
        size = rnn.hidden_size * (2 if rnn.bidirectional else 1)
        self.before, self.rnn, self.after = nn.Linear(3, 3), rnn, nn.Linear(size, 2)

    def forward(self, x: Tensor, *hx: Tensor, **options: Any) -> tuple[Tensor, ...]:
        output, state = self.rnn(self.before(x), *((hx if len(hx) > 1 else hx[0],) if hx else ()), **options)
        return self.after(output), *(state if isinstance(state, tuple) else (state,))


def model_of(name: str, **options: Any) -> Model:
    model = Model(LAYERS[name](**options))
    randomize(model)
    with torch.no_grad():
        for p in model.parameters():
            p.mul_(0.5)  # without which the relu of 18 steps grows without bound
    return model.eval()


@pytest.fixture
def others_warnings() -> Iterator[None]:
    with warnings.catch_warnings():  # what torch's exporters say of themselves
        warnings.simplefilter("ignore")
        yield


def native_nodes(path: Path) -> list[str]:
    onnx = pytest.importorskip("onnx")
    model = onnx.load(path)
    onnx.checker.check_model(model)
    return [node.op_type for node in model.graph.node if node.op_type in ("RNN", "GRU", "LSTM", "Loop", "Scan")]


def run(path: Path, *inputs: Tensor) -> list[Tensor]:
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(path, providers=["CPUExecutionProvider"])
    names = [i.name for i in session.get_inputs()]
    return [torch.from_numpy(y) for y in session.run(None, dict(zip(names, map(Tensor.numpy, inputs), strict=True)))]


class Beside(nn.Module):
    """Layers beside each other on one input, so that one export, which takes seconds, does for all of them."""

    def __init__(self, layers: list[Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def forward(self, x: Tensor, *states: Tensor) -> list[Tensor]:
        made, left = [], list(states)
        for layer in self.layers:
            mine = [left.pop(0) for _ in layer.cell.states] if states and not layer.learn_state else []
            output, state = layer(x, (tuple(mine) if len(mine) > 1 else mine[0]) if mine else None)
            made += [output, *(state if isinstance(state, tuple) else (state,))]
        return made

    def states(self, batch: int) -> tuple[Tensor, ...]:
        shapes = [shape for rnn in self.layers if not rnn.learn_state for shape in rnn.state_shapes(batch)]
        return tuple(map(torch.randn, shapes))

    @staticmethod
    def axes(x: dict[int, Any], states: tuple[Tensor, ...]) -> dict[str, Any]:
        return {"x": x} | ({"states": tuple({1: B} for _ in states)} if states else {})


@pytest.mark.usefixtures("others_warnings")
@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "trace"])
def test_onnx_has_one_native_node_a_layer_and_any_steps_and_batch(
    dynamo: bool, shape: dict[str, Any], tmp_path: Path
) -> None:
    pytest.importorskip("onnxscript")
    model, path = Beside([randomize(make(**shape)) for make in LAYERS.values()]).eval(), tmp_path / "model.onnx"
    first, given = bool(shape.get("batch_first")), "bias" in shape  # hx is given or absent
    states = model.states(2) if given else ()
    x = torch.randn((2, 5, 3) if first else (5, 2, 3))
    axes = {0: B, 1: T} if first else {0: T, 1: B}
    if dynamo:
        options: dict[str, Any] = {"dynamic_shapes": Beside.axes(axes, states)}
    else:
        names = ["x", *(f"s{k}" for k in range(len(states)))]
        moving = {n: {1: "B"} for n in names[1:]} | {"x": {a: d.__name__ for a, d in axes.items()}}
        options = {"input_names": names, "dynamic_axes": moving}
    torch.onnx.export(model, (x, *states), str(path), dynamo=dynamo, verbose=False, **options)
    counts = [layer.num_layers for layer in model.layers]
    expected_nodes = [{"Recurrent": "GRU"}.get(name, name.split()[0]) for name in LAYERS]
    assert native_nodes(path) == [op for op, count in zip(expected_nodes, counts, strict=True) for _ in range(count)]
    for steps, batch in ((5, 2), (9, 3), (1, 1)):
        x = torch.randn((batch, steps, 3) if first else (steps, batch, 3))
        states = model.states(batch) if given else ()
        for made, expected in zip(run(path, x, *states), model(x, *states), strict=True):
            assert_close(made, expected.detach(), FLOAT32)


@pytest.mark.usefixtures("others_warnings")
@pytest.mark.parametrize("dynamo", [True, False], ids=["dynamo", "trace"])
def test_onnx_with_lengths_and_with_integers(dynamo: bool, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")

    class Tagger(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = gatewise.GRU(6, 4, bidirectional=True)

        def forward(self, tokens: Tensor, lengths: Tensor) -> tuple[Tensor, Tensor]:
            return self.rnn(tokens, lengths=lengths)

    model, path = Tagger(), tmp_path / "model.onnx"
    randomize(model)
    tokens, first = torch.randint(0, 6, (7, 3)), torch.tensor([4, 7, 1])
    torch.onnx.export(model, (tokens, first), str(path), dynamo=dynamo, verbose=False)
    assert native_nodes(path) == ["GRU"]
    for lengths in (first, torch.tensor([2, 1, 5])):
        for made, expected in zip(run(path, tokens, lengths), model(tokens, lengths), strict=True):
            assert_close(made, expected.detach(), FLOAT32)


@pytest.mark.usefixtures("others_warnings")
def test_a_trace_takes_other_lengths_and_packed_sequences() -> None:
    class Model(nn.Module):
        def __init__(self, packs: bool) -> None:
            super().__init__()
            self.rnn, self.packs = gatewise.GRU(3, 4, bidirectional=True), packs

        def forward(self, x: Tensor, lengths: Tensor) -> Tensor:
            if self.packs:
                packed = nn.utils.rnn.pack_padded_sequence(x, lengths)
                return nn.utils.rnn.pad_packed_sequence(self.rnn(packed)[0])[0]
            return self.rnn(x, lengths=lengths)[0]

    x = torch.randn(10, 2, 3)
    for packs in (False, True):
        model = Model(packs)
        traced = torch.jit.trace(model, (x, torch.tensor([5, 2])))
        for lengths in (torch.tensor([9, 3]), torch.tensor([4, 4])):
            assert_close(traced(x, lengths), model(x, lengths), FLOAT32)


@gatewise.cell(gates="a b")
def own(x, h, s, *, p):
    """A user's cell: two states of which the second counts, a vector, a comparison and a mean over the units."""
    a = torch.where(x.a + h.a > 0.1, x.b, p * s)
    b = torch.sigmoid(a.b - torch.mean(a))
    return b * torch.tanh(a) + (1 - b) * h, 0.5 * s + b


class Cut(nn.Module):
    """A layer with all that a user may give it."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn = rnn

    def forward(self, x: Tensor, lengths: Tensor, resets: Tensor) -> tuple[Tensor, ...]:
        output, state = self.rnn(x, lengths=lengths, resets=resets)
        return output, *(state if isinstance(state, tuple) else (state,))


def exported(model: nn.Module, inputs: tuple[Tensor, ...], path: Path, axes: Any) -> list[str]:
    torch.onnx.export(model.eval(), inputs, str(path), dynamo=True, verbose=False, dynamic_shapes=axes)
    return native_nodes(path)


ANY: list[tuple[Any, list[str]]] = [
    (gatewise.LSTM(3, 5, proj_size=2, bidirectional=True), ["Scan"] * 2),
    (gatewise.Recurrent(own, 3, 4, bias="input"), ["Scan"]),
    (gatewise.Recurrent(gatewise.zoneout(gatewise.layer_norm(cells.gru), 0.1), 3, 4, learn_state=True), ["Scan"]),
    (gatewise.Recurrent(gatewise.activations(cells.gru, r="relu"), 3, 4, bias=False), ["Scan"]),  # z has another
    (gatewise.Recurrent(cells.lstm_peephole, 3, 4, bidirectional=True), ["LSTM"]),
    (gatewise.Recurrent(gatewise.coupled(cells.lstm_peephole, f="i"), 3, 4), ["LSTM"]),
    (gatewise.Recurrent(gatewise.activations(cells.rnn, h=lambda a: nn.functional.elu(a, 0.3)), 3, 4), ["RNN"]),
    (
        gatewise.Recurrent(
            gatewise.activations(
                cells.lstm, i="hardsigmoid", f="hardsigmoid", o="hardsigmoid", h="softsign",
                g=lambda a: nn.functional.leaky_relu(a, 0.3),
            ), 3, 4, bidirectional=True,
        ), ["LSTM"],
    ),
]  # fmt: skip


@pytest.mark.usefixtures("others_warnings")
def test_any_cell_is_a_node_or_a_scan_for_any_steps_and_batch(tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model, path = randomize(Beside([rnn for rnn, _ in ANY])).eval(), tmp_path / "model.onnx"
    axes = Beside.axes({0: T, 1: B}, model.states(2))
    made_nodes = exported(model, (torch.randn(5, 2, 3), *model.states(2)), path, axes)
    assert made_nodes == [op for _, nodes in ANY for op in nodes]
    for steps, batch in ((5, 2), (9, 3), (1, 1)):
        inputs = torch.randn(steps, batch, 3), *model.states(batch)
        for made, expected in zip(run(path, *inputs), model(*inputs), strict=True):
            assert_close(made, expected.detach(), FLOAT32)


@pytest.mark.usefixtures("others_warnings")
@pytest.mark.parametrize(
    "rnn",
    [
        pytest.param(gatewise.GRU(3, 4, 2), marks=pytest.mark.slow),
        gatewise.Recurrent(own, 6, 4, bidirectional=True, learn_state=True),
    ],
    ids=["GRU", "own, integers"],
)
def test_resets_and_lengths_are_a_scan(rnn: Any, tmp_path: Path) -> None:
    pytest.importorskip("onnxscript")
    model, path = Cut(rnn), tmp_path / "model.onnx"
    randomize(model)
    model.eval()

    def inputs(steps: int, batch: int) -> tuple[Tensor, ...]:
        x = torch.randint(0, 6, (steps, batch)) if rnn.input_size == 6 else torch.randn(steps, batch, 3)
        return x, torch.randint(1, steps + 1, (batch,)), torch.rand(steps, batch) < 0.4

    assert set(exported(model, inputs(7, 2), path, ({0: T, 1: B}, {0: B}, {0: T, 1: B}))) == {"Scan"}
    for steps, batch in ((7, 2), (5, 3), (1, 1)):
        given = inputs(steps, batch)
        for made, expected in zip(run(path, *given), model(*given), strict=True):
            assert_close(made, expected.detach(), FLOAT32)


@pytest.mark.usefixtures("others_warnings")
def test_what_is_not_exported_is_refused_by_name(tmp_path: Path) -> None:
    path, x = tmp_path / "model.onnx", torch.randn(5, 2, 3)
    for rnn, given, why in (
        (gatewise.LSTM(3, 4, proj_size=2), (x,), "ONNX has no node for lstm_projected, .* with dynamo=True"),
        (Cut(gatewise.GRU(3, 4)), (x, torch.tensor([5, 2]), x[..., 0] > 0), "ONNX has no node for gru with resets"),
    ):
        with pytest.raises(NotImplementedError, match=why):
            torch.onnx.export(rnn, given, str(path), dynamo=False)
    rnn = gatewise.Recurrent(gatewise.zoneout(cells.gru, 0.1), 3, 4)
    with pytest.raises(Exception, match=r"gatewise[.:]+scan|draws random masks in training"):
        torch.onnx.export(rnn.train(), (x,), str(path), dynamo=True, verbose=False)
    assert not path.exists()


# --- TorchScript ------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("others_warnings")
@pytest.mark.parametrize("name", ["RNN", "RNN relu", "GRU", "LSTM"])
def test_a_scripted_model_is_compiled_with_torchs_layer(name: str) -> None:
    model = model_of(name, bidirectional=True)
    x = torch.randn(5, 2, 3)
    expected = model(x)

    class Outer(nn.Module):
        def __init__(self, rnn: nn.Module) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, x: Tensor) -> Tensor:
            return self.rnn(x)[0]

    scripted = torch.jit.script(Outer(copy.deepcopy(model.rnn)))
    assert_close(scripted(x).detach(), model.rnn(x)[0].detach(), FLOAT32)
    buffer = io.BytesIO()
    torch.jit.save(scripted, buffer)
    buffer.seek(0)
    assert torch.equal(torch.jit.load(buffer)(x), scripted(x))
    assert torch.equal(model(x)[0], expected[0])


@pytest.mark.usefixtures("others_warnings")
@pytest.mark.parametrize("name", LAYERS)
def test_a_traced_model_takes_any_steps_and_batch(name: str) -> None:
    model = model_of(name, bidirectional=True)
    traced = torch.jit.trace(model, (torch.randn(5, 2, 3),))
    buffer = io.BytesIO()
    torch.jit.save(traced, buffer)
    buffer.seek(0)
    for made in (traced, torch.jit.load(buffer)):
        x = torch.randn(7, 3, 3, requires_grad=True)
        results = [made(x), model(x)]
        for a, b in zip(*results, strict=True):
            assert_close(a, b, FLOAT32)
        g, h = (torch.autograd.grad(r[0].square().sum(), x)[0] for r in results)
        assert_close(g, h, FLOAT32)


@pytest.mark.usefixtures("others_warnings")
@pytest.mark.parametrize(
    ("rnn", "why"),
    [
        (gatewise.Recurrent(cells.lstm_peephole, 3, 4), "torch.nn has no layer of lstm_peephole"),
        (gatewise.GRU(3, 4, reset_after=False), "torch.nn's GRU has no reset_after=False"),
        (gatewise.LSTM(3, 4, learn_state=True), "torch.nn's layers learn no states"),
    ],
)
def test_what_torchscript_does_not_have_is_refused(rnn: nn.Module, why: str) -> None:
    with pytest.raises(NotImplementedError, match=why):
        torch.jit.script(nn.Sequential(rnn))


# --- quantization -----------------------------------------------------------------------------------------


@pytest.mark.usefixtures("others_warnings")
def test_quantize_dynamic_is_refused_by_name_and_works_after_restore() -> None:
    quantize = torch.ao.quantization.quantize_dynamic
    model = model_of("LSTM")
    with pytest.raises(NotImplementedError, match=r"LSTM: .*first gatewise.restore\(model\)"):
        quantize(model, {gatewise.LSTM})
    assert "quantized" in str(type(quantize(model, {nn.Linear}).before))
    x = torch.randn(5, 2, 3)
    expected = model(x)[0]
    gatewise.restore(model)
    quantized = quantize(model, {nn.LSTM})
    assert "quantized" in str(type(quantized.rnn))
    assert_close(quantized(x)[0], expected, 0.05)  # weights of 8 bits
