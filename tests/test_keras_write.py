"""Keras out: what Keras computes from what was written, next to what torch does; and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32, FLOAT64
from torch import Tensor, nn
from torch.nn import functional as F

import gatewise
from gatewise import cells
from gatewise.convert.keras.activations import ELSEWHERE, IN_CELLS, hard_sigmoid_2, named, relu6
from gatewise.errors import InputError

os.environ.setdefault("KERAS_BACKEND", "torch")
keras = pytest.importorskip("keras")
pytest.importorskip("h5py")
from gatewise.convert.keras.recognise import recognise  # noqa: E402
from gatewise.convert.keras.writing import to_keras, write  # noqa: E402

# Keras's own, of numpy 2.
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation doesn't accept a copy:DeprecationWarning")

LAYERS: dict[str, Callable[..., nn.Module]] = {
    "RNN": lambda **o: gatewise.RNN(3, 4, **o),
    "RNN relu": lambda **o: gatewise.RNN(3, 4, nonlinearity="relu", **o),
    "GRU": lambda **o: gatewise.GRU(3, 4, **o),
    "GRU reset before": lambda **o: gatewise.GRU(3, 4, reset_after=False, **o),
    "LSTM": lambda **o: gatewise.LSTM(3, 4, **o),
    "torch RNN": lambda **o: nn.RNN(3, 4, **o),
    "torch GRU": lambda **o: nn.GRU(3, 4, **o),
    "torch LSTM": lambda **o: nn.LSTM(3, 4, **o),
    "one bias": lambda **o: gatewise.Recurrent(cells.gru, 3, 4, **{"bias": "input", **o}),
}
OPTIONS: list[dict[str, Any]] = [
    {},
    {"num_layers": 2, "bidirectional": True},
    {"batch_first": True, "num_layers": 3},
    {"batch_first": True, "bidirectional": True},
    {"bias": False},
]


def flat(value: Any) -> list[Tensor]:
    """All tensors of an output; states layer by layer, as Keras has them."""
    if isinstance(value, Tensor):
        return [value]
    return [t for part in value for t in (flat(part))]


def of(model: Any, *inputs: Tensor) -> list[Tensor]:
    given = [x.numpy() for x in inputs]
    made = model(given if len(given) > 1 else given[0])
    made = made if isinstance(made, (list, tuple)) else [made]
    return [torch.as_tensor(keras.ops.convert_to_numpy(t)) for t in made]


def agree(theirs: Sequence[Tensor], ours: Sequence[Tensor], tolerance: float = FLOAT32) -> None:
    assert len(theirs) == len(ours)
    for k, (one, two) in enumerate(zip(theirs, ours, strict=True)):
        assert one.shape == two.shape
        assert_close(one, two.detach(), tolerance, f"output {k}")


def written(module: nn.Module, folder: Path, ending: str = ".keras", **options: Any) -> Any:
    """The model of the file, as Keras reads it."""
    write(module, folder / f"model{ending}", **options)
    return keras.saving.load_model(folder / f"model{ending}", compile=False)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_with_its_states(name: str, options: dict[str, Any]) -> None:
    layer = randomize(LAYERS[name](**options))
    model = to_keras(layer)
    for steps, batch in ((5, 2), (1, 3), (4, 1)):
        x = torch.randn(steps, batch, 3)
        output, state = layer(x.transpose(0, 1) if layer.batch_first else x)
        output = output if layer.batch_first else output.transpose(0, 1)
        states = [part for s in (state if isinstance(state, tuple) else (state,)) for part in s]
        agree(of(model, x.transpose(0, 1)), [output, *states])


@pytest.mark.parametrize("name", ["RNN", "GRU", "GRU reset before", "LSTM"])
@pytest.mark.parametrize("bidirectional", [False, True])
def test_states_before_the_first_step(name: str, bidirectional: bool, tmp_path: Path) -> None:
    layer = randomize(LAYERS[name](num_layers=2, bidirectional=bidirectional))
    model = written(layer, tmp_path, states=True)
    x = torch.randn(5, 2, 3)
    hx = tuple(torch.randn_like(s) for s in layer._initial_states(2))
    output, state = layer(x, hx if len(hx) > 1 else hx[0])
    states = [part for s in (state if isinstance(state, tuple) else (state,)) for part in s]
    assert any((a - b).abs().max() > 0.01 for a, b in zip(flat(layer(x)), flat((output, state)), strict=True))
    agree(of(model, x.transpose(0, 1), *(part for s in hx for part in s)), [output.transpose(0, 1), *states])


@pytest.mark.parametrize("ending", [".keras", ".h5"])
@pytest.mark.parametrize("name", ["GRU", "GRU reset before", "LSTM"])
def test_files(name: str, ending: str, tmp_path: Path) -> None:
    layer = randomize(LAYERS[name](num_layers=2, bidirectional=True, batch_first=True))
    model = written(layer, tmp_path, ending)
    x = torch.randn(2, 5, 3)
    agree(of(model, x)[:1], [layer(x)[0]])
    assert [p.name for p in tmp_path.iterdir()] == [f"model{ending}"]


def test_a_file_of_weights(tmp_path: Path) -> None:
    layer = randomize(gatewise.GRU(3, 4))
    made = write(layer, tmp_path / "a.weights.h5")
    assert "weights alone" in made.notes[-1]
    model = to_keras(randomize(gatewise.GRU(3, 4), seed=1))
    model.load_weights(tmp_path / "a.weights.h5")
    agree(of(model, torch.ones(2, 5, 3)), of(to_keras(layer), torch.ones(2, 5, 3)))


def test_dtypes() -> None:
    layer = randomize(gatewise.LSTM(3, 4, batch_first=True, dtype=torch.float64))
    x = torch.randn(2, 5, 3, dtype=torch.float64)
    agree(of(to_keras(layer), x)[:1], [layer(x)[0]], FLOAT64)
    half = randomize(gatewise.GRU(3, 4, dtype=torch.bfloat16))
    weights = to_keras(half).get_layer("gru").cell.kernel
    assert str(weights.dtype) == "bfloat16"


# --- activations --------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*IN_CELLS, *ELSEWHERE])
def test_an_activation_is_kerass_own(name: str) -> None:
    x = torch.cat(
        [torch.linspace(-8, 8, 97, dtype=torch.float64), torch.tensor([-3, -2.5, -1, -0.5, 0, 0.5, 1, 2.5, 3])]
    )
    theirs = torch.as_tensor(keras.ops.convert_to_numpy(keras.activations.get(name)(x)))
    function = named(name, in_cell=False)
    assert function is not None
    assert_close(function(x), theirs, FLOAT64)
    assert (named(name) is None) == (name in ELSEWHERE)


def test_hard_sigmoid_was_another_one_in_keras_2() -> None:
    assert named("hard_sigmoid", version=2) is hard_sigmoid_2
    assert named("tanh", version=2) is torch.tanh
    assert named("glu") is None


SAME = {
    "tanh": {"n": "tanh"}, "SELU": {"n": named("selu")}, "clamped": {"n": relu6}, "mish": {"n": named("mish")},
    "gates": {"r": "relu", "z": "relu"}, "linear": {"n": named("linear")}, "squareplus": {"n": named("squareplus")},
    "old gates": {"r": hard_sigmoid_2, "z": hard_sigmoid_2, "n": named("softsign")},
}  # fmt: skip


@pytest.mark.parametrize("base", [cells.gru, cells.gru_reset_before], ids=lambda c: c.name)
@pytest.mark.parametrize("name", SAME)
def test_a_cell_with_other_activations(name: str, base: gatewise.Graph) -> None:
    cell = gatewise.activations(base, **SAME[name])
    layer = randomize(gatewise.Recurrent(cell, 3, 4, batch_first=True, bidirectional=True))
    x = torch.randn(2, 5, 3)
    agree(of(to_keras(layer), x)[:1], [layer(x)[0]])


def test_cells_that_keras_has_not() -> None:
    other = gatewise.activations
    for cell, why in {
        other(cells.lstm, g="relu"): "but one activation for g h and one for i f o",
        other(cells.lstm, i="relu"): "but one activation for g h",
        other(cells.lstm, g=hard_sigmoid_2, h=hard_sigmoid_2): "of those that Keras has a name for",
        other(cells.gru, n=lambda a: torch.tanh(a) * 2): "of those that Keras has a name for",
        gatewise.coupled(cells.lstm, f="i"): "SimpleRNN, GRU and LSTM",
        gatewise.zoneout(cells.gru, 0.1): "other equations",
        cells.lstm_projected: "proj_size",
        cells.lstm_peephole: "peepholes",
    }.items():
        with pytest.raises(InputError, match=why):
            recognise(cell)
    found = recognise(gatewise.recurrent_dropout(cells.gru, 0.1))
    assert found.row.call == "GRU(H)"


def test_the_name_of_a_cell_means_nothing() -> None:
    @gatewise.cell(gates="r z n")
    def gru(x: Any, h: Any) -> Any:
        r = torch.sigmoid(x.r + h.r)
        z = torch.sigmoid(x.z + h.z)
        n = torch.tanh(x.n + r * h.n)
        return z * n + (1 - z) * h

    with pytest.raises(InputError, match="other equations"):
        recognise(gru)

    @gatewise.cell(gates="z r n")
    def mine(x: Any, h: Any) -> Any:
        reset = torch.sigmoid(h.r + x.r)
        update = torch.sigmoid(x.z + h.z)
        return update * h + (1 - update) * torch.tanh(h.n * reset + x.n)

    layer = randomize(gatewise.Recurrent(mine, 3, 4, batch_first=True))
    x = torch.randn(2, 5, 3)
    agree(of(to_keras(layer), x)[:1], [layer(x)[0]])


# --- modules --------------------------------------------------------------------------------------------


class Text(nn.Module):
    """What people write: an embedding, a bidirectional stack, its last states and its last step, a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(9, 5, padding_idx=0)
        self.rnn = nn.GRU(5, 4, 2, batch_first=True, bidirectional=True, dropout=0.3)
        self.norm, self.drop = nn.LayerNorm(16), nn.Dropout(0.5)
        self.head = nn.Sequential(nn.Linear(16, 6), nn.ReLU(), nn.Linear(6, 3))

    def forward(self, ids: Tensor, hx: Tensor | None = None) -> tuple[Tensor, Tensor]:
        output, h = self.rnn(self.embed(ids), hx)
        last = torch.cat((h[-2], h[-1], output[:, -1]), dim=1)
        return self.head(self.drop(self.norm(last))).log_softmax(-1), output.mean(1)


