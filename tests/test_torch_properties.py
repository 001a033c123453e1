"""Layers of random kinds, shapes and layouts against torch.nn: packed sequences, lengths, resets; every gradient.

In the spirit of Opacus's tests of its DP-LSTM (github.com/pytorch/opacus), which draw the layer as well as its input.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from helpers import assert_close, randomize
from hypothesis import given, settings
from hypothesis import strategies as st
from tolerances import FLOAT64
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

import gatewise

DOUBLE = torch.float64


@dataclass(frozen=True)
class Case:
    """A layer, and the shape of what it is given."""

    name: str
    input_size: int
    hidden_size: int
    options: dict[str, Any]
    batch_first: bool
    steps: int
    lengths: tuple[int, ...]
    hx_given: bool

    def layers(self, learn_state: bool = False) -> tuple[nn.Module, nn.RNNBase]:
        """gatewise's layer, and torch.nn's with the same weights, time-major: it is the reference in both layouts."""
        sizes, options = (self.input_size, self.hidden_size), {**self.options, "dtype": DOUBLE}
        theirs = getattr(nn, self.name)(*sizes, **options)
        if learn_state:
            options["learn_state"] = True
        ours = randomize(getattr(gatewise, self.name)(*sizes, batch_first=self.batch_first, **options))
        theirs.load_state_dict({name: p for name, p in ours.state_dict().items() if "_0_l" not in name})
        return ours, theirs

    def variables(self, layer: nn.Module) -> dict[str, Tensor]:
        """All that a gradient is asked for: x, a state for each one of hx (or none), and the layer's parameters."""
        torch.manual_seed(1)
        batch, directions = len(self.lengths), 2 if self.options["bidirectional"] else 1
        rows = self.options["num_layers"] * directions
        sizes = [self.options.get("proj_size") or self.hidden_size, self.hidden_size][: 1 + (self.name == "LSTM")]
        made = {"x": torch.randn(self.steps, batch, self.input_size, dtype=DOUBLE)}
        if self.hx_given:
            for name, size in zip("hc", sizes, strict=False):
                made[name] = torch.randn(rows, batch, size, dtype=DOUBLE)
        return {name: v.requires_grad_() for name, v in made.items()} | dict(layer.named_parameters())


@st.composite
def cases(draw: st.DrawFn) -> Case:
    name, options = draw(
        st.sampled_from(
            [("RNN", {}), ("RNN", {"nonlinearity": "relu"}), ("GRU", {}), ("LSTM", {}), ("LSTM", {"proj_size": 0})]
        )
    )
    hidden_size = draw(st.sampled_from([3, 5, 7, 9] if "proj_size" in options else [1, 3, 5, 7, 9]))
    if "proj_size" in options:
        options = {"proj_size": draw(st.integers(1, hidden_size - 1))}
    steps = draw(st.integers(1, 6))
    return Case(
        name,
        draw(st.integers(1, 9)),
        hidden_size,
        options
        | {"num_layers": draw(st.integers(1, 3)), "bidirectional": draw(st.booleans()), "bias": draw(st.booleans())},
        batch_first=draw(st.booleans()),
        steps=steps,
        lengths=tuple(draw(st.lists(st.integers(1, steps), min_size=1, max_size=5))),
        hx_given=draw(st.booleans()),
    )


def hx_of(variables: dict[str, Tensor]) -> Any:
    states = tuple(variables[name] for name in "hc" if name in variables)
    return states if len(states) > 1 else states[0] if states else None


def swap(x: Tensor, batch_first: bool) -> Tensor:
    return x.transpose(0, 1) if batch_first else x


def packed(layer: nn.Module, x: Tensor, lengths: Sequence[int], hx: Any, is_sorted: bool = False) -> dict[str, Tensor]:
    """Run over a packed sequence; x and the padded output are (T, B, …)."""
    pack = pack_padded_sequence(
        swap(x, layer.batch_first), torch.tensor(lengths), layer.batch_first, enforce_sorted=is_sorted
    )
    output, final = layer(pack, hx)
    assert isinstance(output, PackedSequence)
    for a, b in zip(output[1:], pack[1:], strict=True):  # batch sizes, sorted and unsorted indices
        assert a is b is None or torch.equal(a, b)
    return named(pad_packed_sequence(output, total_length=x.shape[0])[0], final)


def with_lengths(layer: nn.Module, x: Tensor, lengths: Tensor, hx: Any) -> dict[str, Tensor]:
    output, final = layer(swap(x, layer.batch_first), hx, lengths=lengths)
    return named(swap(output, layer.batch_first), final)


def named(output: Tensor, final: Any) -> dict[str, Tensor]:
    finals = final if isinstance(final, (tuple, list)) else (final,)
    return {"output": output, **{f"final {name}": s for name, s in zip("hc", finals, strict=False)}}


