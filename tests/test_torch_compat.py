"""Our layers in the hands of torch's machinery: instances of torch.nn's classes where they are the same function."""

from __future__ import annotations

import copy
import copyreg
import functools
import io
import os
import pickle
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from helpers import assert_close, randomize
from tolerances import FLOAT32, FLOAT64
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

import gatewise
from gatewise import torch_compat

LAYERS = ["RNN", "GRU", "LSTM"]
KINDS = [*LAYERS, "RNNCell", "GRUCell", "LSTMCell"]
X = torch.randn(5, 2, 3, dtype=torch.float64)

every = pytest.mark.parametrize("kind", KINDS)


def made(kind: str, **options: Any) -> Any:
    return randomize(getattr(gatewise, kind)(3, 4, **options).double())


def torchs(kind: str) -> type[nn.Module]:
    return getattr(nn, kind)


class Reads(nn.Module):
    """A model that asks what the book's RNNModel does: whether the state is a pair."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.linear, self.layer = nn.Linear(3, 3).double(), layer

    def forward(self, x: Tensor) -> Tensor:
        x = self.linear(x) if isinstance(self.linear, nn.Linear) else x
        x = x[0] if isinstance(self.layer, nn.RNNCellBase) else x
        state = self.layer(x)
        if isinstance(self.layer, nn.RNNBase):
            state = state[1]
        if isinstance(self.layer, (nn.LSTM, nn.LSTMCell)):
            state = 2 * state[0]
        elif isinstance(self.layer, (nn.RNN, nn.RNNCell)):
            state = 3 * state
        elif isinstance(self.layer, nn.GRU | nn.GRUCell):
            state = 5 * state
        return state[0] if isinstance(state, tuple) else state


def same_as_torchs(model: nn.Module, kind: str) -> None:
    twin = Reads(torchs(kind)(3, 4).double())
    twin.load_state_dict({name.replace("module.", ""): p for name, p in model.state_dict().items()})
    assert_close(model(X), twin(X), FLOAT64)


# --- isinstance ---------------------------------------------------------------------------------------------


@every
def test_an_instance_of_torchs_class_and_of_ours(kind: str) -> None:
    layer = made(kind)
    for cls in (torchs(kind), getattr(gatewise, kind), nn.Module, layer.__class__):
        assert isinstance(layer, cls)
    for other in KINDS:
        assert isinstance(layer, torchs(other)) == (other == kind)
    assert type(layer) is getattr(gatewise, kind)
    assert isinstance(layer, nn.RNNBase if kind in LAYERS else nn.RNNCellBase)
    same_as_torchs(Reads(layer), kind)


NOT_TORCHS: dict[str, Callable[[], nn.Module]] = {
    "reset before": lambda: gatewise.GRU(3, 4, reset_after=False),
    "reset before, a cell": lambda: gatewise.GRUCell(3, 4, reset_after=False),
    **{f"{kind} learns states": (lambda kind=kind: getattr(gatewise, kind)(3, 4, learn_state=True)) for kind in LAYERS},
    **{
        f"Recurrent({name})": (lambda name=name: gatewise.Recurrent(getattr(gatewise.cells, name), 3, 4))
        for name in ("rnn", "gru", "lstm", "lstm_peephole")
    },
}


@pytest.mark.parametrize("case", NOT_TORCHS)
def test_no_instance_where_torch_has_another_function_or_none(case: str) -> None:
    layer = NOT_TORCHS[case]()
    assert not any(isinstance(layer, torchs(kind)) for kind in KINDS)
    assert layer.__class__ is type(layer)
    assert torch_compat.why_not_torchs(layer)


@pytest.mark.parametrize("name", ["reset_after", "learn_state"])
def test_the_answer_follows_the_layer(name: str) -> None:
    layer = gatewise.GRU(3, 4)
    setattr(layer, name, not getattr(layer, name))
    assert not isinstance(layer, nn.GRU)
    delattr(layer, name)  # as on layers that `replace` made
    assert isinstance(layer, nn.GRU)


class Own(gatewise.LSTM):
    tag = "own"

    def __init__(self, *sizes: int) -> None:
        super(self.__class__, self).__init__(*sizes)  # as beginners write it
        self.tagged = self.__class__.tag


class Peephole(gatewise.LSTM):
    @property
    def cell(self) -> gatewise.Graph:
        return gatewise.cells.lstm_peephole


class Registry:
    known: dict[str, type] = {}

    def __init_subclass__(cls, *, label: str) -> None:
        Registry.known[label] = cls


class Registered(gatewise.GRU, Registry, label="one"):
    pass


def test_subclasses_are_instances_too_unless_they_compute_another_cell() -> None:
    layer = Own(3, 4)
    assert isinstance(layer, nn.LSTM)
    assert layer.tagged == "own"
    assert str(layer) == "Own(3, 4)"
    assert type(layer.__class__(3, 4)) is Own
    assert not isinstance(Peephole.__new__(Peephole), nn.LSTM)
    assert isinstance(Registered(3, 4), nn.GRU)
    assert Registry.known == {"one": Registered}


@every
def test_the_class_that_is_seen_is_ours_in_all_that_is_done_with_it(kind: str) -> None:
    layer, own = made(kind), getattr(gatewise, kind)
    seen = layer.__class__
    assert seen is made(kind).__class__
    assert seen == own
    assert {own: 1}[seen] == 1
    assert seen != torchs(kind)
    assert (seen.__name__, seen.__qualname__, seen.__module__) == (own.__name__, own.__qualname__, own.__module__)
    assert seen.__bases__ == (*own.__bases__, torchs(kind))
    assert type(seen(3, 4)) is own
    assert issubclass(seen, torchs(kind))
    assert issubclass(own, seen)
    assert "initial_state" in dir(layer)
    assert pickle.loads(pickle.dumps(seen)) is own
    seen.note = "set"
    assert vars(own)["note"] == "set"
    del seen.note
    assert not hasattr(own, "note")
    derived = type("Derived", (seen,), {})
    assert derived.__mro__[1] is own
    assert derived.__module__ == __name__


def test_single_dispatch_finds_what_is_registered_for_torchs_class() -> None:
    @functools.singledispatch
    def told(layer: Any) -> str:
        return "a module"

    told.register(nn.LSTM, lambda layer: "an LSTM")
    assert told(gatewise.LSTM(3, 4)) == "an LSTM"
    assert told(gatewise.GRU(3, 4)) == "a module"


@every
@pytest.mark.parametrize("batched", [True, False])
def test_states_can_be_detached_in_place(kind: str, batched: bool) -> None:
    layer, theirs = made(kind), torchs(kind)(3, 4).double()
    theirs.load_state_dict(layer.state_dict())
    carried: dict[nn.Module, Any] = {}
    for module in (theirs, layer):
        state = None
        for x in (X, 2 * X) if batched else (X[:, 0], X[:, 1]):
            result = module(x[0] if "Cell" in kind else x, state)
            state = result if "Cell" in kind else result[1]
            if not batched and module is theirs:  # whose states are views then
                state = tuple(s.detach() for s in state) if isinstance(state, tuple) else state.detach()
                continue
            for s in state if isinstance(state, tuple) else [state]:
                s.detach_()
                assert not s.requires_grad
        carried[module] = state if isinstance(state, tuple) else (state,)
    for ours, plain in zip(carried[layer], carried[theirs], strict=True):
        assert_close(ours, plain, FLOAT64)


# --- copies, pickles and files ----------------------------------------------------------------------------------

COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    **{f"pickle {p}": (lambda m, p=p: pickle.loads(pickle.dumps(m, p))) for p in range(pickle.HIGHEST_PROTOCOL + 1)},
}


def saved(module: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(module, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@every
@pytest.mark.parametrize("way", [*COPIES, "torch.save"])
def test_copies_and_pickles_keep_the_class(kind: str, way: str) -> None:
    model = Reads(made(kind))
    model.layer.note = "kept"
    copied = {**COPIES, "torch.save": saved}[way](model)
    assert type(copied.layer) is getattr(gatewise, kind)
    assert isinstance(copied.layer, torchs(kind))
    assert copied.layer.note == "kept"
    assert torch.equal(copied(X), model(X))
    same_as_torchs(copied, kind)


@every
def test_a_pickle_from_before_layers_were_torchs_instances_still_loads(kind: str) -> None:
    model = Reads(made(kind))
    old = copyreg.__newobj__(type(model.layer))  # what such a pickle calls
    old.__setstate__(model.layer.__getstate__())
    assert type(old) is type(model.layer)
    expected = model(X)
    model.layer = old
    assert torch.equal(model(X), expected)


@every
def test_a_state_dict_goes_both_ways(kind: str) -> None:
    layer, theirs = made(kind), torchs(kind)(3, 4).double()
    theirs.load_state_dict(layer.state_dict())
    other = made(kind)
    randomize(other, 1).load_state_dict(theirs.state_dict())
    assert torch.equal(Reads(other).layer(X[0] if "Cell" in kind else X)[0], layer(X[0] if "Cell" in kind else X)[0])


# --- torch.compile and torch.export -----------------------------------------------------------------------------


@every
@pytest.mark.parametrize("way", ["alone", "in a model"])
def test_compiled_whole_and_isinstance_there_is_what_it_is_in_eager(kind: str, way: str) -> None:
    torch._dynamo.reset()
    layer = made(kind)
    model = layer if way == "alone" else Reads(layer)
    x = X[0] if way == "alone" and "Cell" in kind else X
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    for ours, plain in zip(compiled(x), model(x), strict=True):
        assert_close(*(r if isinstance(r, Tensor) else r[0] for r in (ours, plain)), FLOAT64)


@pytest.mark.parametrize("case", NOT_TORCHS)
def test_compiled_isinstance_of_what_torch_has_not(case: str) -> None:
    torch._dynamo.reset()
    model = Reads(NOT_TORCHS[case]().double())
    assert_close(torch.compile(model, fullgraph=True, backend="eager")(X), model(X), FLOAT64)


def test_compiled_after_isinstance_was_compiled_of_other_modules() -> None:
    torch._dynamo.reset()
    asks = torch.compile(
        lambda module, x: x * isinstance(module, nn.LSTM) + isinstance(module, (nn.GRU, nn.Linear)),
        fullgraph=True,
        backend="eager",
    )
    for module in (nn.Linear(2, 2), gatewise.LSTM(3, 4), nn.ReLU(), gatewise.GRU(3, 4), gatewise.RNN(3, 4)):
        one = torch.ones(())
        expected = 1.0 * isinstance(module, nn.LSTM) + isinstance(module, (nn.GRU, nn.Linear))
        assert asks(module, one).item() == expected, module


@pytest.mark.filterwarnings("ignore")  # of the broken graph, Dynamo's own
def test_where_dynamos_insides_are_unknown_it_breaks_the_graph_and_nothing_is_wrong(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    torch._dynamo.reset()
    monkeypatch.setattr(torch_compat, "_teach_dynamo", lambda: False)
    model = Reads(made("LSTM"))
    assert_close(torch.compile(model, backend="eager")(X), model(X), FLOAT64)
    torch._dynamo.reset()
    with pytest.raises(Exception, match="RNN, GRU, or LSTM"):
        torch.compile(model, fullgraph=True, backend="eager")(X)


@every
@pytest.mark.parametrize("strict", [True, False])
def test_exported(kind: str, strict: bool) -> None:
    model = Reads(made(kind))
    program = torch.export.export(model, (X,), strict=strict)
    assert_close(program.module()(X), model(X), FLOAT64)


@every
def test_functional_call_grad_and_vmap(kind: str) -> None:
    model = Reads(made(kind))
    parameters = {name: 2 * p.detach() for name, p in model.named_parameters()}
    twice = copy.deepcopy(model)
    twice.load_state_dict(parameters)
    assert_close(torch.func.functional_call(model, parameters, (X,)), twice(X), FLOAT64)
    batches = torch.stack([X, 2 * X])
    mapped = torch.func.vmap(model)(batches)
    assert_close(mapped, torch.stack([model(x) for x in batches]), FLOAT64)


# --- TorchScript, ONNX, quantisation ------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore")
@every
def test_traced(kind: str) -> None:
    model = Reads(made(kind))
    assert_close(torch.jit.trace(model, (X,))(X), model(X), FLOAT64)


class Plain(nn.Module):
    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x)[0]


@pytest.mark.filterwarnings("ignore")
@every
def test_scripted(kind: str) -> None:
    model = Plain(made(kind))
    x, expected = (X[0], model(X[0])) if "Cell" in kind else (X, model(X))
    assert_close(torch.jit.script(copy.deepcopy(model))(x), expected, FLOAT64)


TOLD: dict[str, Callable[[str], Any]] = {
    "by default": lambda kind: None,
    "torch's class": lambda kind: {torchs(kind)},
    "our class": lambda kind: {getattr(gatewise, kind)},
    "torch's class among others": lambda kind: {nn.Linear, torchs(kind)},
    "a mapping": lambda kind: {torchs(kind): torch.ao.quantization.default_dynamic_qconfig},
    "by name": lambda kind: {"layer": torch.ao.quantization.default_dynamic_qconfig},
}


@pytest.mark.filterwarnings("ignore")
@every
@pytest.mark.parametrize("told", TOLD)
@pytest.mark.parametrize("parametrized", [False, True], ids=["plain", "parametrized"])
def test_quantize_dynamic_is_refused_by_name(kind: str, told: str, parametrized: bool) -> None:
    model = Reads(made(kind).float()).float()
    if parametrized:
        parametrize.register_parametrization(model.layer, weight_of(kind), Doubled())
    if (kind, told) == ("RNN", "by default"):
        pytest.skip("torch quantizes no RNN")
    with pytest.raises(NotImplementedError, match=rf"{kind}: .*first gatewise.restore\(model\)"):
        torch.ao.quantization.quantize_dynamic(model, TOLD[told](kind))


@pytest.mark.filterwarnings("ignore")
@every
def test_quantize_dynamic_of_the_rest_of_a_model_and_of_all_after_restore(kind: str) -> None:
    model = Reads(made(kind)).float()
    x, plain = X.float(), type(model.layer)
    quantized = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
    assert "quantized" in type(quantized.linear).__module__
    assert type(quantized.layer) is plain
    assert_close(quantized.layer(x[0] if "Cell" in kind else x)[0], model.layer(x[0] if "Cell" in kind else x)[0], 0.0)
    assert not hasattr(quantized.layer, "qconfig")
    gatewise.restore(model)
    if kind != "RNN":  # which torch does not quantize
        quantized = torch.ao.quantization.quantize_dynamic(model, {torchs(kind)})
        assert "quantized" in type(quantized.layer).__module__


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("told", [{nn.GRU}, None])
def test_what_torch_has_not_is_passed_by_as_any_other_module(told: Any) -> None:
    model = nn.Sequential(gatewise.GRU(3, 4, reset_after=False))
    quantized = torch.ao.quantization.quantize_dynamic(model, told)
    assert type(quantized[0]) is gatewise.GRU


@pytest.mark.filterwarnings("ignore")
def test_a_layer_that_a_program_excludes_is_left_alone() -> None:
    model = nn.Sequential(nn.Linear(3, 3), gatewise.LSTM(3, 4))
    model.qconfig = torch.ao.quantization.default_qconfig
    with pytest.raises(NotImplementedError, match="restore"):
        torch.ao.quantization.prepare(model.eval())
    model[1].qconfig = None
    assert type(torch.ao.quantization.prepare(model)[1]) is gatewise.LSTM


# --- changed classes: parametrizations, swaps, parallel training ----------------------------------------------------


class Doubled(nn.Module):
    def forward(self, weight: Tensor) -> Tensor:
        return 2 * weight


def weight_of(kind: str) -> str:
    return "weight_hh" if "Cell" in kind else "weight_hh_l0"


@every
def test_parametrized(kind: str) -> None:
    model, name = Reads(made(kind)), weight_of(kind)
    twin = copy.deepcopy(model)
    getattr(twin.layer, name).data.mul_(2)
    plain = type(model.layer)
    parametrize.register_parametrization(model.layer, name, Doubled())
    assert isinstance(model.layer, torchs(kind))
    assert isinstance(model.layer, plain)
    assert name in vars(type(model.layer))
    assert name not in {**vars(plain), **vars(torchs(kind))}
    for one in (model, copy.deepcopy(model)):
        assert parametrize.is_parametrized(one.layer, name)
        assert type(one.layer).__mro__[1] is plain
        assert_close(one(X), twin(X), FLOAT64)
    torch._dynamo.reset()
    assert_close(torch.compile(model, fullgraph=True, backend="eager")(X), twin(X), FLOAT64)
    with pytest.raises(RuntimeError, match="state_dict"):
        pickle.dumps(model)
    assert parametrize.type_before_parametrizations(model.layer) is plain
    parametrize.remove_parametrizations(model.layer, name)
    assert type(model.layer) is plain
    assert_close(model(X), twin(X), FLOAT64)


@every
def test_parametrized_in_every_weight(kind: str) -> None:
    layer = made(kind)
    for name in [name for name, _ in layer.named_parameters()]:
        parametrize.register_parametrization(layer, name, Doubled())
    assert isinstance(layer, torchs(kind))
    parametrizations.weight_norm(made(kind), weight_of(kind))


@every
def test_replace_restore_and_both_again(kind: str) -> None:
    model = Reads(torchs(kind)(3, 4).double())
    expected = model(X)
    assert gatewise.replace(model).swapped
    assert isinstance(model.layer, torchs(kind))
    assert type(model.layer) is getattr(gatewise, kind)
    again = gatewise.replace(model)
    assert not again.swapped
    assert not again.skipped
    assert_close(model(X), expected, FLOAT64)
    assert gatewise.restore(model).swapped
    assert type(model.layer) is model.layer.__class__ is torchs(kind)
    assert not gatewise.restore(model).swapped
    assert_close(model(X), expected, FLOAT64)


@every
def test_a_mixin_put_in_front_of_the_class_that_is_seen(kind: str) -> None:
    class Loud:
        def loud(self) -> str:
            return "!"

    layer = made(kind)
    layer.__class__ = type("Loud", (Loud, layer.__class__), {})
    assert layer.loud() == "!"
    assert isinstance(layer, (torchs(kind), getattr(gatewise, kind)))
    assert isinstance(layer, torchs(kind))
    same_as_torchs(Reads(layer), kind)


@pytest.fixture(scope="module")
def process_group(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    if not torch.distributed.is_available():
        pytest.skip("torch without torch.distributed")
    store = tmp_path_factory.mktemp("store") / "file"
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield
    torch.distributed.destroy_process_group()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("process_group")
@every
@pytest.mark.parametrize("way", ["DistributedDataParallel", "fully_shard", "replicate", "FullyShardedDataParallel"])
def test_parallel_training_takes_the_same_step(kind: str, way: str) -> None:
    model = Reads(made(kind))
    twin = copy.deepcopy(model)
    if way == "DistributedDataParallel":
        parallel: nn.Module = nn.parallel.DistributedDataParallel(model)
    elif way == "fully_shard":
        from torch.distributed.fsdp import fully_shard

        mesh = torch.distributed.device_mesh.init_device_mesh("cpu", (1,))
        fully_shard(model.layer, mesh=mesh)
        parallel = fully_shard(model, mesh=mesh)
    elif way == "replicate":
        from torch.distributed._composable import replicate

        parallel = replicate(model)
    else:
        from torch.distributed.fsdp import FullyShardedDataParallel, ShardingStrategy

        parallel = FullyShardedDataParallel(
            model, use_orig_params=True, device_id=torch.device("cpu"), sharding_strategy=ShardingStrategy.NO_SHARD
        )
    inner = next(m for m in parallel.modules() if isinstance(m, getattr(gatewise, kind)))
    assert isinstance(inner, torchs(kind))
    assert "forward" not in vars(type(inner)) or type(inner) is getattr(gatewise, kind)
    for one in (parallel, twin):
        optimizer = torch.optim.SGD(one.parameters(), lr=0.1)
        one(X).square().sum().backward()
        optimizer.step()
    weights = [p.full_tensor() if hasattr(p, "full_tensor") else p for p in parallel.parameters()]
    for ours, plain in zip(weights, twin.parameters(), strict=True):
        assert_close(ours.detach().view(plain.shape), plain.detach(), FLOAT32)
