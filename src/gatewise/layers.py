"""The layers: RNN, GRU and LSTM, which stand in for torch.nn's, and Recurrent, which takes any cell.

From here it is three hops to the arithmetic: a layer calls `scan` (scan/autograd.py), which calls an
executor (scan/reference.py), which runs the cell's graph (cells.py) step by step.
"""

from __future__ import annotations

import math
import warnings
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise import cells
from gatewise.border import check_input, check_states, compute_dtype
from gatewise.graph.graph import Graph
from gatewise.scan.autograd import scan
from gatewise.scan.plan import Inputs
from gatewise.scan.stages import project

State = Tensor | tuple[Tensor, ...]


class Layer(nn.Module):
    """What every layer does with its parameters: layers of a cell over a sequence, in one or two directions."""

    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    weight_ih_l0: Tensor  # stands for all parameters where dtype and device are asked for

    @property
    def cell(self) -> Graph:
        """The cell, as the graph that runs."""
        raise NotImplementedError

    def forward(self, input: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """Run the layer over a sequence.

        Args:
            input: (T, B, I), or (B, T, I) with `batch_first`, or unbatched (T, I), in the weights' dtype; or
                integers (T, B), (B, T) or (T,), which mean one-hot vectors of `input_size` without building them.
            hx: the state before the first step, as `initial_state(batch)` gives it; zeros if None.
                Without the batch's axis for unbatched input.

        Returns:
            output: the last layer's output at each step, laid out as `input`, of size D * `proj_size` (or
                D * `hidden_size`), where D is 2 if bidirectional, forward direction first.
            state: after the last step, like hx. For two directions, the reverse one's is that after its
                own last step, which is the sequence's first.

        Raises:
            RuntimeError, ValueError: a shape, a dtype or a device does not fit. IndexError: an integer is
                outside [0, input_size). TypeError: input or hx is no tensor.

        Under autocast all is computed in autocast's dtype, as torch's LSTM and RNN do. The output is kept for
        backward, so changing it in place raises there.
        """
        x, batched = check_input(self, input)
        states = check_states(self, hx, x.shape[1], batched)
        dtype = compute_dtype(self.weight_ih_l0)
        if x.dtype.is_floating_point:
            x = x.to(dtype)
        # Autocast has had its say here: within a step it would cast back and forth.
        with torch.autocast(x.device.type, enabled=False) if dtype != self.weight_ih_l0.dtype else nullcontext():
            x, finals = self._run_layers(x, tuple(s.to(dtype) for s in states))
        if not batched:
            x, finals = x.squeeze(1), tuple(s.squeeze(1) for s in finals)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, finals if len(finals) > 1 else finals[0]

    def _run_layers(self, x: Tensor, states: tuple[Tensor, ...]) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All layers and directions, time-major: the last layer's output, and the final states as hx has them."""
        finals: list[tuple[Tensor, ...]] = []
        directions = ("", "_reverse") if self.bidirectional else ("",)
        dtype = states[0].dtype
        for layer in range(self.num_layers):
            outputs = []
            for direction in directions:
                k = len(finals)
                output, final = self._run(x, tuple(s[k] for s in states), f"_l{layer}{direction}", dtype)
                outputs.append(output)
                finals.append(final)
            x = outputs[0] if len(outputs) == 1 else torch.cat(outputs, -1)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def _run(
        self, x: Tensor, states: tuple[Tensor, ...], suffix: str, dtype: torch.dtype
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One layer in one direction, time-major."""
        # Parameters are read by name, so that functional_call and parametrizations are seen.
        weight_ih, bias_ih = getattr(self, f"weight_ih{suffix}"), getattr(self, f"bias_ih{suffix}", None)
        x = project(x, weight_ih.to(dtype), None if bias_ih is None else bias_ih.to(dtype))
        weight_hh, bias_hh, weight_hr, vectors = (w.to(dtype) for w in self._recurrent_weights(suffix))
        reverse = suffix.endswith("_reverse")
        inputs = Inputs(x.flip(0) if reverse else x, weight_hh, bias_hh, weight_hr, vectors, states)
        output, finals = scan(self.cell, inputs)
        return output.flip(0) if reverse else output, finals

    def _recurrent_weights(self, suffix: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """weight_hh, bias_hh, weight_hr and the learned vectors; empty or zero where the cell has none."""
        cell, size = self.cell, self.hidden_size
        like = self.weight_ih_l0
        weight_hh = getattr(self, f"weight_hh{suffix}", None)
        if weight_hh is None:
            weight_hh = like.new_zeros(0, self._output_size)
        bias_hh = getattr(self, f"bias_hh{suffix}", None)
        if bias_hh is None:
            bias_hh = like.new_zeros(weight_hh.shape[0])
        elif bias_hh.shape[0] < weight_hh.shape[0]:  # bias="input": only gates that x does not feed have one here
            blocks, zeros = iter(bias_hh.split(size)), like.new_zeros(size)
            bias_hh = torch.cat([zeros if g in cell.input_gates else next(blocks) for g in cell.hidden_gates])
        weight_hr = getattr(self, f"weight_hr{suffix}") if cell.projects_output else like.new_zeros(0, size)
        vectors = [getattr(self, f"{name}{suffix}") for name in cell.vectors]
        return weight_hh, bias_hh, weight_hr, torch.stack(vectors) if vectors else like.new_zeros(0, size)

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def state_shapes(self, batch: int) -> list[tuple[int, int, int]]:
        """The shape of each state in hx: (L * D, B, `hidden_size` or `proj_size`)."""
        directions = 2 if self.bidirectional else 1
        sizes = {"H": self.hidden_size, "P": self._output_size}
        return [(self.num_layers * directions, batch, sizes[s]) for s in self.cell.state_sizes]

    def initial_state(self, batch: int) -> State:
        """The zeros that fit as hx for this many sequences.

        Returns: a tensor (L * D, B, size), or a tuple of one for each state, such as (h, c) of an LSTM;
        on the weights' device and in their dtype.
        """
        like = self.weight_ih_l0
        states = tuple(like.new_zeros(shape) for shape in self.state_shapes(batch))
        return states if len(states) > 1 else states[0]


class RNN(Layer, nn.RNNBase):
    """A multi-layer Elman RNN, as torch.nn.RNN.

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)        or relu instead of tanh

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as
            torch.nn.RNN takes them; the parameters' names, shapes and initial values are torch's too.
        nonlinearity: "tanh" or "relu".

    Raises: ValueError, TypeError: as torch.nn.RNN does.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        nonlinearity: str = "tanh",
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        mode = f"RNN_{nonlinearity.upper()}"
        nn.RNNBase.__init__(
            self, mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0, device, dtype
        )

    @property
    def cell(self) -> Graph:
        return cells.rnn if self.nonlinearity == "tanh" else cells.rnn_relu


class GRU(Layer, nn.RNNBase):
    """A multi-layer gated recurrent unit, as torch.nn.GRU.

        r_t = σ(W_ir x_t + b_ir + W_hr h_{t-1} + b_hr)
        z_t = σ(W_iz x_t + b_iz + W_hz h_{t-1} + b_hz)
        n_t = tanh(W_in x_t + b_in + r_t ⊙ (W_hn h_{t-1} + b_hn))
        h_t = (1 - z_t) ⊙ n_t + z_t ⊙ h_{t-1}

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as
            torch.nn.GRU takes them; the parameters' names, shapes and initial values are torch's too.
        reset_after: False gives the GRU of the papers and of textbooks' code from scratch, whose reset gate
            acts on the state before the product, n_t = tanh(W_in x_t + b_in + W_hn (r_t ⊙ h_{t-1}) + b_hn).
            The two are different functions of the same parameters.

    Raises: ValueError, TypeError: as torch.nn.GRU does.

    Source: Cho et al. 2014, arXiv 1406.1078 (v3 resets after the product, v1 before it).
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
    ) -> None:
        nn.RNNBase.__init__(
            self,
            "GRU",
            input_size,
            hidden_size,
            num_layers,
            bias,
            batch_first,
            dropout,
            bidirectional,
            0,
            device,
            dtype,
        )
        self.reset_after = reset_after

    @property
    def cell(self) -> Graph:
        return cells.gru if self.reset_after else cells.gru_reset_before

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.reset_after else ", reset_after=False")


class LSTM(Layer, nn.RNNBase):
    """A multi-layer long short-term memory, as torch.nn.LSTM.

        i_t = σ(W_ii x_t + b_ii + W_hi h_{t-1} + b_hi)
        f_t = σ(W_if x_t + b_if + W_hf h_{t-1} + b_hf)
        g_t = tanh(W_ig x_t + b_ig + W_hg h_{t-1} + b_hg)
        o_t = σ(W_io x_t + b_io + W_ho h_{t-1} + b_ho)
        c_t = f_t ⊙ c_{t-1} + i_t ⊙ g_t
        h_t = o_t ⊙ tanh(c_t)                    with proj_size: h_t = W_hr (o_t ⊙ tanh(c_t))

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size, device,
            dtype: as torch.nn.LSTM takes them; the parameters' names, shapes and initial values are torch's too.

    hx and the returned state are pairs (h, c).

    Raises: ValueError, TypeError: as torch.nn.LSTM does.

    Source: Hochreiter and Schmidhuber 1997; projection: Sak et al. 2014, arXiv 1402.1128.
    """

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        proj_size: int = 0,
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        nn.RNNBase.__init__(
            self, "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype,
        )  # fmt: skip

    @property
    def cell(self) -> Graph:
        return cells.lstm_projected if self.proj_size else cells.lstm


class Recurrent(Layer):
    """A recurrent layer of any cell.

    Args:
        cell: what `@gatewise.cell` made of its equations, or a built-in one of `gatewise.cells`.
        input_size: I, the number of features of x_t. hidden_size: H, the number of units.
        num_layers: layers, each of which reads the output of the one below.
        bias: True gives each gate torch's two, one beside W_i and one beside W_h; "input" gives each gate
            one, as textbooks and Keras have it (beside W_i, or beside W_h for a gate that x does not feed);
            False none.
        batch_first: input and output are (B, T, …) instead of (T, B, …); states are not.
        dropout: the probability with which an element of the output of each layer but the last is zeroed in
            training.
        bidirectional: a second set of weights reads the sequence backwards; outputs are concatenated.
        device, dtype: of the parameters.
        proj_size: P, for a cell that uses `.hr`, and for no other.

    Parameters, each followed by `_l{layer}` and, in the second direction, `_reverse`; all drawn from
    U(-1/√H, 1/√H), as torch.nn does:
        weight_ih (G*H, I), weight_hh (G*H, P or H): the gates read from x, and those projected from states,
            each stacked in the order of the cell's `gates`.
        bias_ih, bias_hh (G*H,). weight_hr (P, H), of `.hr`. A learned vector (H,) by its own name.

    Raises:
        TypeError, ValueError: an argument is of a wrong type, or out of its range.
    """

    def __init__(
        self,
        cell: Graph,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool | str = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
        device: Any = None,
        dtype: Any = None,
        *,
        proj_size: int = 0,
    ) -> None:
        super().__init__()
        if not isinstance(cell, Graph):
            raise TypeError(f"Recurrent: cell is {cell!r}, expected what @gatewise.cell(gates=…) makes of a function")
        for name, value in (
            ("input_size", input_size),
            ("hidden_size", hidden_size),
            ("num_layers", num_layers),
            ("proj_size", proj_size),
        ):
            if type(value) is not int:
                raise TypeError(f"Recurrent: {name} is {value!r}, expected an integer")
            if value < 1 and name != "proj_size":
                raise ValueError(f"Recurrent: {name} is {value}, expected at least 1")
        for name, flag in (("batch_first", batch_first), ("bidirectional", bidirectional)):
            if not isinstance(flag, bool):
                raise TypeError(f"Recurrent: {name} is {flag!r}, expected True or False")
        if not (isinstance(bias, bool) or bias == "input"):
            raise ValueError(f"Recurrent: bias is {bias!r}, expected True, False or 'input'")
        if type(dropout) not in (int, float) or not 0 <= dropout <= 1:
            raise ValueError(f"Recurrent: dropout is {dropout!r}, expected a probability in [0, 1]")
        if dropout and num_layers == 1:
            warnings.warn(
                f"Recurrent: dropout={dropout} acts between layers, and num_layers is 1: it has no effect", stacklevel=2
            )
        if cell.projects_output != bool(proj_size) or not 0 <= proj_size < hidden_size:
            wants = f"0 < proj_size < hidden_size = {hidden_size}" if cell.projects_output else "0"
            has = "projects its output with .hr" if cell.projects_output else "has no .hr"
            raise ValueError(f"Recurrent: proj_size is {proj_size}, expected {wants}: {cell.name} {has}")
        self._cell, self.input_size, self.hidden_size, self.num_layers = cell, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        for layer in range(num_layers):
            for suffix in ("", "_reverse") if bidirectional else ("",):
                size = input_size if layer == 0 else self._output_size * (2 if bidirectional else 1)
                for name, shape in self._shapes(size).items():
                    parameter = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
                    self.register_parameter(f"{name}_l{layer}{suffix}", parameter)
        self.reset_parameters()

    def _shapes(self, input_size: int) -> dict[str, tuple[int, ...]]:
        """The shape of each parameter of one layer and direction."""
        cell, size = self.cell, self.hidden_size
        rows_ih, rows_hh = len(cell.input_gates) * size, len(cell.hidden_gates) * size
        rows_bias = rows_hh
        if self.bias == "input":
            rows_bias = len(set(cell.hidden_gates) - set(cell.input_gates)) * size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows_ih, input_size)}
        if rows_hh:
            shapes["weight_hh"] = (rows_hh, self._output_size)
        if self.bias:
            shapes["bias_ih"] = (rows_ih,)
            if rows_bias:
                shapes["bias_hh"] = (rows_bias,)
        if cell.projects_output:
            shapes["weight_hr"] = (self.proj_size, size)
        return shapes | dict.fromkeys(cell.vectors, (size,))

    @property
    def cell(self) -> Graph:
        return self._cell

    def flatten_parameters(self) -> None:
        """Does nothing; programs written for torch.nn's layers call it."""

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/√H, 1/√H), as torch.nn does."""
        bound = 1 / math.sqrt(self.hidden_size)
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def extra_repr(self) -> str:
        words = [self.cell.name, str(self.input_size), str(self.hidden_size)]
        plain = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "proj_size": 0,
        }
        words += [f"{k}={getattr(self, k)!r}" for k, v in plain.items() if getattr(self, k) != v]
        return ", ".join(words)
