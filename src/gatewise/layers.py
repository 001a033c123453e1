"""The layers: RNN, GRU and LSTM, which stand in for torch.nn's, and Recurrent, which takes any cell.

From here it is three hops to the arithmetic: a layer's `forward` (layer.py) calls `scan` (scan/autograd.py), which
calls an executor (scan/cpu.py, or scan/reference.py, the specification), which runs the cell's graph (cells.py)
step by step.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import nn

from gatewise import cells
from gatewise.border import check_options
from gatewise.graph.graph import Graph
from gatewise.layer import Layer


class TorchLayer(Layer, nn.RNNBase):
    """What RNN, GRU and LSTM share: torch.nn's parameters, by way of the base class of torch.nn's layers."""

    def __init__(
        self,
        mode: str,
        input_size: int,
        hidden_size: int,
        num_layers: int,
        bias: bool,
        batch_first: bool,
        dropout: float,
        bidirectional: bool,
        proj_size: int,
        device: Any,
        dtype: Any,
        learn_state: bool,
        wrong: dict[str, Any],
    ) -> None:
        name = type(self).__name__
        if "proj_size" in wrong:
            raise ValueError(f"{name}: proj_size is for LSTM only")
        if wrong:
            raise TypeError(f"{name}: unexpected argument {next(iter(wrong))!r}")
        check_options(name, input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, proj_size)
        if not isinstance(bias, bool):
            raise TypeError(f"{name}: bias is {bias!r}, expected True or False")
        nn.RNNBase.__init__(
            self, mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype,
        )  # fmt: skip
        self._learn_states(learn_state, device, dtype)


class RNN(TorchLayer):
    """A multi-layer Elman RNN, as torch.nn.RNN.

        h_t = tanh(W_ih x_t + b_ih + W_hh h_{t-1} + b_hh)        or relu instead of tanh

    Args:
        input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, device, dtype: as
            torch.nn.RNN takes them; the parameters' names, shapes and initial values are torch's too.
        nonlinearity: "tanh" or "relu".
        learn_state: the state from which sequences begin is learned, one for each layer and direction,
            as the parameters `h_0_l{layer}`, followed by `_reverse` in the second direction; zeros at first.

    Raises: ValueError, TypeError: as torch.nn.RNN does.
    """

    torch_class = nn.RNN

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
        *,
        learn_state: bool = False,
        **wrong: Any,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        mode = f"RNN_{nonlinearity.upper()}"
        super().__init__(
            mode, input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype, learn_state, wrong,
        )  # fmt: skip

    @property
    def cell(self) -> Graph:
        return cells.rnn if self.nonlinearity == "tanh" else cells.rnn_relu


class GRU(TorchLayer):
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
        learn_state: as RNN.

    Raises: ValueError, TypeError: as torch.nn.GRU does.

    Source: Cho et al. 2014, arXiv 1406.1078 (v3 resets after the product, v1 before it).
    """

    torch_class = nn.GRU
    reset_after: bool = True  # of the layers that `gatewise.replace` makes

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
        learn_state: bool = False,
        **wrong: Any,
    ) -> None:
        self.reset_after = reset_after
        super().__init__(
            "GRU", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, 0,
            device, dtype, learn_state, wrong,
        )  # fmt: skip

    @property
    def cell(self) -> Graph:
        return cells.gru if self.reset_after else cells.gru_reset_before


class LSTM(TorchLayer):
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
        learn_state: as RNN, and so `c_0_l{layer}` too.

    hx and the returned state are pairs (h, c).

    Raises: ValueError, TypeError: as torch.nn.LSTM does.

    Source: Hochreiter and Schmidhuber 1997; projection: Sak et al. 2014, arXiv 1402.1128.
    """

    torch_class = nn.LSTM

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
        *,
        learn_state: bool = False,
        **wrong: Any,
    ) -> None:
        super().__init__(
            "LSTM", input_size, hidden_size, num_layers, bias, batch_first, dropout, bidirectional, proj_size,
            device, dtype, learn_state, wrong,
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
        learn_state: the states from which sequences begin are learned, one for each layer and direction.

    Parameters, each followed by `_l{layer}` and, in the second direction, `_reverse`; all drawn from
    U(-1/√H, 1/√H), as torch.nn does:
        weight_ih (G*H, I), weight_hh (G*H, P or H): the gates read from x, and those projected from states,
            each stacked in the order of the cell's `gates`.
        bias_ih, bias_hh (G*H,). weight_hr (P, H), of `.hr`. A learned vector (H,) by its own name, which starts
        from its default where it has one. With `learn_state`, `{state}_0` (H,) or (P,), zeros at first.

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
        learn_state: bool = False,
    ) -> None:
        super().__init__()
        if not isinstance(cell, Graph):
            raise TypeError(f"Recurrent: cell is {cell!r}, expected what @gatewise.cell(gates=…) makes of a function")
        check_options("Recurrent", input_size, hidden_size, num_layers, batch_first, dropout, bidirectional, proj_size)
        if not (isinstance(bias, bool) or bias == "input"):
            raise ValueError(f"Recurrent: bias is {bias!r}, expected True, False or 'input'")
        if dropout and num_layers == 1:
            warnings.warn(
                f"Recurrent: dropout={dropout} acts between layers, and num_layers is 1: it has no effect", stacklevel=2
            )
        if cell.projects_output != bool(proj_size):
            wants = f"0 < proj_size < hidden_size = {hidden_size}" if cell.projects_output else "0"
            has = "projects its output with .hr" if cell.projects_output else "has no .hr"
            raise ValueError(f"Recurrent: proj_size is {proj_size}, expected {wants}: {cell.name} {has}")
        self._cell, self.input_size, self.hidden_size, self.num_layers = cell, input_size, hidden_size, num_layers
        self.bias, self.batch_first, self.dropout = bias, batch_first, float(dropout)
        self.bidirectional, self.proj_size = bidirectional, proj_size
        self._all_weights: list[list[str]] = []
        for layer in range(num_layers):
            for suffix in self._suffixes(layer):
                size = input_size if layer == 0 else self._output_size * (2 if bidirectional else 1)
                shapes = {f"{name}{suffix}": shape for name, shape in self._shapes(size).items()}
                self._all_weights.append(list(shapes))
                for name, shape in shapes.items():
                    self.register_parameter(name, nn.Parameter(torch.empty(shape, device=device, dtype=dtype)))
        self.reset_parameters()
        self._learn_states(learn_state, device, dtype)

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

    def extra_repr(self) -> str:
        words = [self.cell.name, str(self.input_size), str(self.hidden_size)]
        plain = {
            "num_layers": 1,
            "bias": True,
            "batch_first": False,
            "dropout": 0.0,
            "bidirectional": False,
            "proj_size": 0,
            "learn_state": False,
        }
        words += [f"{k}={getattr(self, k)!r}" for k, v in plain.items() if getattr(self, k) != v]
        return ", ".join(words)
