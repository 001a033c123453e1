"""The contract of torch.nn's recurrent layers and cells: the same cases and asserts for torch's classes and for ours.

The half that runs on torch shows that a case is right. What a fault raises is measured on torch, in the same test.
"""

from __future__ import annotations

import copy
import io
import itertools
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import ModuleType
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import BFLOAT16, FLOAT64
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize, prune
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pack_sequence, pad_packed_sequence, pad_sequence

import gatewise

DOUBLE = torch.float64
T, B, I, H = 5, 3, 3, 4
DEEP = {"num_layers": 2, "bidirectional": True}


@dataclass(frozen=True)
class Make:
    """Makes modules of one kind, torch's or ours."""

    library: ModuleType
    name: str
    options: dict[str, Any]

    def __call__(self, *sizes: int, **options: Any) -> Any:
        """A module with random parameters that are not zero."""
        return randomize(self.bare(*(sizes or (I, H)), **{"dtype": DOUBLE, **options}))

    def bare(self, *args: Any, **options: Any) -> Any:
        return getattr(self.library, self.name)(*args, **{**self.options, **options})

    def __str__(self) -> str:
        return "-".join([self.library.__name__.split(".")[0], self.name, *(str(v) for v in self.options.values())])


LAYERS, CELLS = ("RNN", "GRU", "LSTM"), ("RNNCell", "GRUCell", "LSTMCell")
RELU = {"nonlinearity": "relu"}
VARIANTS = {"RNN": [{}, RELU], "RNNCell": [{}, RELU], "LSTM": [{}, {"proj_size": 2}]}


def kinds(*names: str, libraries: Sequence[ModuleType] = (nn, gatewise)) -> list[Make]:
    pairs = itertools.product(libraries, names)
    return [Make(library, name, options) for library, name in pairs for options in VARIANTS.get(name, [{}])]


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


layers = pytest.mark.parametrize("make", kinds(*LAYERS), ids=str)
cells = pytest.mark.parametrize("make", kinds(*CELLS), ids=str)
modules = pytest.mark.parametrize("make", kinds(*LAYERS, *CELLS), ids=str)


def flat(result: Any) -> list[Tensor]:
    """The tensors of nested tuples, in order; of a packed sequence its data."""
    if isinstance(result, PackedSequence):
        return [result.data]
    return [result] if isinstance(result, Tensor) else [t for part in result for t in flat(part)]


def each(function: Callable[[Tensor], Tensor], hx: Any) -> Any:
    return tuple(function(s) for s in hx) if isinstance(hx, tuple) else function(hx)


def same(made: Any, expected: Any, tolerance: float = FLOAT64) -> None:
    for k, (a, b) in enumerate(zip(flat(made), flat(expected), strict=True)):
        assert_close(a, b, tolerance, f"result {k}")


def random_inputs(module: Any, *batch: int) -> tuple[Tensor, Any]:
    """A random input, of one step for a cell, and a random hx, for this many sequences or for unbatched ones."""
    steps, rows, size, dtype = [], [], module.hidden_size, next(module.parameters()).dtype
    if isinstance(module, nn.RNNBase):
        steps, rows, size = [T], [module.num_layers * (1 + module.bidirectional)], module.proj_size or size
    h, c = (torch.randn(*rows, *batch, s, dtype=dtype) for s in (size, module.hidden_size))
    x = torch.randn(*steps, *batch, module.input_size, dtype=dtype)
    return x, (h, c) if "LSTM" in type(module).__name__ else h


def leaves(x: Tensor, hx: Any, module: nn.Module) -> list[Tensor]:
    return [*(t.requires_grad_() for t in (x, *flat(hx))), *module.parameters()]


def gradients(result: Any, variables: Any) -> list[Tensor]:
    """The derivatives of one fixed random weighting of all that came out."""
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(r.shape, generator=generator, dtype=DOUBLE).to(r.dtype) for r in flat(result)]
    return list(torch.autograd.grad(flat(result), list(variables), weights, retain_graph=True))


