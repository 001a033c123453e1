"""ONNX out: layers, language models and other modules, run by onnxruntime and read back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32
from torch import Tensor, nn

import gatewise
from gatewise import cells
from gatewise.errors import InputError
from gatewise.tasks.text.data import Vocabulary
from gatewise.tasks.text.model import LanguageModel, generate

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

from onnx_models import recurrent, saved  # noqa: E402

from gatewise.convert import load, save  # noqa: E402
from gatewise.convert import onnx as kind  # noqa: E402


def flat(value: Any) -> list[Tensor]:
    return [value] if isinstance(value, Tensor) else [t for part in value for t in flat(part)]


def shaped(spec: Any, **sizes: int) -> Tensor:
    shape = [sizes[s] if isinstance(s, str) else s for s in spec.shape]
    return torch.randn(shape) if spec.dtype.is_floating_point else torch.randint(0, spec.high, shape)


LAYERS = {
    "torch's LSTM, batch first": (lambda: nn.LSTM(3, 4, bias=False, batch_first=True), ["h", "c"]),
    "projected, batch first": (lambda: gatewise.LSTM(3, 4, proj_size=2, batch_first=True), ["h", "c"]),
}


@pytest.mark.parametrize("name", LAYERS)
def test_a_layer_has_named_inputs_and_any_steps_and_batch(name: str, tmp_path: Path) -> None:
    make, states = LAYERS[name]
    layer, path = randomize(make()).train(), tmp_path / "layer.onnx"
    made = save(layer, path, opset=21)
    assert layer.training
    assert list(tmp_path.iterdir()) == [path]
    assert made.mapped[0].target
    runtime = kind.runtime(path)
    assert [spec.name for spec in runtime.inputs] == ["x", *(f"{s}_0" for s in states)]
    assert [entry.version for entry in onnx.load(path).opset_import if not entry.domain] == [21]
    assert [o.name for o in onnx.load(path).graph.output] == ["output", *(f"{s}_n" for s in states)]
    assert str(tmp_path.parent).encode() not in path.read_bytes()
    assert b".py" not in path.read_bytes()
    back = None
    if name.startswith("projected"):
        with pytest.raises(InputError, match="no recurrent layer that is known here: Scan"):
            load(path)
    else:
        back = load(path)
    for steps, batch in ((5, 2), (1, 1), (4, 3)):
        x, *hx = inputs = [shaped(spec, T=steps, B=batch) for spec in runtime.inputs]
        with torch.no_grad():
            expected = flat(layer(x, tuple(hx) if len(hx) > 1 else hx[0]))
            again = [] if back is None else [flat(back(*inputs))]
        for results in (list(map(torch.from_numpy, runtime.run(inputs))), *again):
            for a, b in zip(results, expected, strict=True):
                assert_close(a, b, FLOAT32)


def test_a_cell_of_one_step_has_no_axis_of_time(tmp_path: Path) -> None:
    cell, path = randomize(gatewise.GRUCell(3, 4, reset_after=False)), tmp_path / "cell.onnx"
    save(cell, path)
    runtime, back = kind.runtime(path), load(path)
    assert [(spec.name, spec.shape) for spec in runtime.inputs] == [("x", ("B", 3)), ("h_0", ("B", 4))]
    for batch in (1, 3):
        x, h = torch.randn(batch, 3), torch.randn(batch, 4)
        expected = cell(x, h).detach()
        assert_close(torch.from_numpy(runtime.run([x, h])[0]), expected, FLOAT32)
        assert_close(back(x, h).detach(), expected, FLOAT32)


@pytest.mark.parametrize(
    "cell",
    [cells.gru, pytest.param(gatewise.layer_norm(cells.lstm), marks=pytest.mark.slow)],
    ids=lambda cell: cell.name,
)
def test_a_language_model_continues_a_text_as_generate_does(cell: Any, tmp_path: Path) -> None:
    text = "the time traveller for so it will be convenient to speak of him was expounding"
    vocabulary = Vocabulary.of(text)
    model = LanguageModel(cell, vocabulary, hidden_size=16, num_layers=2 if cell is cells.gru else 1)
    randomize(model)
    ids = vocabulary.encode(text).unsqueeze(1)
    learning = torch.optim.Adam(model.parameters(), 0.03)
    for _ in range(40):  # an untrained one repeats itself
        loss = nn.functional.cross_entropy(model(ids[:-1])[0].squeeze(1), ids[1:].squeeze(1))
        learning.zero_grad()
        loss.backward()
        learning.step()
    path = tmp_path / "model.onnx"
    save(model, path)
    runtime = kind.runtime(path)
    assert runtime.inputs[0].high == len(vocabulary)
    (entry,) = onnx.load(path).metadata_props
    assert (entry.key, json.loads(entry.value)) == ("vocabulary", list(vocabulary.tokens))
    states = [np.zeros([s if isinstance(s, int) else 1 for s in spec.shape], np.float32) for spec in runtime.inputs[1:]]
    ids, written = vocabulary.encode("time").unsqueeze(1).numpy(), ""
    for _ in range(40):
        scores, *states = runtime.run([ids, *states])
        ids = scores[-1, 0].argmax().reshape(1, 1)
        written += vocabulary.tokens[int(ids[0, 0])]
    assert written == generate(model, "time", 40, temperature=0)
    assert len(set(written)) > 2


def test_a_model_read_from_onnx_is_written_again(tmp_path: Path) -> None:
    attributes = {"direction": "bidirectional", "activations": ["HardSigmoid", "Tanh", "Relu"] * 2}
    one = saved(recurrent("LSTM", attributes, h=True, c=True), tmp_path)
    save(load(one), tmp_path / "two.onnx")
    first, second = kind.runtime(one), kind.runtime(tmp_path / "two.onnx")
    assert first.inputs == second.inputs
    inputs = [shaped(spec, T=6, B=3) for spec in first.inputs]
    for a, b in zip(first.run(inputs), second.run(inputs), strict=True):
        assert_close(torch.from_numpy(a), torch.from_numpy(b), FLOAT32)


class Tagger(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed, self.rnn, self.out = nn.Embedding(7, 3), gatewise.GRU(3, 4, bidirectional=True), nn.Linear(8, 2)

    def forward(self, tokens: Tensor, lengths: Tensor) -> dict[str, Any]:
        output, state = self.rnn(self.embed(tokens), lengths=lengths)
        return {"scores": self.out(output), "state": (state,)}


def test_any_module_with_an_example(tmp_path: Path) -> None:
    model, path = randomize(Tagger()), tmp_path / "tagger.onnx"
    example = (torch.randint(0, 7, (5, 2)), torch.tensor([5, 3]))
    made = save(model, path, example=example)
    assert model.training
    assert [m.source for m in made.mapped] == ["rnn (GRU of gru)"]
    runtime, back = kind.runtime(path), load(path)
    for steps, batch in ((5, 2), (7, 3), (1, 1)):
        inputs = [torch.randint(0, 7, (steps, batch)), torch.randint(1, steps + 1, (batch,))]
        with torch.no_grad():
            expected, again = flat(list(model(*inputs).values())), flat(back(*inputs))
        for results in (list(map(torch.from_numpy, runtime.run(inputs))), again):
            for a, b in zip(results, expected, strict=True):
                assert_close(a, b, FLOAT32)


def test_what_can_not_be_written_leaves_no_file(tmp_path: Path) -> None:
    class Strange(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 2 if x.sum() > 0 else x

    path = tmp_path / "model.onnx"
    for module, options, why in (
        (nn.Sequential(nn.Linear(3, 2)), {}, r"Sequential needs example=\(tensors\)"),
        (gatewise.GRU(3, 4), {"example": (torch.randn(2, 2, 3),)}, "GRU tells its inputs; leave example= out"),
        (nn.Linear(3, 2), {"example": ("x",)}, r"example is \['str'\], expected tensors"),
        (Strange(), {"example": (torch.randn(2, 3),)}, "Strange can't be written as ONNX: "),
        (nn.Linear(3, 2), {"example": (torch.randn(2, 4),)}, "Linear can't be written as ONNX: "),
    ):
        with pytest.raises(InputError, match=why) as caught:
            save(module, path, **options)
        assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())
