"""Cells that gatewise does not have, as a user writes them, for cpu.py and gpu.py."""

from __future__ import annotations

import torch
import torch.nn.functional as F

import gatewise


@gatewise.cell(gates="f n")
def mgu(x, h):
    """The minimal gated unit. Zhou et al. 2016, arXiv 1603.09420."""
    f = torch.sigmoid(x.f + h.f)
    n = torch.tanh(x.n + (f * h).n)
    return (1 - f) * h + f * n


@gatewise.cell(gates="z i f o")
def slstm(x, h, c, n, m):
    """sLSTM: an exponential input gate, normaliser n, stabiliser m. Beck et al. 2024 (xLSTM), arXiv 2405.04517."""
    z = torch.tanh(x.z + h.z)
    o = torch.sigmoid(x.o + h.o)
    log_i = x.i + h.i
    log_f = -F.softplus(-(x.f + h.f))  # f = σ(…)
    m_t = torch.maximum(log_f + m, log_i)
    i = torch.exp(log_i - m_t)
    f = torch.exp(log_f + m - m_t)
    c = f * c + i * z
    n = f * n + i
    h = o * c / n
    return h, c, n, m_t
