"""Keras's recurrent layers: what they are called, how they stack their gates, how many biases a gate has.

Keras stores `kernel` (I, G*H) and `recurrent_kernel` (H, G*H), the transposes of weight_ih and weight_hh, and `bias`.

Source: keras-team/keras, keras/src/layers/rnn/{simple_rnn,gru,lstm}.py, `build`.
"""

from dataclasses import dataclass

from gatewise import cells
from gatewise.graph.graph import Graph


@dataclass(frozen=True)
class KerasLayer:
    """One of Keras's layers.

    call: how it is made, but for its size. gates: pairs (ours, Keras's letter), in the order in which Keras stacks
    them. biases: rows of `bias`: 2 for (2, G*H), or 1 for (G*H,). activation, recurrent_activation: the values, by
    their names in the cell, that Keras makes with its arguments of these names.
    """

    call: str
    gates: tuple[tuple[str, str], ...]
    biases: int
    activation: tuple[str, ...]
    recurrent_activation: tuple[str, ...] = ()

    @property
    def kind(self) -> str:
        """The class: "SimpleRNN", "GRU" or "LSTM"."""
        return self.call.partition("(")[0]

    @property
    def order(self) -> str:
        """Our gates in Keras's order: "z r n"."""
        return " ".join(ours for ours, _ in self.gates)


_GRU = (("z", "z"), ("r", "r"), ("n", "h"))
_LSTM = (("i", "i"), ("f", "f"), ("g", "c"), ("o", "o"))
# By the cell, as a graph, and not by its name: a cell of the same name may have other equations.
LAYERS: dict[Graph, KerasLayer] = {
    cells.rnn: KerasLayer("SimpleRNN(H)", (("n", "h"),), 1, ("h",)),
    cells.rnn_relu: KerasLayer('SimpleRNN(H, activation="relu")', (("n", "h"),), 1, ("h",)),
    cells.gru: KerasLayer("GRU(H)", _GRU, 2, ("n",), ("r", "z")),
    cells.gru_reset_before: KerasLayer("GRU(H, reset_after=False)", _GRU, 1, ("n",), ("r", "z")),
    cells.lstm: KerasLayer("LSTM(H)", _LSTM, 1, ("g", "h"), ("i", "f", "o")),
}
