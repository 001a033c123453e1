"""gatewise.replace and restore: published models compute the same before and after, and nothing else changes."""

from __future__ import annotations

import copy
import io
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randomize
from tolerances import FLOAT64
from torch import Tensor, nn
from torch.nn.utils import parametrize
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import gatewise

DOUBLE = torch.float64


# --- published models, small, rebuilt from their descriptions ------------------------------------------------


class OpenUnmix(nn.Module):
    """One target of Open-Unmix: Stöter et al., JOSS 2019, doi 10.21105/joss.01667.

    Three bidirectional LSTM layers between linear ones with batch norm, a skip connection around them, and a mask
    on the mixture's spectrogram.
    """

    def __init__(self, bins: int = 6, kept: int = 5, channels: int = 2, size: int = 8) -> None:
        super().__init__()
        self.kept, self.size, outputs = kept, size, bins * channels
        self.fc1, self.bn1 = nn.Linear(kept * channels, size, bias=False), nn.BatchNorm1d(size)
        self.lstm = nn.LSTM(size, size // 2, num_layers=3, bidirectional=True, dropout=0.4)
        self.fc2, self.bn2 = nn.Linear(2 * size, size, bias=False), nn.BatchNorm1d(size)
        self.fc3, self.bn3 = nn.Linear(size, outputs, bias=False), nn.BatchNorm1d(outputs)
        self.input_mean, self.input_scale = nn.Parameter(torch.empty(kept)), nn.Parameter(torch.empty(kept))
        self.output_mean, self.output_scale = nn.Parameter(torch.empty(bins)), nn.Parameter(torch.empty(bins))

    def forward(self, mixture: Tensor) -> Tensor:
        """(B, channels, bins, T) -> the target's part of it."""
        batch, channels, bins, steps = mixture.shape
        spectrum = mixture.permute(3, 0, 1, 2)
        x = (spectrum[..., : self.kept] + self.input_mean) * self.input_scale
        x = torch.tanh(self.bn1(self.fc1(x.reshape(steps * batch, -1)))).view(steps, batch, self.size)
        x = torch.cat([x, self.lstm(x)[0]], -1).view(steps * batch, -1)
        x = self.bn3(self.fc3(F.relu(self.bn2(self.fc2(x)))))
        x = x.view(steps, batch, channels, bins) * self.output_scale + self.output_mean
        return (F.relu(x) * spectrum).permute(1, 2, 3, 0)


class CRNN(nn.Module):
    """Scene text: Shi, Bai and Yao 2015, arXiv 1507.05717. Two BiLSTMs read a feature map's columns as a sequence."""

    class Columns(nn.Module):
        def __init__(self, inputs: int, size: int, outputs: int) -> None:
            super().__init__()
            self.rnn, self.embedding = nn.LSTM(inputs, size, bidirectional=True), nn.Linear(2 * size, outputs)

        def forward(self, x: Tensor) -> Tensor:
            return self.embedding(self.rnn(x)[0])

    def __init__(self, size: int = 5, symbols: int = 7) -> None:
        super().__init__()
        self.cnn = nn.Sequential(
            nn.Conv2d(1, 3, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(3, 4, 3, padding=1), nn.BatchNorm2d(4), nn.ReLU(), nn.MaxPool2d((2, 1)),
            nn.Conv2d(4, 6, 2), nn.ReLU(),
        )  # fmt: skip
        self.rnn = nn.Sequential(self.Columns(6, size, size), self.Columns(size, size, symbols))

    def forward(self, image: Tensor) -> Tensor:
        """(B, 1, 8, width) -> log probabilities (T, B, symbols), for the CTC loss."""
        return self.rnn(self.cnn(image).squeeze(2).permute(2, 0, 1)).log_softmax(-1)


class DeepSpeech2(nn.Module):
    """Amodei et al. 2015, arXiv 1512.02595: convolution, bidirectional GRUs whose directions are summed, batch norm.

    Recordings come in any order: packed, unsorted; the norm between the layers sees the packed steps alone.
    """

    def __init__(self, bins: int = 6, size: int = 5, layers: int = 3, symbols: int = 4) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 2, 3, (2, 1), 1), nn.BatchNorm2d(2), nn.Hardtanh(0, 20))
        self.rnns = nn.ModuleList(nn.GRU(bins if k == 0 else size, size, bidirectional=True) for k in range(layers))
        self.norms = nn.ModuleList(nn.BatchNorm1d(size) for _ in range(layers))
        self.fc = nn.Linear(size, symbols, bias=False)

    def forward(self, sound: Tensor, lengths: Tensor) -> Tensor:
        """(B, bins, T) -> (T, B, symbols)."""
        x = self.conv(sound.unsqueeze(1)).flatten(1, 2).permute(2, 0, 1)
        x = pack_padded_sequence(x, lengths, enforce_sorted=False)
        for rnn, norm in zip(self.rnns, self.norms, strict=True):
            y = rnn(x)[0]
            assert isinstance(y, PackedSequence)
            x = y._replace(data=norm(sum(y.data.chunk(2, -1))))
        return self.fc(pad_packed_sequence(x)[0])


