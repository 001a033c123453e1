"""Write the programs of several cells to a file, which driver.cpp reads.

All is numbers of 64 bits; a list begins with its length. Of each cell: its name; the size of each state, kept value and
mask, as csrc/program.h has it; whether each mask has steps; whether the cell projects its output, and how many vectors
it has; then the programs of its steps forward, forward keeping what backward needs, and backward.
"""

import struct
import sys
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.nn.functional as F

import gatewise
from gatewise import cells
from gatewise.scan.plan import backward_plan
from gatewise.scan.program import Compiled, backward_program, forward_program


@gatewise.cell(gates="a b")
def many_ops(x, h):
    a, b = x.a + h.a, 1 + torch.sigmoid(x.b + h.b)
    s = torch.relu(a) + torch.exp(-abs(a)) + torch.log(b) + torch.sqrt(b) + F.softplus(a) + F.elu(a) + F.leaky_relu(a)
    s = s + F.softsign(a) + F.hardsigmoid(a) + torch.clamp(a, -0.5, 0.5) + torch.minimum(a, b) + torch.maximum(a, b)
    s = s + torch.where(a < b, a, b) + torch.where(a <= h, a, h) + torch.where(a > b, b, h) + torch.where(a >= h, b, a)
    return torch.tanh((s - a**2 + b**3 - b**a - a / b) / 16)


CELLS = (
    many_ops,
    cells.rnn,
    cells.gru,
    cells.gru_reset_before,
    cells.lstm,
    cells.lstm_projected,
    cells.lstm_peephole,
    gatewise.layer_norm(cells.lstm),
    gatewise.layer_norm(cells.gru_reset_before),
    gatewise.zoneout(cells.lstm_projected, 0.1),
    gatewise.recurrent_dropout(cells.gru, 0.2),
)


def row(numbers: Iterable[int]) -> bytes:
    listed = list(numbers)
    return struct.pack(f"{len(listed) + 1}q", len(listed), *listed)


def program(compiled: Compiled) -> bytes:
    return b"".join(struct.pack("q", len(part) // 8) + part for part in (compiled.integers, compiled.numbers))


def described(cell: gatewise.Graph) -> bytes:
    extras = backward_plan(cell).extras
    kept = ["1" if i in cell.shared else cell.sizes[i] for i in extras]
    sizes = cell.state_sizes, kept, [cell.sizes[i] for i in cell.masks]
    parts = [row(map(ord, cell.name)), *(row(map("HP1".index, some)) for some in sizes)]
    parts.append(row(cell.nodes[i].op == "step_mask" for i in cell.masks))
    parts.append(struct.pack("2q", cell.projects_output, len(cell.vectors)))
    parts += map(program, (forward_program(cell, ()), forward_program(cell, extras), backward_program(cell)))
    return b"".join(parts)


Path(sys.argv[1]).write_bytes(struct.pack("q", len(CELLS)) + b"".join(map(described, CELLS)))