def with_gradients(results: dict[str, Tensor], variables: dict[str, Tensor]) -> dict[str, Tensor]:
    """The results, and every gradient of a loss that weighs each element of each result differently."""
    torch.manual_seed(2)
    loss = sum((torch.randn(r.shape, dtype=r.dtype) * r).sum() for r in results.values())
    gradients = torch.autograd.grad(loss, list(variables.values()), materialize_grads=True)
    return results | {f"gradient of {name}": g for name, g in zip(variables, gradients, strict=True)}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    assert ours.keys() == theirs.keys()
    for name, a in ours.items():
        assert_close(a, theirs[name], FLOAT64, name)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(), st.sampled_from(["plain", "sorted", "unsorted", "lengths"]))
def test_outputs_states_and_gradients_are_torchs(case: Case, form: str) -> None:
    layers = case.layers()
    lengths = sorted(case.lengths, reverse=True) if form == "sorted" else case.lengths
    made = []
    for layer in layers:
        variables = case.variables(layer)
        x, hx = variables["x"], hx_of(variables)
        if form == "plain":
            output, final = layer(swap(x, layer.batch_first), hx)
            results = named(swap(output, layer.batch_first), final)
        elif form == "lengths" and layer is layers[0]:
            results = with_lengths(layer, x, torch.tensor(lengths), hx)
        else:
            results = packed(layer, x, lengths, hx, is_sorted=form == "sorted")
        made.append(with_gradients(results, variables))
    assert_same(*made)


def check_bit_for_bit(case: Case, lengths: Sequence[int]) -> None:
    layer, _ = case.layers()
    made = []
    for run, given_lengths in ((with_lengths, torch.tensor(lengths, dtype=torch.int32)), (packed, lengths)):
        variables = case.variables(layer)
        made.append(with_gradients(run(layer, variables["x"], given_lengths, hx_of(variables)), variables))
    for name, a in made[0].items():
        assert torch.equal(a, made[1][name]), name


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases())
def test_lengths_are_the_packed_sequence_bit_for_bit(case: Case) -> None:
    check_bit_for_bit(case, (*case.lengths[1:], case.steps))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(cases().filter(lambda case: max(case.lengths) < case.steps))
def test_lengths_all_shorter_than_the_input_are_the_packed_sequence_bit_for_bit(case: Case) -> None:
    check_bit_for_bit(case, case.lengths)


@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_what_lies_beyond_the_end_is_never_read(name: str) -> None:
    layer = randomize(getattr(gatewise, name)(3, 5, 2, bidirectional=True, dtype=DOUBLE))
    x, lengths = torch.randn(4, 3, 3, dtype=DOUBLE), torch.tensor([2, 4, 1])
    beyond = torch.arange(4).unsqueeze(1) >= lengths
    made = []
    for filler in (0.0, torch.nan):
        variables = {"x": x.masked_fill(beyond[..., None], filler).requires_grad_(), **dict(layer.named_parameters())}
        made.append(with_gradients(with_lengths(layer, variables["x"], lengths, None), variables))
    for name, a in made[0].items():
        assert torch.equal(a, made[1][name]), name


# --- resets ----------------------------------------------------------------------------------------------


def learned_states(layer: nn.Module) -> dict[str, Tensor]:
    """The learned initial states by name, in hx's order."""
    directions = ("", "_reverse") if layer.bidirectional else ("",)
    names = [f"{s}_0_l{k}{d}" for s in layer.cell.states for k in range(layer.num_layers) for d in directions]
    return {name: getattr(layer, name) for name in names if hasattr(layer, name)}


def piece_by_piece(
    layer: nn.RNNBase, x: Tensor, lengths: Sequence[int], resets: Tensor, hx: Sequence[Tensor], fresh: Sequence[Tensor]
) -> tuple[Tensor, ...]:
    """The pieces of each sequence, each run on its own: (output, *final states), output (T, B, ...).

    hx has each state (L * D, B, size), fresh each one (L * D, size) as it is after a reset. All layers and directions
    are cut at the same places, so the whole stack can run on a piece.
    """
    directions = 2 if layer.bidirectional else 1
    forward = torch.arange(layer.num_layers * directions).remainder(directions).eq(0).unsqueeze(1)
    samples = []
    for b, length in enumerate(lengths):
        cuts = [0, *(t for t in range(1, length) if resets[t, b]), length]
        outputs, finals = [], []
        for begin, end in itertools.pairwise(cuts):
            carries = torch.where(forward, begin == 0 and not resets[0, b], end == length)  # a row at a time: from hx?
            state = tuple(torch.where(carries, h[:, b], s) for h, s in zip(hx, fresh, strict=True))
            output, final = layer(x[begin:end, b], state if len(state) > 1 else state[0])
            outputs.append(output)
            finals.append(final if isinstance(final, tuple) else (final,))
        ends = (torch.where(forward, last, first) for last, first in zip(finals[-1], finals[0], strict=True))
        samples.append((F.pad(torch.cat(outputs), (0, 0, 0, len(x) - length)), *ends))
    return tuple(torch.stack(parts, 1) for parts in zip(*samples, strict=True))


