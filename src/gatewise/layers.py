"""The layers: RNN, GRU and LSTM, which stand in for torch.nn's, and Recurrent, which takes any cell.

From here it is three hops to the arithmetic: a layer calls `scan` (scan/autograd.py), which calls an
executor (scan/reference.py), which runs the cell's graph (cells.py) step by step.
"""

from __future__ import annotations

import math
import warnings
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise import cells
from gatewise.graph.graph import Graph
from gatewise.scan.autograd import scan
from gatewise.scan.plan import Inputs
from gatewise.scan.stages import project

State = Tensor | tuple[Tensor, ...]


class _Layer(nn.Module):
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
            RuntimeError: a shape does not fit. ValueError: a dtype does not fit. IndexError: an integer
                is outside [0, input_size). TypeError: input or hx is no tensor.
        """
        x, batched = self._check_input(input)
        batch = x.shape[1]
        states = self._check_state(hx, batch, batched, x)
        finals: list[tuple[Tensor, ...]] = []
        directions = 2 if self.bidirectional else 1
        for layer in range(self.num_layers):
            outputs = []
            for direction in range(directions):
                k = layer * directions + direction
                output, final = self._run(x, tuple(s[k] for s in states), layer, direction)
                outputs.append(output)
                finals.append(final)
            x = outputs[0] if directions == 1 else torch.cat(outputs, -1)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        stacked = tuple(torch.stack(parts) for parts in zip(*finals, strict=True))
        if not batched:
            x, stacked = x.squeeze(1), tuple(s.squeeze(1) for s in stacked)
        elif self.batch_first:
            x = x.transpose(0, 1)
        return x, stacked if len(stacked) > 1 else stacked[0]

    def _run(
        self, x: Tensor, states: tuple[Tensor, ...], layer: int, direction: int
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """One layer in one direction, time-major."""
        suffix = f"_l{layer}" + ("_reverse" if direction else "")
        projected = project(x, getattr(self, f"weight_ih{suffix}"), getattr(self, f"bias_ih{suffix}", None))
        inputs = Inputs(projected, *self._recurrent_weights(suffix), states=states)
        if not direction:
            return scan(self.cell, inputs)
        output, finals = scan(self.cell, inputs._replace(x=projected.flip(0)))
        return output.flip(0), finals

    def _recurrent_weights(self, suffix: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """weight_hh, bias_hh, weight_hr and the learned vectors; empty or zero where the cell has none.

        They are read by name, so that functional_call and parametrizations are seen.
        """
        cell, size = self.cell, self.hidden_size
        weight_ih = getattr(self, f"weight_ih{suffix}")
        weight_hh = getattr(self, f"weight_hh{suffix}", None)
        if weight_hh is None:
            weight_hh = weight_ih.new_zeros(0, self._output_size)
        bias_hh = getattr(self, f"bias_hh{suffix}", None)
        if bias_hh is None:
            bias_hh = weight_ih.new_zeros(weight_hh.shape[0])
        elif bias_hh.shape[0] < weight_hh.shape[0]:  # bias="input": only gates that x does not feed have one here
            blocks, zeros = iter(bias_hh.split(size)), weight_ih.new_zeros(size)
            bias_hh = torch.cat([zeros if g in cell.input_gates else next(blocks) for g in cell.hidden_gates])
        weight_hr = getattr(self, f"weight_hr{suffix}") if cell.projects_output else weight_ih.new_zeros(0, size)
        vectors = [getattr(self, f"{name}{suffix}") for name in cell.vectors]
        return weight_hh, bias_hh, weight_hr, torch.stack(vectors) if vectors else weight_ih.new_zeros(0, size)

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def _state_shapes(self, batch: int) -> list[tuple[int, int, int]]:
        directions = 2 if self.bidirectional else 1
        sizes = {"H": self.hidden_size, "P": self._output_size}
        return [(self.num_layers * directions, batch, sizes[s]) for s in self.cell.state_sizes]

    def initial_state(self, batch: int) -> State:
        """The zeros that fit as hx for this many sequences.

        Returns: a tensor (L * D, B, size), or a tuple of one for each state, such as (h, c) of an LSTM;
        on the weights' device and in their dtype.
        """
        like = self.weight_ih_l0
        states = tuple(like.new_zeros(shape) for shape in self._state_shapes(batch))
        return states if len(states) > 1 else states[0]

    # --- the border: below it shapes and dtypes are right --------------------------------------------

    def _check_input(self, input: Tensor) -> tuple[Tensor, bool]:
        """The input time-major and batched, and whether it came batched."""
        name = type(self).__name__
        if not isinstance(input, Tensor):
            raise TypeError(
                f"{name}: input is a {type(input).__name__}, expected a tensor"
                + (" (packed sequences are not supported yet)" if "PackedSequence" in type(input).__name__ else "")
            )
        weight = self.weight_ih_l0
        layout = "(B, T, I) with batch_first" if self.batch_first else "(T, B, I)"
        if input.is_floating_point() or input.is_complex() or input.dtype == torch.bool:
            if input.dim() not in (2, 3):
                raise ValueError(
                    f"{name}: input has shape {tuple(input.shape)}, expected {layout} or unbatched (T, I), "
                    "or integers without I for one-hot"
                )
            if input.shape[-1] != self.input_size:
                raise RuntimeError(
                    f"{name}: input has shape {tuple(input.shape)}, expected {self.input_size} = input_size at its end"
                )
            if input.dtype != weight.dtype:
                raise ValueError(
                    f"{name}: input is {input.dtype}, the weights are {weight.dtype}; "
                    f"convert one: input.to({weight.dtype}) or layer.to({input.dtype})"
                )
            batched = input.dim() == 3
        else:
            if input.dim() not in (1, 2):
                raise ValueError(
                    f"{name}: integer input has shape {tuple(input.shape)}, expected "
                    f"{layout.replace(', I', '')} or unbatched (T,): integers mean one-hot, without the axis I; "
                    "numbers as features: input.float()"
                )
            batched = input.dim() == 2
            if input.numel() and not 0 <= int(input.min()) <= int(input.max()) < self.input_size:
                raise IndexError(
                    f"{name}: integer input lies in [{int(input.min())}, {int(input.max())}], "
                    f"expected [0, {self.input_size - 1}], which input_size = {self.input_size} allows"
                )
        if not batched:
            input = input.unsqueeze(1)
        elif self.batch_first:
            input = input.transpose(0, 1)
        if input.shape[0] == 0:
            raise RuntimeError(f"{name}: the sequence has no steps, expected at least one")
        return input, batched

    def _check_state(self, hx: State | None, batch: int, batched: bool, x: Tensor) -> tuple[Tensor, ...]:
        """The states before the first step, each (L * D, B, size)."""
        if hx is None:
            hx = self.initial_state(batch)
            return hx if isinstance(hx, tuple) else (hx,)
        name, names = type(self).__name__, self.cell.states
        states = tuple(hx) if isinstance(hx, (tuple, list)) else (hx,)
        if len(states) != len(names) or not all(isinstance(s, Tensor) for s in states):
            what = "a tensor" if isinstance(hx, Tensor) else f"{type(hx).__name__} of {len(states)}"
            wants = f"({', '.join(names)})" if len(names) > 1 else f"one tensor, {names[0]}"
            raise TypeError(f"{name}: hx is {what}, expected {wants}; layer.initial_state(batch) makes one")
        weight = self.weight_ih_l0
        checked = []
        for label, state, shape in zip(names, states, self._state_shapes(batch), strict=True):
            expected = shape if batched else (shape[0], shape[2])
            if tuple(state.shape) != expected:
                size = "hidden_size" if shape[2] == self.hidden_size else "proj_size"
                axes = f"num_layers * num_directions, {'batch, ' if batched else ''}{size}"
                of = "hx" if len(names) == 1 else f"hx's {label}"
                raise RuntimeError(f"{name}: {of} has shape {tuple(state.shape)}, expected {expected} = ({axes})")
            if state.dtype != weight.dtype or state.device != weight.device:
                raise ValueError(
                    f"{name}: hx is {state.dtype} on {state.device}, "
                    f"the weights are {weight.dtype} on {weight.device}; convert it: hx.to(layer.weight_ih_l0)"
                )
            checked.append(state if batched else state.unsqueeze(1))
        return tuple(checked)


class RNN(_Layer, nn.RNNBase):
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


class GRU(_Layer, nn.RNNBase):
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


class LSTM(_Layer, nn.RNNBase):
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


class Recurrent(_Layer):
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
        for name, value in (("input_size", input_size), ("hidden_size", hidden_size), ("num_layers", num_layers)):
            if type(value) is not int:
                raise TypeError(f"Recurrent: {name} is {value!r}, expected an integer")
            if value < 1:
                raise ValueError(f"Recurrent: {name} is {value}, expected at least 1")
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
