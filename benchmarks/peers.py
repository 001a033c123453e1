"""Who runs beside us in cpu.py and gpu.py: torch.nn, a plain torch loop, onnxruntime and JAX.

A peer takes one of our layers (one layer, one direction), x (T, B, I), the gradient g (T, B, H) of its output, and what
is measured; it gives the call that does this with the layer's weights in the peer's own way, or None if it can't. No
cell is written here: whoever has none of its own interprets the layer's graph.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.convert.onnx.export import NODES
from gatewise.graph.graph import Graph, walk
from gatewise.graph.ops import OPS
from gatewise.scan import reference
from gatewise.scan.plan import Inputs

FORWARD, BACKWARD, BACKWARD_X = MEASURES = ("forward", "forward + backward", "forward + backward, x's gradient too")


class Call(NamedTuple):
    """run: what is timed. read: of what it returns, [output, *gradients of parameters and x], as torch's tensors."""

    run: Callable[[], Any]
    read: Callable[[Any], list[Tensor]] = list


# --- torch -------------------------------------------------------------------------------------------


def by_autograd(
    output_of: Callable[[Tensor], Tensor], parameters: Iterable[Tensor], x: Tensor, g: Tensor, measure: str
) -> Call:
    x = x.detach().requires_grad_(measure == BACKWARD_X)
    wanted = [*parameters, *([x] if x.requires_grad else [])]

    def forward() -> list[Tensor]:
        with torch.no_grad():
            return [output_of(x)]

    def backward() -> list[Tensor]:
        output = output_of(x)
        return [output.detach(), *torch.autograd.grad(output, wanted, g)]

    return Call(forward if measure == FORWARD else backward)


def by_module(layer: nn.Module, x: Tensor, g: Tensor, measure: str) -> Call:
    """The layer itself: ours, or torch.nn's."""
    return by_autograd(lambda x: layer(x)[0], layer.parameters(), x, g, measure)


def by_torch_nn(layer: Any, x: Tensor, g: Tensor, measure: str) -> Call:
    return by_module(torchs_twin(layer), x, g, measure)


def torchs_twin(layer: Any) -> nn.Module:
    """torch.nn's layer of the same name, with the same weights."""
    weight, options = layer.weight_ih_l0, {"proj_size": layer.proj_size} if layer.proj_size else {}
    twin: nn.Module = getattr(nn, type(layer).__name__)(
        layer.input_size, layer.hidden_size, bidirectional=layer.bidirectional, **options,
        device=weight.device, dtype=weight.dtype,
    )  # fmt: skip
    twin.load_state_dict(layer.state_dict())
    return twin


def by_torch_loop(layer: Any, x: Tensor, g: Tensor, measure: str) -> Call:
    """Plain torch, step by step, differentiated by autograd: the reference executor without its opaque operator."""
    none, unset = x.new_empty(0, layer.hidden_size), x.new_empty(0, 0, dtype=torch.bool)

    def output_of(x: Tensor) -> Tensor:
        gates = F.linear(x, layer.weight_ih_l0, layer.bias_ih_l0)
        vectors = torch.stack([getattr(layer, f"{v}_l0") for v in layer.cell.vectors]) if layer.cell.vectors else none
        states = tuple(x.new_zeros(x.shape[1], layer.hidden_size) for _ in layer.cell.states)
        weights = (layer.weight_hh_l0, layer.bias_hh_l0, none, vectors, x.new_empty(0))
        inputs = Inputs(gates, *weights, states, resets=unset, active=unset, masks=())
        return reference.forward(layer.cell, inputs, extras=(), keep=False)[1][0]

    return by_autograd(output_of, layer.parameters(), x, g, measure)


# --- onnxruntime -------------------------------------------------------------------------------------


def by_onnxruntime(layer: Any, x: Tensor, g: Tensor, measure: str) -> Call | None:
    """A model of one node, run by as many threads as torch has; it has no gradients."""
    cell = layer.cell
    native = next((s for s in NODES if (s.cell.gates, s.cell.nodes) == (cell.gates, cell.nodes)), None)
    if measure != FORWARD or native is None or native.vectors:
        return None
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    size = layer.hidden_size
    rows = torch.cat([torch.arange(size) + size * cell.gates.index(gate) for gate in native.gates])
    biases = torch.cat([layer.bias_ih_l0[rows], layer.bias_hh_l0[rows]])
    weights = {"W": layer.weight_ih_l0[rows], "R": layer.weight_hh_l0[rows], "B": biases}
    graph = helper.make_graph(
        [helper.make_node(native.op, ["x", *weights], ["y"], hidden_size=size, **native.attributes)],
        native.op,
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, x.shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(w.detach().unsqueeze(0).numpy(), name) for name, w in weights.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)  # of onnxruntime 1.20
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.add_session_config_entry("session.force_spinning_stop", "1")  # else they take time from who comes next
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return Call(lambda: session.run(["y"], {"x": x.numpy()}), lambda made: [torch.from_numpy(made[0]).squeeze(1)])


# --- JAX ---------------------------------------------------------------------------------------------