def step(kind: str, x: Tensor, state: Sequence[Tensor], weights: Sequence[Tensor | None]) -> tuple[Tensor, ...]:
    """One step of one sequence, as torch's documentation has it."""
    w_ih, w_hh, b_ih, b_hh, w_hr = weights
    a, b, h = w_ih @ x, w_hh @ state[0], state[0]
    a, b = (a, b) if b_ih is None else (a + b_ih, b + b_hh)
    if "LSTM" in kind:
        i, f, g, o = (a + b).chunk(4)
        c = f.sigmoid() * state[1] + i.sigmoid() * g.tanh()
        h = o.sigmoid() * c.tanh()
        return (h if w_hr is None else w_hr @ h), c
    if "GRU" in kind:
        (a_r, a_z, a_n), (b_r, b_z, b_n) = a.chunk(3), b.chunk(3)
        r, z = (a_r + b_r).sigmoid(), (a_z + b_z).sigmoid()
        return ((1 - z) * (a_n + r * b_n).tanh() + z * h,)
    return (torch.relu(a + b) if "relu" in kind else torch.tanh(a + b),)


def plain(module: Any, x: Tensor, hx: Any) -> list[Tensor]:
    """One sequence in a loop through layers and directions, or one step of a cell: the output, the final states."""
    kind = f"{type(module).__name__} {getattr(module, 'nonlinearity', '')}"
    names = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")
    if isinstance(module, nn.RNNCellBase):
        return list(step(kind, x, flat(hx), [getattr(module, name, None) for name in names]))
    finals: list[Sequence[Tensor]] = []
    for k in range(module.num_layers):
        outputs = []
        for suffix, turn in ((f"_l{k}", 1), (f"_l{k}_reverse", -1))[: 1 + module.bidirectional]:
            weights = [getattr(module, name + suffix, None) for name in names]
            states, made = tuple(s[len(finals)] for s in flat(hx)), []
            for x_t in list(x)[::turn]:
                states = step(kind, x_t, states, weights)
                made.append(states[0])
            outputs.append(torch.stack(made[::turn]))
            finals.append(states)
        x = torch.cat(outputs, -1)
    return [x, *(torch.stack(parts) for parts in zip(*finals, strict=True))]


def plain_batch(module: Any, inputs: Sequence[Tensor], hx: Any, join: Callable[..., Tensor]) -> list[Tensor]:
    """As `plain` for each of a batch; `join` makes one tensor of the outputs."""
    made = [plain(module, x, each(lambda s, b=b: s[..., b, :], hx)) for b, x in enumerate(inputs)]
    outputs, *finals = zip(*made, strict=True)
    return [join(outputs), *(torch.stack(parts, -2) for parts in finals)]


# --- values and gradients ---------------------------------------------------------------------------------


@layers
@pytest.mark.parametrize("shape", [{}, {"num_layers": 2, "bias": False}, DEEP], ids=str)
@pytest.mark.parametrize("layout", ["TBI", "BTI", "TI"])
def test_values_and_gradients_are_those_of_a_plain_loop(make: Make, shape: dict, layout: str) -> None:
    layer = make(**shape, batch_first=layout != "TBI")
    x, hx = random_inputs(layer, *([B] if "B" in layout else []))
    x = x.transpose(0, 1) if layout == "BTI" else x
    variables = leaves(x, hx, layer)
    if layout == "TI":
        expected = plain(layer, x, hx)
    else:
        axis = layout.index("B")
        expected = plain_batch(layer, x.unbind(axis), hx, lambda outputs: torch.stack(outputs, axis))
    made = layer(x, hx)
    same(layer(x), layer(input=x, hx=each(torch.zeros_like, hx)), 0.0)
    assert [type(made), type(made[1])] == [tuple, type(hx)]
    same(made, expected)
    same(gradients(made, variables), gradients(expected, variables))


@layers
@pytest.mark.parametrize("lengths", [[5, 3, 1], [3, 5, 2], [5, 5, 5], [1, 1, 1], [2, 4, 4]], ids=str)
def test_packed_sequences_are_those_sequences_alone(make: Make, lengths: list[int]) -> None:
    layer = make(**DEEP, batch_first=True)  # which says nothing of packed sequences
    x, hx = random_inputs(layer, B)
    variables = leaves(x, hx, layer)
    sequences = [x[:length, b] for b, length in enumerate(lengths)]
    expected = plain_batch(layer, sequences, hx, pad_sequence)
    for enforce_sorted in {False, lengths == sorted(lengths, reverse=True)}:
        packed = pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=enforce_sorted)
        output, state = layer(packed, hx)
        assert type(output) is PackedSequence
        for ours, theirs in zip(output[1:], packed[1:], strict=True):
            assert ours is None if theirs is None else torch.equal(ours, theirs)
        padded, counted = pad_packed_sequence(output)
        assert counted.tolist() == lengths
        same((padded, state), expected)
        same(gradients((padded, state), variables), gradients(expected, variables))
        same(layer(pack_sequence(sequences, enforce_sorted), hx), (output, state), 0.0)
        same(layer(packed), layer(packed, each(torch.zeros_like, hx)), 0.0)