class Signal(nn.Module):
    """Convolutions over (B, C, T), then a recurrent layer over (B, T, C), every step of which is used."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv1d(3, 8, 5, padding=2, stride=2, groups=1)
        self.same = nn.Conv1d(8, 6, 4, padding="same", bias=False)
        self.norm, self.pool = nn.BatchNorm1d(6), nn.MaxPool1d(2)
        self.rnn = gatewise.LSTM(6, 4, batch_first=True)
        self.out = nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Any:
        y = self.pool(F.elu(self.norm(self.same(F.leaky_relu(self.conv(x), 0.1))), 0.7))
        output, state = self.rnn(y.transpose(1, 2))
        steps = torch.sigmoid(self.out(output)) * 2 - 1
        return {"steps": steps, "cell": state[1].squeeze(0), "first": output[:, 0, 1:]}


class TimeMajor(nn.Module):
    """Two inputs, time first; one layer's states begin the other; a layer that runs twice."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.LSTM(3, 4, 2), gatewise.LSTM(2, 4, 2)
        self.again, self.out = nn.GRU(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor, y: Tensor) -> tuple[Tensor, ...]:
        state = self.encoder(x)[1]
        output, after = self.decoder(y, state)
        once = self.again(output)[0]
        twice, last = self.again(once + output)
        return self.out(twice), last[0] + after[1][1], twice[-1] - once[-1]