def by_jax(layer: Any, x: Tensor, g: Tensor, measure: str) -> Call:
    """The cell's graph in jax.numpy, the body of a jax.lax.scan, under jax.jit.

    Matrices lie as (in, out), as flax has them: with (out, in) the forward scan takes four times as long at B = 1.
    """
    import jax

    def turned(tensor: Tensor) -> Tensor:
        return tensor.t() if tensor.dim() == 2 else tensor

    def forward(weights: list[Any], x: Any) -> Any:
        return jax_scan(layer.cell, dict(zip(names, weights, strict=True)), x)

    def backward(weights: list[Any], x: Any, g: Any) -> Any:
        output, pull = jax.vjp(forward, weights, x)
        return output, pull(g)[: 1 + (measure == BACKWARD_X)]  # XLA drops what is not returned

    names = [name.removesuffix("_l0") for name, _ in layer.named_parameters()]
    tensors = [[*layer.parameters()], x] if measure == FORWARD else [[*layer.parameters()], x, g]
    given = jax.tree.map(lambda t: jax.numpy.asarray(turned(t.detach()).contiguous().numpy()), tensors)
    compiled = jax.jit(forward if measure == FORWARD else backward)
    return Call(
        lambda: jax.block_until_ready(compiled(*given)),
        lambda made: [turned(torch.tensor(jax.device_get(leaf))) for leaf in jax.tree.leaves(made)],
    )


def jax_scan(cell: Graph, weights: dict[str, Any], x: Any) -> Any:
    """The output of any cell at every step, from zeros; but for masks, `.hr` and clipped gradients."""
    import jax
    import jax.numpy as jnp

    other_names = {
        "neg": jnp.negative,
        "clamp": jnp.clip,
        "softsign": jax.nn.soft_sign,
        "hardsigmoid": jax.nn.hard_sigmoid,
        "softplus": lambda a, beta, threshold: jax.nn.softplus(beta * a) / beta,
        "mean": lambda a: a.mean(-1, keepdims=True),
    }

    def function(op: str) -> Callable[..., Any]:
        if OPS[op].scalars:
            return OPS[op].run  # Python's operator
        return other_names.get(op) or getattr(jnp, op, None) or getattr(jax.nn, op)

    def split(gates: Iterable[str], stacked: Any) -> dict[str, Any]:
        return dict(zip(gates, jnp.split(stacked, len(tuple(gates)), -1), strict=True))

    # One product for all gates that read the same value.
    matrices, biases = (split(cell.hidden_gates, weights[name]) for name in ("weight_hh", "bias_hh"))
    readers = {n.args: [m.key for _, m in walk(cell, "project") if m.args == n.args] for _, n in walk(cell, "project")}
    products = {a: [jnp.concatenate([w[g] for g in gs], -1) for w in (matrices, biases)] for a, gs in readers.items()}

    def step(states: Any, x_t: Any) -> Any:
        leaves = {"input": split(cell.input_gates, x_t), "state": dict(zip(cell.states, states, strict=True))}
        leaves["vector"] = weights
        values: list[Any] = []
        projected: dict[tuple[int, ...], dict[str, Any]] = {}
        for node in cell.nodes:
            args = [values[a] for a in node.args]
            if node.op == "const":
                values.append(node.params[0][1])
            elif node.op in leaves:
                values.append(leaves[node.op][node.key])
            elif node.op == "project":
                if node.args not in projected:
                    matrix, bias = products[node.args]
                    projected[node.args] = split(readers[node.args], args[0] @ matrix + bias)
                values.append(projected[node.args][node.key])
            else:
                values.append(function(node.op)(*args, **dict(node.params)))
        new = tuple(jnp.broadcast_to(values[i], states[0].shape) for _, i in cell.outputs)
        return new, new[0]

    gates = x @ weights["weight_ih"] + weights["bias_ih"]  # of all steps at once
    zeros = jnp.zeros((x.shape[1], gates.shape[2] // len(cell.input_gates)), x.dtype)
    return jax.lax.scan(step, (zeros,) * len(cell.states), gates)[1]


# --- all ---------------------------------------------------------------------------------------------

Peer = Callable[[Any, Tensor, Tensor, str], Call | None]
PEERS: dict[str, Peer] = {"torch.nn": by_torch_nn, "onnxruntime": by_onnxruntime, "JAX": by_jax}
REQUIRED = {"onnxruntime": ("onnx", "onnxruntime"), "JAX": ("jax",)}
MISSING = [peer for peer, modules in REQUIRED.items() if not all(map(find_spec, modules))]


def product(rows: int, inner: int, columns: int) -> dict[str, Call | None]:
    """A float32 matrix product, (rows, inner) times (inner, columns), by torch and by JAX."""
    a, b = torch.randn(rows, inner), torch.randn(inner, columns)
    calls: dict[str, Call | None] = {"torch.mm": Call(lambda: torch.mm(a, b)), "JAX's dot": None}
    if "JAX" not in MISSING:
        import jax

        dot, given = jax.jit(jax.numpy.dot), [jax.numpy.asarray(m.numpy()) for m in (a, b)]
        calls["JAX's dot"] = Call(lambda: jax.block_until_ready(dot(*given)))
    return calls