@settings(max_examples=200, deadline=None, derandomize=True)
@given(cases(), st.booleans(), st.booleans(), st.data())
def test_resets_cut_sequences_into_pieces(case: Case, uneven: bool, learn_state: bool, data: st.DataObject) -> None:
    ours, theirs = case.layers(learn_state)
    batch = len(case.lengths)
    flags = data.draw(st.lists(st.booleans(), min_size=case.steps * batch, max_size=case.steps * batch), "resets")
    resets = torch.tensor(flags).view(case.steps, batch)
    lengths = case.lengths if uneven else (case.steps,) * batch

    variables = case.variables(ours)
    given = {"lengths": torch.tensor(lengths)} if uneven else {}
    output, final = ours(
        swap(variables["x"], case.batch_first), hx_of(variables), resets=swap(resets, case.batch_first), **given
    )
    made = with_gradients(named(swap(output, case.batch_first), final), variables)

    variables = case.variables(theirs)
    learned = {name: p.detach().clone().requires_grad_() for name, p in learned_states(ours).items()}
    assert bool(learned) == learn_state
    fresh = [s.new_zeros(len(s), s.shape[2]) for s in (final if isinstance(final, tuple) else (final,))]
    if learned:
        rows = [*learned.values()]
        fresh = [torch.stack(rows[k * len(s) : (k + 1) * len(s)]) for k, s in enumerate(fresh)]
    hx = [variables.get(name, s.unsqueeze(1).expand(-1, batch, -1)) for name, s in zip("hc", fresh, strict=False)]
    output, *final = piece_by_piece(theirs, variables["x"], lengths, resets, hx, fresh)
    assert_same(made, with_gradients(named(output, final), variables | learned))


@pytest.mark.parametrize("bidirectional", [False, True])
def test_resets_of_an_unbatched_sequence(bidirectional: bool) -> None:
    layer = randomize(gatewise.LSTM(3, 5, 2, bidirectional=bidirectional, batch_first=True, dtype=DOUBLE))
    x, resets = torch.randn(6, 3, dtype=DOUBLE), torch.tensor([False, False, True, True, False, False])
    output, (h, c) = layer(x, resets=resets)
    batch, (hs, cs) = layer(x.unsqueeze(0), resets=resets.unsqueeze(0))
    assert_same({"output": output, "h": h, "c": c}, {"output": batch[0], "h": hs[:, 0], "c": cs[:, 0]})


NUMBERS = [torch.uint8, torch.int32, torch.int64, torch.float16, torch.bfloat16, torch.float32, torch.float64]


@pytest.mark.parametrize("dtype", NUMBERS, ids=str)
@pytest.mark.parametrize("name", ["RNN", "GRU", "LSTM"])
def test_zeros_and_ones_cut_as_booleans_do(name: str, dtype: torch.dtype) -> None:
    layer = randomize(getattr(gatewise, name)(3, 5, 2, bidirectional=True, learn_state=True, dtype=DOUBLE))
    x, resets = torch.randn(6, 3, 3, dtype=DOUBLE), torch.rand(6, 3, generator=torch.Generator().manual_seed(0)) < 0.4
    ways: list[Callable[[Tensor], Any]] = [
        lambda r: layer(x, resets=r),
        lambda r: layer(x, resets=r, lengths=torch.tensor([6, 2, 5])),
        lambda r: layer(pack_padded_sequence(x, torch.tensor([5, 6, 1]), enforce_sorted=False), resets=r)[0].data,
        lambda r: layer(x[:, 1], resets=r[:, 1]),
        lambda r: torch.func.vmap(lambda a, b: layer(a, resets=b)[0])(x[None], r[None]),
    ]
    if dtype in (torch.uint8, torch.float32):
        torch._dynamo.reset()
        ways.append(lambda r: torch.compile(layer, backend="eager", fullgraph=True)(x, resets=r))
    for k, way in enumerate(ways):
        for ours, theirs in zip(flat(way(resets.to(dtype))), flat(way(resets)), strict=True):
            assert torch.equal(ours, theirs), k
    policy = randomize(getattr(gatewise, name)(3, 5, dtype=DOUBLE))
    state = policy(x)[1]
    for ours, theirs in zip(
        flat(policy.step(x[0], state, resets[1].to(dtype))), flat(policy.step(x[0], state, resets[1])), strict=True
    ):
        assert torch.equal(ours, theirs)


def flat(result: Any) -> list[Tensor]:
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


@pytest.mark.parametrize(
    ("resets", "message"),
    [
        (torch.tensor([0.0, 0.5, 1.0]), r"0\.5 in it, expected booleans, or numbers that are 0 or 1"),
        (torch.tensor([0, 2, 1]), "2 in it"),
        (torch.tensor([0.0, torch.nan, 1.0]), "nan in it"),
        (torch.tensor([-1, 0, 0]), "-1 in it"),
        (torch.tensor([0.0, 1.0, 1.0], requires_grad=True), r"give resets\.detach\(\)"),
        (torch.tensor([0, 1, 1], dtype=torch.complex64), "resets is torch.complex64"),
    ],
    ids=str,
)
def test_numbers_that_are_no_resets_are_refused(resets: Tensor, message: str) -> None:
    layer = gatewise.GRU(2, 4)
    for call in (lambda: layer(torch.randn(3, 2), resets=resets), lambda: layer.step(torch.randn(3, 2), None, resets)):
        with pytest.raises(ValueError, match=message):
            call()
