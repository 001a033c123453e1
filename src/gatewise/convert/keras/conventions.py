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
    them. biases: rows of `bias`: 2 for (2, G*H), or 1 for (G*H,).
    """

    call: str
    gates: tuple[tuple[str, str], ...]
    biases: int


# By the cell, as a graph, and not by its name: a cell of the same name may have other equations.
LAYERS: dict[Graph, KerasLayer] = {
    cells.rnn: KerasLayer("SimpleRNN(H)", (("n", "h"),), 1),
    cells.rnn_relu: KerasLayer('SimpleRNN(H, activation="relu")', (("n", "h"),), 1),
    cells.gru: KerasLayer("GRU(H)", (("z", "z"), ("r", "r"), ("n", "h")), 2),
    cells.gru_reset_before: KerasLayer("GRU(H, reset_after=False)", (("z", "z"), ("r", "r"), ("n", "h")), 1),
    cells.lstm: KerasLayer("LSTM(H)", (("i", "i"), ("f", "f"), ("g", "c"), ("o", "o")), 1),
}