def test_a_classifier(tmp_path: Path) -> None:
    net = randomize(Text())
    assert net.training
    model = written(net, tmp_path)
    assert net.training
    ids = torch.randint(0, 9, (3, 7))
    agree(of(model, ids), flat(net.eval()(ids)))
    assert [layer.name for layer in model.layers if layer.weights] == [
        "embed", "rnn_l0_both", "rnn_l1_both", "norm", "head_0", "head_2",
    ]  # fmt: skip


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel lengths:UserWarning")
def test_convolutions(tmp_path: Path) -> None:
    net = randomize(Signal()).eval()
    with torch.no_grad():
        net.norm.running_mean.uniform_(-1, 1)
        net.norm.running_var.uniform_(0.5, 2)
    x = torch.randn(2, 3, 21)
    made = net(x)
    agree(of(written(net, tmp_path), x), list(made.values()))


def test_time_major() -> None:
    net = randomize(TimeMajor())
    x, y = torch.randn(5, 2, 3), torch.randn(4, 2, 2)
    steps, last, difference = net(x, y)
    agree(of(to_keras(net), x.transpose(0, 1), y.transpose(0, 1)), [steps.transpose(0, 1), last, difference])


def test_a_sequential_and_what_is_not_used() -> None:
    net = randomize(nn.Sequential(nn.Linear(3, 5), nn.Tanh(), gatewise.GRU(5, 4, batch_first=True)))
    x = torch.randn(2, 6, 3)
    agree(of(to_keras(net), x)[:1], [net(x)[0]])

    class Last(nn.Module):
        def __init__(self, rnn: nn.Module) -> None:
            super().__init__()
            self.rnn = rnn

        def forward(self, x: Tensor) -> Any:
            return self.rnn(x)[0][:, -1]

    one = to_keras(Last(gatewise.LSTM(3, 4, batch_first=True)))
    assert not one.get_layer("rnn").return_sequences
    assert [type(layer).__name__ for layer in one.layers] == ["LSTM"]
    both = Last(randomize(gatewise.LSTM(3, 4, batch_first=True, bidirectional=True)))
    agree(of(to_keras(both), x), [both(x)])  # the reverse half is not its final state