@cells
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [[B], []], ids=["batched", "unbatched"])
def test_a_cell_is_one_step_of_a_plain_loop(make: Make, bias: bool, batch: list[int]) -> None:
    cell = make(bias=bias)
    x, hx = random_inputs(cell, *batch)
    variables = leaves(x, hx, cell)
    made = cell(x, hx)
    assert type(made) is type(hx)
    expected = plain_batch(cell, x, hx, torch.stack) if batch else plain(cell, x, hx)
    same(made, expected)
    same(gradients(made, variables), gradients(expected, variables))
    same(cell(x, list(hx) if isinstance(hx, tuple) else hx), made, 0.0)
    same(cell(x), cell(input=x, hx=each(torch.zeros_like, hx)), 0.0)


@modules
def test_gradcheck_and_gradgradcheck(make: Make) -> None:
    module = make(2, 3, **(DEEP if make.name in LAYERS else {}))
    names, states = [name for name, _ in module.named_parameters()], len(flat(random_inputs(module)[1]))

    def run(x: Tensor, *rest: Tensor) -> list[Tensor]:
        weights = dict(zip(names, rest[states:], strict=True))
        return flat(torch.func.functional_call(module, weights, (x, rest[:states] if states > 1 else rest[0])))

    variables = leaves(*random_inputs(module, 2), module)
    assert torch.autograd.gradcheck(run, variables, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, variables, fast_mode=True)


@modules
def test_tensors_that_are_not_contiguous(make: Make) -> None:
    module, made = make(), []
    x, hx = random_inputs(module, B)
    for lay in (torch.clone, lambda t: torch.stack([t, t], -1)[..., 0]):
        for name, p in [*module.named_parameters()]:
            setattr(module, name, nn.Parameter(lay(p.detach())))
        x, hx = lay(x.detach()), each(lambda s, lay=lay: lay(s.detach()), hx)
        variables, result = leaves(x, hx, module), flat(module(x, hx))
        weights = [lay(torch.ones_like(r)) for r in result]
        made.append([*result, *torch.autograd.grad(result, variables, weights, retain_graph=True)])
    same(made[1], made[0])
    summed = torch.autograd.grad(sum(r.sum() for r in result), variables)  # whose gradients have strides of zero
    same(summed, made[0][len(result) :])


@layers
def test_strides_let_the_documented_views_be_taken(make: Make) -> None:
    for dtype in (torch.float32, DOUBLE):
        layer = make(**DEEP, dtype=dtype).to(memory_format=torch.channels_last)
        x, hx = random_inputs(layer, B)
        output, state = layer(x, hx)
        directions, finals = output.view(T, B, 2, -1), flat(state)[0].view(2, 2, B, -1)
        same([directions[-1, :, 0], directions[0, :, 1]], [finals[1, 0], finals[1, 1]], 0.0)
        assert all(t.is_contiguous() for t in flat((output, state)))
        layer.batch_first = True  # what lies in memory is time-major all the same
        output, state = layer(x.transpose(0, 1), hx)
        assert all(t.is_contiguous() for t in flat((output.transpose(0, 1), state)))


@layers
def test_any_mix_of_tensors_that_require_gradients(make: Make) -> None:
    layer = make(num_layers=2)
    x, hx = random_inputs(layer, B)
    lower, upper = ([p for name, p in layer.named_parameters() if end in name] for end in ("l0", "l1"))
    expected: dict[Tensor, Tensor] = {}
    for wanted in itertools.product([True, False], repeat=4):
        groups = zip(([x], flat(hx), lower, upper), wanted, strict=True)
        variables = [t for group, on in groups for t in group if t.requires_grad_(on).requires_grad]
        output = layer(x, hx)[0]
        assert output.requires_grad == any(wanted)
        if variables:
            made = gradients(output, variables)
            expected = expected or dict(zip(variables, made, strict=True))
            same(made, [expected[t] for t in variables])
    layer.requires_grad_()
    for mode in (torch.no_grad, torch.inference_mode):
        with mode():
            silent = layer(x, hx)
        assert not any(t.requires_grad for t in flat(silent))
        same(silent, layer(x, hx))