class Tacotron2(nn.Module):
    """Text to spectrogram, trained with the true frames as input: Shen et al. 2017, arXiv 1712.05884.

    The encoder packs sequences with batch_first; attention and decoder are LSTMCells, step by step, with the
    location-sensitive attention of arXiv 1506.07503 between them. Without the post-net, which is no recurrence.
    """

    def __init__(self, symbols: int = 9, size: int = 6, mels: int = 4) -> None:
        super().__init__()
        self.size = size
        self.embedding = nn.Embedding(symbols, size)
        self.convs = nn.Sequential(nn.Conv1d(size, size, 5, padding=2), nn.BatchNorm1d(size), nn.ReLU())
        self.encoder = nn.LSTM(size, size // 2, batch_first=True, bidirectional=True)
        self.prenet = nn.ModuleList([nn.Linear(mels, size), nn.Linear(size, size)])
        self.attention_rnn, self.decoder_rnn = nn.LSTMCell(2 * size, size), nn.LSTMCell(2 * size, size)
        self.query, self.memory = nn.Linear(size, size, bias=False), nn.Linear(size, size, bias=False)
        self.location, self.score = nn.Conv1d(2, size, 3, padding=1, bias=False), nn.Linear(size, 1, bias=False)
        self.frame, self.stop = nn.Linear(2 * size, mels), nn.Linear(2 * size, 1)

    def forward(self, text: Tensor, lengths: Tensor, frames: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) symbols, sorted by length, and (B, S, mels) frames -> frames, and where to stop."""
        x = self.convs(self.embedding(text).transpose(1, 2)).transpose(1, 2)
        x = self.encoder(pack_padded_sequence(x, lengths, batch_first=True))[0]
        memory, _ = pad_packed_sequence(x, batch_first=True)
        beyond = torch.arange(memory.shape[1]) >= lengths.unsqueeze(1)
        keys = self.memory(memory)

        attention = decoder = None  # both cells start from zeros
        weights = total = memory.new_zeros(memory.shape[:2])
        context = memory.new_zeros(len(memory), self.size)
        outputs = []
        for frame in F.pad(frames, (0, 0, 1, -1)).unbind(1):
            for linear in self.prenet:
                frame = F.dropout(F.relu(linear(frame)), 0.5, training=True)  # at inference too, as in the paper
            attention = self.attention_rnn(torch.cat([frame, context], -1), attention)
            where = self.location(torch.stack([weights, total], 1)).transpose(1, 2)
            scores = self.score(torch.tanh(self.query(attention[0]).unsqueeze(1) + keys + where)).squeeze(-1)
            weights = scores.masked_fill(beyond, -torch.inf).softmax(-1)
            total = total + weights
            context = torch.einsum("bt,bth->bh", weights, memory)
            decoder = self.decoder_rnn(torch.cat([attention[0], context], -1), decoder)
            outputs.append(torch.cat([decoder[0], context], -1))
        y = torch.stack(outputs, 1)
        return self.frame(y), self.stop(y)


class WeightDrop(nn.Module):
    """Drops weights from state to state: Merity, Keskar and Socher 2017, arXiv 1708.02182.

    As their program does it: the parameter is moved to another name, and a tensor put in its place at every call.
    """

    def __init__(self, layer: nn.Module, p: float) -> None:
        super().__init__()
        self.layer, self.p = layer, p
        raw = layer.weight_hh_l0
        del layer.weight_hh_l0
        layer.register_parameter("weight_hh_l0_raw", raw)
        layer.flatten_parameters = lambda: None

    def forward(self, x: Tensor, hx: Any) -> Any:
        self.layer.weight_hh_l0 = F.dropout(self.layer.weight_hh_l0_raw, self.p, self.training)
        return self.layer(x, hx)


class AWDLSTM(nn.Module):
    """The language model of arXiv 1708.02182: weight drop, and embedding and output layer with the same weights."""

    def __init__(self, symbols: int = 7, size: int = 4, hidden: int = 6) -> None:
        super().__init__()
        self.encoder, self.decoder = nn.Embedding(symbols, size), nn.Linear(size, symbols)
        self.decoder.weight = self.encoder.weight
        sizes = [size, hidden, hidden, size]
        self.rnns = nn.ModuleList(WeightDrop(nn.LSTM(a, b), 0.5) for a, b in itertools.pairwise(sizes))

    def forward(self, text: Tensor) -> tuple[Tensor, ...]:
        """(T, B) symbols, read in two windows with the state carried over, as their training does."""
        states, outputs = [None] * 3, []
        for x in self.encoder(text).chunk(2):
            for k, rnn in enumerate(self.rnns):
                mask = F.dropout(torch.ones_like(x[:1]), 0.4, self.training)  # one for all steps
                x, states[k] = rnn(x * mask, states[k])
            outputs.append(self.decoder(x))
        return torch.cat(outputs), *(s for state in states for s in state)


class DRQN(nn.Module):
    """Hausknecht and Stone 2015, arXiv 1507.06527: Q values from what a game showed so far; frame by frame."""

    def __init__(self, actions: int = 3, size: int = 5) -> None:
        super().__init__()
        self.conv = nn.Sequential(nn.Conv2d(1, 2, 4, 2), nn.ReLU(), nn.Conv2d(2, 3, 2), nn.ReLU(), nn.Flatten())
        self.memory, self.q = nn.GRUCell(12, size), nn.Linear(size, actions)

    def forward(self, frames: Tensor, done: Tensor) -> Tensor:
        """(T, B, 1, 8, 8) frames, and (T, B) where a new game begins -> (T, B, actions)."""
        h, values = frames.new_zeros(frames.shape[1], self.memory.hidden_size), []
        for frame, new_game in zip(frames, done, strict=True):
            h = self.memory(self.conv(frame), h.masked_fill(new_game.unsqueeze(1), 0))
            values.append(self.q(h))
        return torch.stack(values)


def random(*shape: int) -> Tensor:
    return torch.randn(shape, dtype=DOUBLE, generator=torch.Generator().manual_seed(sum(shape)))


def symbols(*shape: int, below: int) -> Tensor:
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(sum(shape)))


Model = tuple[Callable[[], nn.Module], tuple[Tensor, ...], dict[str, type[nn.Module]]]
MODELS: dict[str, Model] = {
    "Open-Unmix": (OpenUnmix, (random(2, 2, 6, 5).abs(),), {"lstm": nn.LSTM}),
    "CRNN": (CRNN, (random(2, 1, 8, 12),), {"rnn.0.rnn": nn.LSTM, "rnn.1.rnn": nn.LSTM}),
    "Deep Speech 2": (
        DeepSpeech2,
        (random(3, 6, 7), torch.tensor([4, 7, 2])),
        {f"rnns.{k}": nn.GRU for k in range(3)},
    ),
    "Tacotron 2": (
        Tacotron2,
        (symbols(3, 6, below=9), torch.tensor([6, 4, 3]), random(3, 4, 4)),
        {"encoder": nn.LSTM, "attention_rnn": nn.LSTMCell, "decoder_rnn": nn.LSTMCell},
    ),
    "AWD-LSTM": (AWDLSTM, (symbols(6, 3, below=7),), {f"rnns.{k}.layer": nn.LSTM for k in range(3)}),
    "DRQN": (DRQN, (random(5, 2, 1, 8, 8), symbols(5, 2, below=2) == 1), {"memory": nn.GRUCell}),
}


# --- what is compared ----------------------------------------------------------------------------------------


def computed(model: nn.Module, inputs: tuple[Any, ...]) -> dict[str, Tensor]:
    """Results and the gradient of every parameter, under one seed and with different weights in the loss."""
    torch.manual_seed(4)
    results: list[Tensor] = []

    def collect(made: Any) -> None:
        if isinstance(made, Tensor):
            results.append(made)
        else:
            for part in made:
                collect(part)

    collect(model(*inputs))
    loss = sum((random(*r.shape) * r).sum() for r in results)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()))
    assert all(g.abs().max() > 0 for g in gradients), "a parameter that does nothing tests nothing"
    return {f"result {k}": r.detach() for k, r in enumerate(results)} | dict(zip(parameters, gradients, strict=True))


def assert_same(after: dict[str, Tensor], before: dict[str, Tensor], tolerance: float = FLOAT64) -> None:
    assert after.keys() == before.keys()
    for name, a in after.items():
        assert_close(a, before[name], tolerance, name)


def classes(model: nn.Module) -> dict[str, type[nn.Module]]:
    return {name: type(m) for name, m in model.named_modules(remove_duplicate=False)}


def ours(theirs: type[nn.Module]) -> type[nn.Module]:
    return getattr(gatewise, theirs.__name__)


@pytest.fixture(params=MODELS)
def published(request: pytest.FixtureRequest) -> tuple[nn.Module, tuple[Tensor, ...], dict[str, type[nn.Module]]]:
    make, inputs, layers = MODELS[request.param]
    return randomize(make().double()).train(), inputs, layers


def test_a_published_model_computes_the_same(published: Any) -> None:
    model, inputs, layers = published
    before, was, parameters = computed(model, inputs), classes(model), dict(model.named_parameters())
    text, training = repr(model), model.training

    report = gatewise.replace(model)
    assert report.swapped.keys() == layers.keys()
    assert not report.skipped
    assert classes(model) == was | {name: ours(theirs) for name, theirs in layers.items()}
    assert all(m.training == training for m in model.modules())
    assert_same(computed(model, inputs), before)

    report = gatewise.restore(model)
    assert report.swapped.keys() == layers.keys()
    assert not report.skipped
    assert classes(model) == was
    assert repr(model) == text
    assert_same(computed(model, inputs), before, 0.0)

    after = dict(model.named_parameters())
    assert after.keys() == parameters.keys()
    assert all(after[name] is p for name, p in parameters.items())


def test_training_goes_on_with_the_same_optimizer() -> None:
    make, inputs, _ = MODELS["Deep Speech 2"]
    torch.manual_seed(1)
    model = make().double().train()
    twin, weights = copy.deepcopy(model), []
    for trained in (model, twin):
        optimizer = torch.optim.SGD(trained.parameters(), lr=0.01, momentum=0.9)
        for step in range(6):
            if trained is model and step in (2, 4):
                (gatewise.replace if step == 2 else gatewise.restore)(model)
            optimizer.zero_grad()
            trained(*inputs).square().mean().backward()
            optimizer.step()
        weights.append(trained.state_dict())
    assert_same(*weights)


def test_a_replaced_model_can_be_copied_saved_and_loaded() -> None:
    make, inputs, _ = MODELS["Tacotron 2"]
    model, other = randomize(make().double()).eval(), make().double().eval()
    before = computed(model, inputs)
    gatewise.replace(model)
    assert_same(computed(copy.deepcopy(model), inputs), before)
    other.load_state_dict(model.state_dict())  # one way, into torch.nn's
    assert_same(computed(other, inputs), before)
    randomize(model, 1).load_state_dict(other.state_dict())  # and the other
    assert_same(computed(model, inputs), before)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    assert_same(computed(torch.load(file, weights_only=False), inputs), before)


# --- every kind of layer, as a model of its own -----------------------------------------------------------------

ROOTS: list[Callable[[], nn.Module]] = [
    lambda: nn.RNN(3, 5, 2, bidirectional=True),
    lambda: nn.RNN(3, 5, nonlinearity="relu", bias=False),
    lambda: nn.GRU(3, 5, 3),
    lambda: nn.LSTM(3, 5, 2, batch_first=True),
    lambda: nn.LSTM(3, 5, 2, proj_size=2, bidirectional=True),
    lambda: nn.RNNCell(3, 5),
    lambda: nn.RNNCell(3, 5, nonlinearity="relu"),
    lambda: nn.GRUCell(3, 5, bias=False),
    lambda: nn.LSTMCell(3, 5),
]


@pytest.mark.parametrize("make", ROOTS, ids=lambda make: str(make()))
def test_the_root_of_a_model_is_replaced_too(make: Callable[[], nn.Module]) -> None:
    model = randomize(make().double())
    theirs, inputs = type(model), (random(4, 2, 3),)
    if "Cell" in theirs.__name__:
        h = random(4, 5)
        inputs = (random(4, 3), (h, -h) if theirs is nn.LSTMCell else h)
    before = computed(model, inputs)
    report = gatewise.replace(model)
    assert list(report.swapped) == [""]
    assert type(model) is ours(theirs)
    assert_same(computed(model, inputs), before)
    gatewise.restore(model)
    assert type(model) is theirs
    assert_same(computed(model, inputs), before, 0.0)


def test_a_replaced_layer_can_do_what_ours_can() -> None:
    model = nn.Sequential(nn.GRU(3, 5, bidirectional=True, batch_first=True))
    gatewise.replace(model)
    output, _ = model[0](torch.randn(2, 4, 3), lengths=torch.tensor([2, 4]), resets=torch.rand(2, 4) < 0.5)
    assert output.shape == (2, 4, 10)
    assert output[0, 2:].abs().max() == 0


# --- what stays -------------------------------------------------------------------------------------------------


def test_a_shared_layer_stays_shared() -> None:
    layer = nn.LSTM(3, 5)
    model = nn.ModuleDict({"question": layer, "answer": nn.ModuleList([layer]), "other": nn.LSTM(3, 5)})
    report = gatewise.replace(model)
    assert {"question", "other"} <= report.swapped.keys() <= {"question", "answer.0", "other"}
    assert model["question"] is model["answer"][0] is layer
    assert type(layer) is type(model["other"]) is gatewise.LSTM
    assert gatewise.restore(model).swapped.keys() == report.swapped.keys()
    assert type(layer) is nn.LSTM


def test_a_parameter_of_two_layers_stays_one() -> None:
    model = nn.ModuleList([nn.GRU(5, 5), nn.GRU(5, 5)])
    model[1].weight_hh_l0 = model[0].weight_hh_l0
    gatewise.replace(model)
    assert model[1].weight_hh_l0 is model[0].weight_hh_l0
    assert len(list(model.parameters())) == 7


def test_hooks_stay_and_are_called() -> None:
    model, called = nn.Sequential(nn.GRU(3, 5)), []
    model[0].register_forward_pre_hook(lambda *_: called.append("before"))
    model[0].register_forward_hook(lambda *_: called.append("after"))
    model[0].register_full_backward_hook(lambda *_: called.append("backward"))
    model[0].weight_hh_l0.register_hook(lambda _: called.append("gradient"))
    for change in (gatewise.replace, gatewise.restore):
        change(model)
        called.clear()
        model(torch.randn(4, 2, 3, requires_grad=True))[0].sum().backward()
        assert called[:2] == ["before", "after"]
        assert sorted(called[2:]) == ["backward", "gradient"]


def test_modes_frozen_parameters_buffers_and_attributes_stay() -> None:
    model = nn.ModuleDict({"frozen": nn.LSTM(3, 5), "live": nn.GRUCell(3, 5)}).train()
    model["frozen"].eval().requires_grad_(False)
    model["frozen"].register_buffer("seen", torch.ones(2))
    model["frozen"].note = "ours"
    for change in (gatewise.replace, gatewise.restore):
        change(model)
        assert model.training
        assert model["live"].training
        assert not model["frozen"].training
        assert not any(p.requires_grad for p in model["frozen"].parameters())
        assert model["frozen"].note == "ours"
        assert "frozen.seen" in dict(model.named_buffers())


def test_a_weight_set_while_replaced_stays_when_restored() -> None:
    model, expected = nn.GRU(3, 5), nn.GRU(3, 5)
    gatewise.replace(model)
    for name, p in expected.named_parameters():
        setattr(model, name, nn.Parameter(p.detach().clone()))
    gatewise.restore(model)
    x = torch.randn(4, 2, 3)
    assert torch.equal(model(x)[0], expected(x)[0])


@pytest.mark.parametrize("change", ["replace", "restore"])
def test_a_second_time_changes_nothing(change: str) -> None:
    make, inputs, layers = MODELS["Tacotron 2"]
    model = randomize(make().double()).eval()
    gatewise.replace(model)
    if change == "restore":
        gatewise.restore(model)
    was, before = classes(model), computed(model, inputs)
    report = getattr(gatewise, change)(model)
    assert not report.swapped
    assert report.skipped.keys() <= layers.keys()
    assert classes(model) == was
    assert_same(computed(model, inputs), before, 0.0)


def test_a_model_without_recurrence() -> None:
    report = gatewise.replace(nn.Sequential(nn.Linear(2, 2), nn.ReLU()))
    assert not report.swapped
    assert not report.skipped


# --- what is left out, or might be ------------------------------------------------------------------------------


class Doubled(nn.LSTM):
    """A subclass whose forward is its own: ours would take that away."""

    def forward(self, input: Tensor, hx: Any = None) -> Any:
        output, state = super().forward(input, hx)
        return 2 * output, state


class DoubledCell(nn.GRUCell):
    def forward(self, input: Tensor, hx: Any = None) -> Tensor:
        return 2 * super().forward(input, hx)


def test_a_subclass_with_its_own_forward_is_skipped_and_said_so() -> None:
    model = randomize(nn.ModuleDict({"own": Doubled(3, 5), "cell": DoubledCell(3, 5), "plain": nn.LSTM(3, 5)}).double())
    before = computed(model["own"], (random(4, 2, 3),))
    report = gatewise.replace(model)
    assert report.swapped.keys() == {"plain"}
    assert report.skipped.keys() == {"own", "cell"}
    assert "Doubled" in report.skipped["own"]
    assert "DoubledCell" in report.skipped["cell"]
    assert type(model["own"]) is Doubled
    assert type(model["cell"]) is DoubledCell
    assert_same(computed(model["own"], (random(4, 2, 3),)), before, 0.0)
    gatewise.restore(model)
    assert type(model["own"]) is Doubled
    assert type(model["plain"]) is nn.LSTM


class Symmetric(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 0.5 * (weight + weight.t())


@pytest.mark.parametrize("make", [lambda: nn.RNN(3, 5, 2), lambda: nn.RNNCell(3, 5)], ids=["RNN", "RNNCell"])
def test_a_parametrized_layer_is_swapped_or_listed_and_computes_the_same(make: Callable[[], nn.Module]) -> None:
    layer = randomize(make().double())
    cell = isinstance(layer, nn.RNNCell)
    name, inputs = ("weight_hh", (random(2, 3), random(2, 5))) if cell else ("weight_hh_l0", (random(4, 2, 3),))
    parametrize.register_parametrization(layer, name, Symmetric())
    model = nn.ModuleDict({"layer": layer})
    theirs, parameters, before = type(layer), dict(layer.named_parameters()), computed(layer, inputs)
    report = gatewise.replace(model)
    assert len(report.swapped) + len(report.skipped) == 1
    assert "layer" in {**report.swapped, **report.skipped}
    assert all(report.skipped.values())  # a reason each
    assert parametrize.is_parametrized(layer, name)
    assert all(p is parameters[n] for n, p in layer.named_parameters())
    assert torch.equal(getattr(layer, name), getattr(layer, name).t())
    assert_same(computed(layer, inputs), before)
    gatewise.restore(model)
    assert type(layer).__mro__[1:] == theirs.__mro__[1:]  # the first is made anew for each layer
    assert_same(computed(layer, inputs), before, 0.0)
    parametrize.remove_parametrizations(layer, name)
    assert type(layer) is type(make())


@pytest.mark.parametrize(
    "make",
    [
        lambda: gatewise.GRU(3, 5, reset_after=False),
        lambda: gatewise.LSTM(3, 5, learn_state=True),
        lambda: gatewise.Recurrent(gatewise.cells.gru, 3, 5),
    ],
    ids=["reset before", "learned state", "Recurrent"],
)
def test_what_torch_has_not_is_not_restored(make: Callable[[], nn.Module]) -> None:
    model = nn.ModuleDict({"layer": make(), "plain": gatewise.GRU(3, 5)})
    was = type(model["layer"])
    report = gatewise.restore(model)
    assert report.swapped.keys() == {"plain"}
    assert type(model["layer"]) is was
    assert type(model["plain"]) is nn.GRU
    assert report.skipped["layer"]
