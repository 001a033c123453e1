"""Every built-in cell, as its equations.

Notation: x_t is the input, h and c the states, ⊙ the element-wise product, σ the logistic function.
`x.r` reads W_ir x_t + b_ir, `h.r` reads W_hr h_{t-1} + b_hr; see `gatewise.cell`.
"""

import torch

from gatewise.graph.trace import cell


@cell(gates="n")
def rnn(x, h):
    """h_t = tanh(W_in x_t + b_in + W_hn h_{t-1} + b_hn): torch.nn.RNN. Elman, Cognitive Science 14, 1990."""
    return torch.tanh(x.n + h.n)


@cell(gates="n")
def rnn_relu(x, h):
    """h_t = relu(W_in x_t + b_in + W_hn h_{t-1} + b_hn): torch.nn.RNN(nonlinearity='relu'), arXiv 1504.00941."""
    return torch.relu(x.n + h.n)


@cell(gates="r z n")
def gru(x, h):
    """torch.nn.GRU: the reset gate acts on the product, after the projection. arXiv 1406.1078v3."""
    r = torch.sigmoid(x.r + h.r)
    z = torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + r * h.n)
    return (1 - z) * n + z * h


@cell(gates="r z n")
def gru_reset_before(x, h):
    """The GRU of the papers and of textbooks' code from scratch: the reset gate acts on the state.

    Another function than `gru`, not another way to write it: no weights make one the other.
    arXiv 1406.1078v1; d2l.ai, section 10.2.
    """
    r = torch.sigmoid(x.r + h.r)
    z = torch.sigmoid(x.z + h.z)
    n = torch.tanh(x.n + (r * h).n)
    return (1 - z) * n + z * h


@cell(gates="i f g o")
def lstm(x, h, c):
    """torch.nn.LSTM. Hochreiter and Schmidhuber, Neural Computation 9, 1997; forget gate: Gers et al., 2000."""
    i = torch.sigmoid(x.i + h.i)
    f = torch.sigmoid(x.f + h.f)
    g = torch.tanh(x.g + h.g)
    o = torch.sigmoid(x.o + h.o)
    c = f * c + i * g
    h = o * torch.tanh(c)
    return h, c


@cell(gates="i f g o")
def lstm_projected(x, h, c):
    """torch.nn.LSTM(proj_size=P): what leaves the cell is projected from H to P. arXiv 1402.1128."""
    h, c = lstm(x, h, c)
    return h.hr, c


@cell(gates="i f g o")
def lstm_peephole(x, h, c, *, p_i, p_f, p_o):
    """The LSTM whose gates see the cell state; o sees the new one. Gers et al., JMLR 3, 2002."""
    i = torch.sigmoid(x.i + h.i + p_i * c)
    f = torch.sigmoid(x.f + h.f + p_f * c)
    g = torch.tanh(x.g + h.g)
    c = f * c + i * g
    o = torch.sigmoid(x.o + h.o + p_o * c)
    h = o * torch.tanh(c)
    return h, c