@layers
def test_backward_twice_and_after_a_change(make: Make) -> None:
    layer, x = make(num_layers=2), torch.randn(T, B, I, dtype=DOUBLE)
    loss, parameters = layer(x)[0].square().sum(), [*layer.parameters()]
    same(torch.autograd.grad(loss, parameters, retain_graph=True), torch.autograd.grad(loss, parameters))
    with pytest.raises(RuntimeError, match="second time"):
        torch.autograd.grad(loss, parameters)
    loss = layer(x)[0].square().sum()
    with torch.no_grad():
        layer.weight_hh_l0.add_(1)
    with pytest.raises(RuntimeError, match="inplace"):
        loss.backward()


@modules
def test_a_batch_of_none(make: Make) -> None:
    module = make()
    x, hx = random_inputs(module, 0)
    made = module(x, hx)
    shapes = [s.shape for s in flat(hx)]
    assert [t.shape for t in flat(made)] == ([(T, 0, shapes[0][-1])] if make.name in LAYERS else []) + shapes
    assert all(g.count_nonzero() == 0 for g in gradients(made, module.parameters()))


@modules
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.bfloat16, BFLOAT16), (torch.float16, BFLOAT16 / 8)], ids=str)
def test_half_precision(make: Make, dtype: torch.dtype, tolerance: float) -> None:
    module = make(dtype=dtype)
    whole, (x, hx) = copy.deepcopy(module).double(), random_inputs(module, B)
    made, expected = module(x, hx), whole(x.double(), each(Tensor.double, hx))
    made = [*flat(made), *gradients(made, module.parameters())]
    assert all(t.dtype == dtype for t in made)
    same([t.double() for t in made], [*flat(expected), *gradients(expected, whole.parameters())], tolerance)


@layers
def test_dropout_acts_between_layers_in_training_only(make: Make) -> None:
    layer, without = make(num_layers=3, dropout=0.5), make(num_layers=3)
    x = torch.randn(T, B, I, dtype=DOUBLE)
    for given in (x, x[:, 0], pack_padded_sequence(x, torch.tensor([3, 5, 2]), enforce_sorted=False)):
        layer.train()
        torch.manual_seed(0)
        first, second = layer(given), layer(given)
        torch.manual_seed(0)
        same(layer(given), first, 0.0)
        assert not torch.equal(flat(first)[0], flat(second)[0])
        same(layer.eval()(given), without(given))
    layer.train().dropout = 0.0
    same(layer(x), without(x))
    layer.dropout = 1.0  # the last layer then reads zeros, and its own output is left alone
    last = make(without.weight_ih_l2.shape[1], H)
    last.load_state_dict({name.replace("l2", "l0"): p for name, p in without.state_dict().items() if "l2" in name})
    same(layer(x)[0], last(torch.zeros(T, B, last.input_size, dtype=DOUBLE))[0])


# --- attributes and parameters ----------------------------------------------------------------------------


@layers
def test_arguments_attributes_and_repr(make: Make) -> None:
    fourth, proj = (["relu"] if make.name == "RNN" else []), make.options.get("proj_size", 0)
    build = getattr(make.library, make.name)
    layer = build(3, 5, 2, *fourth, False, True, 0.5, True, **({"proj_size": proj} if proj else {}))
    wanted = {"input_size": 3, "hidden_size": 5, "num_layers": 2, "bias": False, "batch_first": True, "dropout": 0.5}
    wanted |= {"bidirectional": True, "proj_size": proj, "mode": "RNN_RELU" if fourth else make.name, "training": True}
    wanted |= {"nonlinearity": "relu"} if fourth else {}
    assert {name: getattr(layer, name) for name in wanted} == wanted
    size = f"{make.name}(3, 5{', proj_size=2' * bool(proj)}"
    assert repr(layer) == f"{size}, num_layers=2, bias=False, batch_first=True, dropout=0.5, bidirectional=True)"
    assert repr(make.bare(3, 5)) == f"{size})"
    assert build(3, 5).mode == ("RNN_TANH" if fourth else make.name)
    assert isinstance(layer, nn.RNNBase)
    with pytest.warns(UserWarning, match="dropout") as caught:
        assert make.bare(3, 5, dropout=0.5).dropout == 0.5  # of one layer there is none
    assert len(caught) == 1
    with pytest.raises(TypeError):
        layer(torch.zeros(5, 3), h=None)


