"""RNNCell, GRUCell and LSTMCell, which stand in for torch.nn's: one step of one layer, for loops of one's own.

Any layer of one direction takes one step, too, all its layers: `Layer.step`.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from gatewise import cells
from gatewise.graph.graph import Graph
from gatewise.layer import Layer, State


class SingleStep(Layer):
    """A layer of one step, whose parameters have torch.nn's names: `weight_ih` and so on, without `_l0`."""

    one_step = True
    num_layers = 1
    batch_first = False
    dropout = 0.0
    bidirectional = False
    proj_size = 0

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        return ("",)

    def initial_state(self, batch: int) -> State:
        """The zeros that fit as hx for this many samples: (B, H), of an LSTMCell a pair of these."""
        states = tuple(s.squeeze(0) for s in self._initial_states(batch))
        return states if len(states) > 1 else states[0]

    def forward(self, input: Tensor, hx: State | None = None) -> State:  # type: ignore[override]
        """Run the cell for one step.

        Args:
            input: (B, I), or unbatched (I,), in the weights' dtype; or integers (B,) or () for one-hot.
            hx: the state before the step, (B, H) or (H,), of an LSTMCell a pair of these; zeros if None.

        Returns: the state after the step, like hx.

        Raises:
            RuntimeError, ValueError: a shape, a dtype or a device does not fit. IndexError: an integer is
                outside [0, input_size). TypeError: input or hx is no tensor.
        """
        _, state = self._forward(input, hx, None, None, "B")
        # In place: loops that carry a state detach it in place, which a view could not be.
        return tuple(s.squeeze_(0) for s in state) if isinstance(state, tuple) else state.squeeze_(0)


class RNNCell(SingleStep, nn.RNNCellBase):
    """One step of an Elman RNN, as torch.nn.RNNCell.

        h' = tanh(W_ih x + b_ih + W_hh h + b_hh)        or relu instead of tanh

    Args:
        input_size, hidden_size, bias, device, dtype: as torch.nn.RNNCell takes them; the parameters' names, shapes
            and initial values are torch's too.
        nonlinearity: "tanh" or "relu".

    Raises: RuntimeError, as torch.nn's, but here already: nonlinearity is another.
    """

    torch_class = nn.RNNCell

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        nonlinearity: str = "tanh",
        device: Any = None,
        dtype: Any = None,
    ) -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise RuntimeError(f"RNNCell: nonlinearity is {nonlinearity!r}, expected 'tanh' or 'relu'")
        self.nonlinearity = nonlinearity
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=1, device=device, dtype=dtype)

    @property
    def cell(self) -> Graph:
        return cells.rnn if self.nonlinearity == "tanh" else cells.rnn_relu


class GRUCell(SingleStep, nn.RNNCellBase):
    """One step of a gated recurrent unit, as torch.nn.GRUCell; the equations are those of `gatewise.GRU`.

    Args:
        input_size, hidden_size, bias, device, dtype: as torch.nn.GRUCell takes them; the parameters' names, shapes
            and initial values are torch's too.
        reset_after: False gives the GRU of the papers; see `gatewise.GRU`.
    """

    torch_class = nn.GRUCell
    reset_after: bool = True  # of the layers that `gatewise.replace` makes

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        bias: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        reset_after: bool = True,
    ) -> None:
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=3, device=device, dtype=dtype)
        self.reset_after = reset_after

    @property
    def cell(self) -> Graph:
        return cells.gru if self.reset_after else cells.gru_reset_before


class LSTMCell(SingleStep, nn.RNNCellBase):
    """One step of a long short-term memory, as torch.nn.LSTMCell; the equations are those of `gatewise.LSTM`.

    Args:
        input_size, hidden_size, bias, device, dtype: as torch.nn.LSTMCell takes them; the parameters' names, shapes
            and initial values are torch's too.

    hx and what is returned are pairs (h, c).
    """

    torch_class = nn.LSTMCell

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, device: Any = None, dtype: Any = None
    ) -> None:
        nn.RNNCellBase.__init__(self, input_size, hidden_size, bias, num_chunks=4, device=device, dtype=dtype)

    @property
    def cell(self) -> Graph:
        return cells.lstm