def test_characters(tmp_path: Path) -> None:
    from gatewise.tasks.text import LanguageModel
    from gatewise.tasks.text.data import Vocabulary

    model = randomize(LanguageModel(gatewise.GRU(5, 4, 2), Vocabulary(list("abcde"))))
    theirs = written(model, tmp_path, states=True)
    for steps in (6, 1):
        ids, state = torch.randint(0, 5, (steps, 2)), torch.randn(2, 2, 4)
        scores, after = model(ids, state)
        agree(of(theirs, ids.t(), *state), [scores.transpose(0, 1), *after])


# --- refused --------------------------------------------------------------------------------------------


class Odd(nn.Module):
    """A layer, and something that is done with what it gives."""

    def __init__(self, does: Callable[..., Any], layer: nn.Module | None = None) -> None:
        super().__init__()
        self.rnn, self.does = layer or gatewise.GRU(4, 4, batch_first=True), does
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x: Tensor) -> Any:
        return self.does(self, x)


def learned() -> nn.Module:
    layer = gatewise.GRU(3, 4, learn_state=True)
    return randomize(layer)


REFUSED: dict[str, tuple[Callable[[], nn.Module], str]] = {
    "projected": (lambda: gatewise.LSTM(3, 4, proj_size=2), "lstm: Keras has no layer .* proj_size"),
    "learned": (learned, "gru: it begins with a state that was learned"),
    "one step": (lambda: Odd(lambda s, x: s.rnn(x), gatewise.GRUCell(3, 4)), "takes one step"),
    "product": (lambda: Odd(lambda s, x: s.rnn(x)[0] @ s.rnn(x)[1]), "Keras has nothing here for matmul"),
    "weight": (lambda: Odd(lambda s, x: s.rnn(x)[0] * s.weight), "weight: a tensor that is no layer's"),
    "path": (lambda: Odd(lambda s, x: s.rnn(x)[0] if x.sum() > 0 else x), "torch.fx cannot trace it"),
    "lengths": (lambda: Odd(lambda s, x: s.rnn(x, lengths=x[:, 0, 0])[0]), "no part of a model of Keras"),
    "batch": (lambda: Odd(lambda s, x: s.rnn(x)[0][0]), "takes some samples of the batch"),
    "axes": (lambda: Odd(lambda s, x: s.rnn(torch.relu(s.rnn(x)[0].transpose(0, 1)))[0]), "another axis would be"),
    "states": (lambda: Odd(lambda s, x: s.rnn(x)[1].mean(0)), "the states of all layers"),
    "module": (lambda: nn.Sequential(nn.Linear(3, 3), nn.Bilinear(3, 3, 2)), "."),
    "gelu": (lambda: nn.Sequential(nn.Linear(3, 3), nn.GELU("tanh")), "approximate is 'tanh'"),
    "padding": (lambda: nn.Sequential(nn.Conv1d(3, 3, 3, padding=1, padding_mode="circular")), "padding_mode"),
    "two layouts": (
        lambda: nn.Sequential(gatewise.GRU(3, 4, batch_first=True), Odd(lambda s, x: s.rnn(x[0]), nn.GRU(4, 4))),
        "batch_first and others are not",
    ),
    "shape": (lambda: nn.Sequential(nn.Tanh()), "give example="),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused_and_nothing_is_written(name: str, tmp_path: Path) -> None:
    make, why = REFUSED[name]
    with pytest.raises(InputError, match=why):
        write(make(), tmp_path / "model.keras")
    assert not list(tmp_path.iterdir())


def test_a_second_bias_that_is_inside_a_product() -> None:
    cell = gatewise.activations(cells.gru, n="relu")
    to_keras(gatewise.Recurrent(cell, 3, 4))  # GRU(reset_after=True) has two
    before = randomize(gatewise.GRU(3, 4, reset_after=False))
    weights = to_keras(before).get_layer("gru").get_weights()
    assert weights[2].shape == (12,)
    total = before.bias_ih_l0 + before.bias_hh_l0
    r, z, n = total.detach().split(4)
    assert_close(torch.as_tensor(weights[2]), torch.cat([z, r, n]), FLOAT32)


def test_what_the_older_file_cannot_hold(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"the operation GetItem; write a \.keras file"):
        write(Text(), tmp_path / "model.h5")
    with pytest.raises(InputError, match=r"ends in \.keras"):
        write(gatewise.GRU(3, 4), tmp_path / "model.pt")
    with pytest.raises(InputError, match="there is no folder"):
        write(gatewise.GRU(3, 4), tmp_path / "none" / "model.keras")
    assert not list(tmp_path.iterdir())


def test_an_old_file_stays_where_writing_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "model.keras"
    write(gatewise.GRU(3, 4), path)
    before = path.read_bytes()
    monkeypatch.setattr(keras.saving, "load_model", lambda *_, **__: (_ for _ in ()).throw(ValueError("no\nway")))
    with pytest.raises(InputError, match="cannot read it: no way"):
        write(gatewise.LSTM(3, 4), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["model.keras"]


def test_what_became_what(tmp_path: Path) -> None:
    made = write(gatewise.LSTM(3, 4, 2), tmp_path / "model.keras")
    assert [m.target for m in made.mapped] == ["LSTM lstm_l0", "LSTM lstm_l1"]
    assert made.mapped[0].how.startswith("gates i f c o for i f g o; the two biases of a gate added")
    assert "the batch first" in made.notes[0]
    old = gatewise.Recurrent(gatewise.activations(cells.rnn, h=hard_sigmoid_2), 3, 4)
    assert "gate n times 1.2" in write(old, tmp_path / "old.keras").mapped[0].how