@cells
def test_arguments_attributes_and_repr_of_a_cell(make: Make) -> None:
    cell = getattr(make.library, make.name)(3, 5, False, *make.options.values())
    assert [cell.input_size, cell.hidden_size, cell.bias, cell.bias_ih, cell.bias_hh] == [3, 5, False, None, None]
    assert repr(cell) == f"{make.name}(3, 5, bias=False{', nonlinearity=relu' * bool(make.options)})"
    assert repr(make.bare(3, 5)) == f"{make.name}(3, 5{', nonlinearity=relu' * bool(make.options)})"
    assert isinstance(cell, nn.RNNCellBase)
    assert all(t.shape == (B, 0) for t in flat(make.bare(3, 0)(torch.randn(B, 3))))  # no units


@modules
@pytest.mark.parametrize("bias", [True, False])
def test_parameters(make: Make, bias: bool) -> None:
    module = make.bare(3, 9, bias=bias, **(DEEP if make.name in LAYERS else {}))
    gates, size = {"L": 36, "G": 27, "R": 9}[make.name[0]], make.options.get("proj_size", 9)
    suffixes = ["_l0", "_l0_reverse", "_l1", "_l1_reverse"] if make.name in LAYERS else [""]
    wanted: dict[str, tuple[int, ...]] = {}
    for suffix in suffixes:
        shapes = {"weight_ih": (gates, 2 * size if "l1" in suffix else 3), "weight_hh": (gates, size)}
        shapes |= {"bias_ih": (gates,), "bias_hh": (gates,)} if bias else {}
        shapes |= {"weight_hr": (2, 9)} if size == 2 else {}
        wanted |= {name + suffix: shape for name, shape in shapes.items()}
    assert {name: p.shape for name, p in module.named_parameters()} == wanted
    assert [*module.state_dict()] == [name for name, _ in module.named_parameters()] == [*wanted]
    before = copy.deepcopy(module)
    module.reset_parameters()
    for p, old in zip(module.parameters(), before.parameters(), strict=True):
        assert -1 / 3 <= min(p.min(), old.min()) < 0 < max(p.max(), old.max()) <= 1 / 3
        assert not torch.equal(p, old)
    if make.name in LAYERS:
        module.flatten_parameters()
        assert len(module.all_weights) == len(suffixes)
        for held in ([p for row in module.all_weights for p in row], module._flat_weights):
            assert all(a is b for a, b in zip(held, module.parameters(), strict=True))


@layers
def test_weights_that_a_program_writes_are_the_weights(make: Make) -> None:
    layer = make(num_layers=2)
    x, hx = random_inputs(layer)

    def check() -> None:
        same(layer(x, hx), plain(layer, x, hx))
        variables = [*layer.parameters()]
        same(gradients(layer(x, hx), variables), gradients(plain(layer, x, hx), variables))
        assert all(held is getattr(layer, name) for held, (name, _) in zip(layer._flat_weights, names, strict=True))

    names = [*layer.named_parameters()]
    for name, p in names:  # the loop that initialises by name, forget gates at one
        if "weight" in name:
            nn.init.orthogonal_(p) if "hh" in name else nn.init.xavier_uniform_(p)
        else:
            p.data.zero_()[p.numel() // 4 : p.numel() // 2].fill_(1.0)
    check()
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(torch.randn_like(vector), layer.parameters())
    check()
    layer.weight_hh_l0 = nn.Parameter(torch.randn_like(layer.weight_hh_l0))
    check()
    layer.weight_hh_l1 = layer.weight_hh_l0
    check()


CHANGES: dict[str, tuple[Callable[[Any, str], Any], Callable[[Any, str], Any]]] = {
    "orthogonal": (parametrizations.orthogonal, parametrize.remove_parametrizations),
    "weight_norm": (parametrizations.weight_norm, parametrize.remove_parametrizations),
    "old weight_norm": (nn.utils.weight_norm, nn.utils.remove_weight_norm),
    "prune": (lambda m, n: prune.l1_unstructured(m, n, 0.5), prune.remove),
}


@modules
@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.filterwarnings("ignore:`torch.nn.utils.weight_norm` is deprecated:FutureWarning")
def test_weights_that_are_made_of_others(make: Make, change: str) -> None:
    module = make()
    x, hx = random_inputs(module)
    weight = next(name for name, _ in module.named_parameters() if "weight_hh" in name)
    apply, remove = CHANGES[change]
    apply(module, weight)
    for is_parameter in (False, True):
        parameters = [*module.parameters()]
        same(module(x, hx), plain(module, x, hx))
        same(gradients(module(x, hx), parameters), gradients(plain(module, x, hx), parameters))
        assert (weight in dict(module.named_parameters())) is is_parameter
        if isinstance(module, nn.RNNBase):
            assert [isinstance(p, nn.Parameter) for p in module._flat_weights].count(False) == 1 - is_parameter
        if not is_parameter:
            remove(module, weight)


# --- saving and moving ------------------------------------------------------------------------------------


@modules
def test_saved_and_loaded(make: Make) -> None:
    module = make()
    x, hx = random_inputs(module)
    expected = module(x, hx)
    for library, assign in itertools.product((nn, gatewise), (False, True)):
        mate = replace(make, library=library).bare(I, H, dtype=DOUBLE)
        buffer = io.BytesIO()
        torch.save(module.state_dict(), buffer)
        buffer.seek(0)
        mate.load_state_dict(torch.load(buffer, weights_only=True), assign=assign)
        same(mate(x, hx), expected)
        module.load_state_dict(mate.state_dict())
        with pytest.raises(RuntimeError, match="Missing key"):
            mate.load_state_dict({})
    buffer = io.BytesIO()
    torch.save(module, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(module), pickle.loads(pickle.dumps(module)), torch.load(buffer, weights_only=False)]
    nn.init.zeros_(next(module.parameters()))
    for made in copies:
        assert type(made) is type(module)
        assert repr(made) == repr(module)
        same(made(x, hx), expected, 0.0)


@modules
def test_device_and_dtype(make: Make) -> None:
    module = make(dtype=torch.float32).double()
    x, hx = random_inputs(module)
    expected = module(x, hx)
    with torch.device("meta"):
        metas = {torch.float32: make.bare(I, H), torch.half: make.bare(I, H).half()}
    metas[torch.bfloat16] = make.bare(I, H, device="meta", dtype=torch.bfloat16)
    for dtype, meta in metas.items():
        made = meta(x.to("meta", dtype), each(lambda s, dtype=dtype: s.to("meta", dtype), hx))
        assert all(t.is_meta and t.dtype == dtype for t in [*flat(made), *meta.parameters()])
        assert [t.shape for t in flat(made)] == [t.shape for t in flat(expected)]
        meta = meta.to_empty(device="cpu").to(DOUBLE)
        meta.load_state_dict(module.state_dict())
        same(meta(x, hx), expected)
    low = module.to(torch.float32)(x.float(), each(Tensor.float, hx))
    assert all(t.dtype == torch.float32 for t in [*flat(low), *module.parameters()])
    same(module.double()(x, hx), expected)
    torch.__future__.set_swap_module_params_on_conversion(True)
    try:
        assert all(p.dtype == torch.half for p in make().half().parameters())
    finally:
        torch.__future__.set_swap_module_params_on_conversion(False)


# --- the same fault, the same type of error ---------------------------------------------------------------

# (modules, the argument at fault, calls with x and the state h of a batch, or values given to the constructor).
# In a call, `of` changes each state of h, `one` takes one sequence of a batch, `other` is a tuple where one tensor is
# expected, and the other way round. What torch accepts, or refuses now so and now so as the sizes are, is not here.
FAULTS: list[tuple[tuple[str, ...], str, list[Any]]] = [
    (LAYERS + CELLS, "input", [
        "x.sum()", "x[None, None]", "x[..., :2]", "one(x)[..., :2]", "x.float()", "x.half()", "x.long()", "x.bool()",
        "x.cdouble()", "x.to('meta')", "x.tolist()", "x.numpy()", "None"]),
    (LAYERS, "input", [
        "x[:0]", "one(x)[:0]", "x[:0, :0]", "x.to_sparse()", "pack(x[..., :2])", "pack(x[..., 0])",
        "pack(x[..., None])", "PackedSequence(pack(x).data.to('meta'), pack(x).batch_sizes)"]),
    (LAYERS + CELLS, "hx", [
        "x, of(lambda s: s[..., :2, :])", "x, of(lambda s: s[..., :1, :])", "x, of(lambda s: s[..., :1])",
        "x, of(lambda s: s[None])", "x, of(one)", "x, of(Tensor.float)", "x, of(Tensor.half)", "x, of(Tensor.long)",
        "x, of(Tensor.cdouble)", "x, of(lambda s: s.to('meta'))",
        "x, (flat(h)[0],) * 3", "x, (flat(h)[0], None)", "x, 'zeros'", "x, 0", "one(x), h",
        "one(x), of(lambda s: s[..., :1, :])", "one(x), of(lambda s: one(s)[..., :1])"]),
    (LAYERS, "hx", [
        "x, of(lambda s: s[:1])", "pack(x), of(lambda s: s[:, :2])", "pack(x), of(lambda s: s[..., :1])",
        "pack(x, [3, 5, 1]), of(lambda s: s[:, :2])", "pack(x), of(Tensor.float)",
        "pack(x), of(lambda s: s.to('meta'))"]),
    (("RNN", "GRU"), "input", ["pack(x.float())"]),
    ((*LAYERS, "RNNCell", "GRUCell"), "hx", ["x, other", "one(x), each(one, other)"]),
    (("RNN", "GRU", "RNNCell", "GRUCell"), "hx", ["x, flat(h)[:1]"]),
    (("RNN", "GRU"), "hx", ["pack(x), of(one)", "pack(x), other"]),
    (("LSTM", "LSTMCell"), "hx", [
        "x, (h[0], h[1][..., :2, :])", "x, (h[0], h[1][..., :1])", "x, (h[0], h[1][None])",
        "x, (h[0], h[1].to('meta'))"]),
    (LAYERS + CELLS, "input_size", [-1, 3.0, "3", None]), (LAYERS, "input_size", [0]),
    (LAYERS + CELLS, "hidden_size", [-1, 4.0, "4", None]), (LAYERS, "hidden_size", [0]),
    (LAYERS + CELLS, "dtype", [torch.int64, "float32"]), (LAYERS + CELLS, "device", ["nowhere", 3.5]),
    (LAYERS + CELLS, "nonlinearity", ["sigmoid", None]), (LAYERS + CELLS, "units", [4]),
    (LAYERS, "num_layers", [0, -1, 2.0, "2", None]), (LAYERS, "proj_size", [4, 5, -1, 2.0, "2", None]),
    (LAYERS, "bias", [0, 1, "x", None]), (LAYERS, "batch_first", [0, 1, "x", None]),
    (LAYERS, "bidirectional", [1, "x", None]),  # which torch notices when it is called
    (LAYERS, "dropout", [2, -0.1, float("nan"), "0.5", "x", True]),
]  # fmt: skip


def faulty(make: Make, argument: str, what: Any) -> Callable[[], Any]:
    """What commits this fault when it is called."""
    sizes = {"num_layers": 2} if make.name in LAYERS else {}
    if argument not in ("input", "hx"):
        sizes |= {"input_size": I, "hidden_size": H, argument: what}
        return lambda: make.bare(**sizes)(torch.zeros(B, I))
    module = make(**sizes)
    x, h = random_inputs(module, B)
    names = {"x": x, "h": h, "of": lambda f: each(f, h), "one": lambda t: t.select(-2, 0)}
    names["other"] = h[0] if isinstance(h, tuple) else (h, h)
    names["pack"] = lambda x, lengths=(5, 3, 1): pack_padded_sequence(x, torch.tensor(lengths), enforce_sorted=False)
    given = eval(f"({what},)", globals() | names)
    return lambda: module(*given)


CASES = [(m, argument, w) for names, argument, ws in FAULTS for m in kinds(*names, libraries=[gatewise]) for w in ws]


@pytest.mark.parametrize(("make", "argument", "what"), CASES, ids=str)
def test_the_same_fault_raises_the_same_type_and_ours_names_it(make: Make, argument: str, what: Any) -> None:
    theirs, ours = faulty(replace(make, library=nn), argument, what), faulty(make, argument, what)
    raised: Exception | None = None
    try:
        theirs()
    except Exception as error:
        raised = error
    assert raised is not None, "torch accepts this"
    with pytest.raises(type(raised)) as caught:
        ours()
    if str(caught.value) != str(raised):  # torch's own words, passed on, are as clear as torch's
        assert make.name in str(caught.value)
        assert argument in str(caught.value)
