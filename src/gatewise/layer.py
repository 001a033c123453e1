"""What every layer does: layers of a cell over a sequence, in one or two directions, from the parameters by name.

From here it is two hops to the arithmetic: a layer calls, by way of scan/directions.py, `scan/fused.py`, which has the
C++ kernels run the cell's graph (cells.py) step by step, or goes by its stages to another executor: scan/cuda.py on a
GPU, or scan/reference.py, the specification.
"""

from __future__ import annotations

import math
from contextlib import nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

from gatewise import quick
from gatewise.border import check_indices, check_input, check_lengths, check_resets, check_states, compute_dtype
from gatewise.convert.onnx import export as onnx
from gatewise.graph.graph import Graph, walk
from gatewise.scan import directions
from gatewise.scan.executors import watch
from gatewise.scan.plan import Inputs
from gatewise.scan.stages import draw_masks
from gatewise.torch_compat import TorchCompat

State = Tensor | tuple[Tensor, ...]


def explain(layer: Layer, input: Any, hx: State | None = None, **options: Any) -> str:
    """Which executor runs each layer and direction for this input, and why: a line each.

    Args:
        layer: a layer of gatewise's. input, hx, options: as the layer takes them; it is run once.

    Raises TypeError: it is another module.
    """
    if not isinstance(layer, Layer):
        raise TypeError(f"explain: got {type(layer).__name__}, expected a layer of gatewise's; of a model, give each")
    suffixes = [s.removeprefix("_") for k in range(layer.num_layers) for s in layer._suffixes(k)]
    with watch() as lines, torch.no_grad():
        layer(input, hx, **options)
    return "\n".join(f"{suffix}: {line}" for suffix, line in zip(suffixes, lines, strict=True))


def _time_major(tensor: Tensor, layout: str) -> Tensor:
    """(T, B, …) of what has the axes "TB", "BT", "T", "B" or none before its others."""
    if layout == "BT":
        return tensor.transpose(0, 1)
    if layout == "TB":
        return tensor
    if layout == "T":
        return tensor.unsqueeze(1)
    return tensor.unsqueeze(0) if layout == "B" else tensor.unsqueeze(0).unsqueeze(0)


class Layer(TorchCompat):
    """What every layer does with its parameters."""

    input_size: int
    hidden_size: int
    num_layers: int
    batch_first: bool
    dropout: float
    bidirectional: bool
    proj_size: int
    learn_state: bool = False
    executor: str = "auto"  # what runs the steps; "reference", "cpu" or "cuda" fails where it can't run
    recompute: int | None = None  # backward runs stretches of so many steps again: less memory, more time
    one_step: bool = False  # of RNNCell, GRUCell, LSTMCell, whose hx has no axis of layers

    @property
    def cell(self) -> Graph:
        """The cell, as the graph that runs; in evaluation `cell.expected` does."""
        raise NotImplementedError

    @property
    def _running_cell(self) -> Graph:
        """The cell as it runs now: in evaluation its random masks are their expectations."""
        return self.cell if self.training else self.cell.expected

    @property
    def _weight(self) -> Tensor:
        """The parameter that stands for all where dtype and device are asked for."""
        # A parametrized one would be computed anew, so then it is any other.
        weight = self._parameters.get(f"weight_ih{self._suffixes(0)[0]}")
        return next(self.parameters()) if weight is None else weight

    def forward(
        self,
        input: Tensor | PackedSequence,
        hx: State | None = None,
        lengths: Tensor | None = None,
        resets: Tensor | None = None,
    ) -> tuple[Any, State]:
        """Run the layer over a sequence.

        Args:
            input: (T, B, I), or (B, T, I) with `batch_first`, or unbatched (T, I), in the weights' dtype; or
                integers (T, B), (B, T) or (T,), which mean one-hot vectors of `input_size` without building them;
                or a PackedSequence of either.
            hx: the state before the first step, as `initial_state(batch)` gives it, which is what None means.
                Without the batch's axis for unbatched input; in the order of the unsorted batch for packed input.
            lengths: (B,) integers from 1 to T, in any order, on any device: how many steps of each sample are its
                sequence. Beyond them the input is not looked at and the output is 0; the final states are those
                at the end, where the reverse direction begins. Values on a GPU are read there, which waits for it.
            resets: booleans, or numbers that are 0 or 1, laid out as input, (T, B), (B, T) or (T,): where true,
                sample b's sequence is cut between t-1 and t, as if the pieces were run on their own. Of an
                environment's signals it is `episode_starts[t]`, that is `done[t-1]`. The state becomes
                `initial_state`'s, and never hx, which is the state before the first piece; so a reset at t = 0
                discards hx. The reverse direction is cut at the same place: its hx is the state before the last
                piece. Numbers on a GPU are read there, which waits for it; in compiled and mapped code, where they
                can't be read, any but 0 cuts.

        Returns:
            output: the last layer's output at each step, laid out as `input` (packed, if that is), of size
                D * `proj_size` (or D * `hidden_size`), where D is 2 if bidirectional, forward direction first.
            state: after the last step, like hx. For two directions, the reverse one's is that after its
                own last step, which is the sequence's first.

        Raises:
            RuntimeError, ValueError: a shape, a dtype or a device does not fit. IndexError: an integer is
                outside [0, input_size). TypeError: an argument is no tensor. As torch.nn's layers do.

        Under autocast all is computed in autocast's dtype, as torch's LSTM and RNN do. The output is kept for
        backward, so changing it in place raises there.
        """
        if not isinstance(input, PackedSequence):
            layout = "BT" if self.batch_first else "TB"
            if lengths is None and resets is None and (done := quick.run(self, input, hx, layout)):
                return done
            return self._forward(input, hx, lengths, resets, layout)
        if lengths is not None:
            raise ValueError(f"{type(self).__name__}: lengths with a packed input, which brings its own; drop one")
        check_input(self, input.data, "N")
        if onnx.exporting():
            raise NotImplementedError(
                f"{type(self).__name__}: a packed sequence in torch.onnx.export; give lengths= and a padded one instead"
            )
        layout = "BT" if self.batch_first else "TB"
        padded, lengths = pad_packed_sequence(input, batch_first=self.batch_first)
        output, state = self._forward(padded, hx, lengths, resets, layout)
        output = output.transpose(0, 1) if self.batch_first else output
        order = input.sorted_indices
        if order is not None:
            output, lengths = output.index_select(1, order), lengths[order.to(lengths.device)]
        data = pack_padded_sequence(output, lengths).data
        return PackedSequence(data, input.batch_sizes, order, input.unsorted_indices), state

    def step(self, x_t: Tensor, state: State | None = None, resets: Tensor | None = None) -> tuple[Tensor, State]:
        """Run the layer for one step, for streaming use: the same numbers as in the whole sequence.

        Args:
            x_t: (B, I), or unbatched (I,), or integers (B,) or () for one-hot.
            state: the state before the step, as `initial_state(batch)` gives it, which is what None means.
            resets: (B,) or () booleans, or 0 and 1: samples that begin a new sequence with this step.

        Returns: the last layer's output, (B, size) or (size,), and the state after the step.

        Raises:
            RuntimeError: two directions, of which one would need the steps to come; or in training a cell with
                a mask that is drawn once a sequence, of which one step knows nothing.
            And what `forward` raises.
        """
        if resets is None and (done := quick.run(self, x_t, state, "B")):
            return done
        name = type(self).__name__
        if self.bidirectional:
            raise RuntimeError(f"{name}: step() of two directions: the reverse one needs the steps to come")
        if self.training and any(walk(self.cell, "sequence_mask")):
            raise RuntimeError(
                f"{name}: step() in training of {self.cell.name}, whose mask is drawn once a sequence; "
                "call layer.eval(), or run the sequence in one call"
            )
        return self._forward(x_t, state, None, resets, "B")

    def _forward(
        self, input: Any, hx: State | None, lengths: Tensor | None, resets: Tensor | None, layout: str
    ) -> tuple[Tensor, State]:
        """`forward` of what is not packed; see `check_input` for layout."""
        batched = check_input(self, input, layout)
        layout = layout if batched else layout.replace("B", "")
        cuts = check_resets(self, resets, layout, tuple(input.shape[: len(layout)]))
        x = _time_major(input, layout)
        steps, batch = x.shape[:2]
        states = check_states(self, hx, batch, batched)
        active = check_lengths(self, lengths, steps, batch, batched)
        if resets is not None:
            cuts = _time_major(cuts, layout)
        if lengths is not None:
            longest = active.shape[0]
            x, cuts = x[:longest], cuts[:longest]
            cuts = cuts & active if resets is not None else cuts
            mask = active if x.dim() == 2 else active.unsqueeze(2)
            x = torch.where(mask, x, torch.zeros_like(x))  # what lies there may be NaN or out of range
        check_indices(self, x)
        dtype = compute_dtype(self._weight)
        if x.dtype.is_floating_point:
            x = x.to(dtype)
        for recorder in self._recorders:
            recorder.steps = steps  # beyond the longest sequence nothing runs
        # Autocast has had its say here: within a step it would cast back and forth.
        with torch.autocast(x.device.type, enabled=False) if dtype != self._weight.dtype else nullcontext():
            x, finals = self._run_layers(x, tuple(s.to(dtype) for s in states), cuts, active)
        if lengths is not None and longest is not steps:
            x = F.pad(x, (0, 0, 0, 0, 0, steps - longest))
        if layout == "BT":
            x = x.transpose(0, 1)
        elif layout != "TB":
            x = x.squeeze(1) if "T" in layout else x.squeeze(0) if batched else x.squeeze(1).squeeze(0)
        if not batched:
            finals = tuple(s.squeeze_(1) for s in finals)  # in place, so that it can be detached in place
        return x, finals if len(finals) > 1 else finals[0]

    def _run_layers(
        self, x: Tensor, states: tuple[Tensor, ...], resets: Tensor, active: Tensor
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """All layers and directions, time-major: the last layer's output, and the final states as hx has them."""
        finals: list[tuple[Tensor, ...]] = []
        directions = 2 if self.bidirectional else 1
        as_node = onnx.exporting() and not resets.shape[0] and onnx.native(self._running_cell)
        for layer in range(self.num_layers):
            before = tuple(s[layer * directions : (layer + 1) * directions] for s in states)
            if as_node:
                x, after = onnx.run_layer(self, x, before, active, layer)
                finals += zip(*(s.unbind(0) for s in after), strict=True)
            else:
                made = self._run(x, before, resets, active, self._suffixes(layer))
                finals += [final for _, final in made]
                x = made[0][0] if len(made) == 1 else torch.cat([output for output, _ in made], -1)
            if self.dropout and layer < self.num_layers - 1:
                x = F.dropout(x, self.dropout, self.training)
        return x, tuple(torch.stack(parts) for parts in zip(*finals, strict=True))

    def _suffixes(self, layer: int) -> tuple[str, ...]:
        """What follows the names of the parameters of one layer, for each direction."""
        return (f"_l{layer}", f"_l{layer}_reverse") if self.bidirectional else (f"_l{layer}",)

    def _run(
        self,
        x: Tensor,
        states: tuple[Tensor, ...],
        resets: Tensor,
        active: Tensor,
        suffixes: tuple[str, ...],
    ) -> list[tuple[Tensor, tuple[Tensor, ...]]]:
        """One layer in its directions, time-major: the output and the final states of each."""
        cell, dtype = self._running_cell, states[0].dtype
        given = []
        for k, suffix in enumerate(suffixes):
            # Parameters are read by name, so that functional_call and parametrizations are seen.
            weight_ih, bias_ih = getattr(self, f"weight_ih{suffix}"), getattr(self, f"bias_ih{suffix}", None)
            inputs = self._inputs(x, tuple(s[k] for s in states), resets, active, suffix)
            bias_ih = None if bias_ih is None else bias_ih.to(dtype)
            given.append(directions.Direction(inputs, weight_ih.to(dtype), bias_ih))
        for recorder in self._recorders:
            cell = recorder.watch(cell)
        if onnx.exporting():
            made = [onnx.run_scan(cell, flip > 0, self.executor, *direction) for flip, direction in enumerate(given)]
        else:
            made = directions.run(cell, self.executor, given, self.recompute)
        for suffix, (output, _, watched) in zip(suffixes, made, strict=True):
            for recorder in self._recorders:
                recorder.take(suffix, cell, output, dict(zip(cell.watched, watched, strict=True)), active)
        return [(output, final) for output, final, _ in made]

    def _inputs(self, x: Tensor, states: tuple[Tensor, ...], resets: Tensor, active: Tensor, suffix: str) -> Inputs:
        """What one layer's scan in one direction reads, with the input itself for x."""
        dtype = states[0].dtype
        weight_hh, bias_hh, weight_hr, vectors = (w.to(dtype) for w in self._recurrent_weights(suffix))
        initial = self._initial(suffix, resets).to(dtype)
        sizes = {"H": self.hidden_size, "P": self._output_size}
        masks = draw_masks(self._running_cell, x.shape[0], x.shape[1], sizes, states[0])
        if suffix.endswith("_reverse"):
            # What is not active lies at the front then, where hx is held until the sequence's end.
            active = active.flip(0)
            if resets.shape[0]:
                # A cut between t-1 and t comes, on the way back, before t-1: one step later. (Rolled and not sliced,
                # since a size of T-1 would make torch.compile treat T = 2 apart.)
                first = torch.arange(resets.shape[0], device=resets.device).unsqueeze(1) == 0
                resets = resets.flip(0).roll(1, 0) & ~first
        return Inputs(x, weight_hh, bias_hh, weight_hr, vectors, initial, states, resets, active, masks)

    def _recurrent_weights(self, suffix: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """weight_hh, bias_hh, weight_hr and the learned vectors; empty or zero where the cell has none."""
        cell, size = self.cell, self.hidden_size
        like = self._weight
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

    def _initial(self, suffix: str, resets: Tensor) -> Tensor:
        """The state after a reset, each state's in a row; empty where nothing is reset."""
        if not resets.shape[0]:
            return self._weight.new_zeros(0)
        if self.learn_state:
            return torch.cat([getattr(self, f"{state}_0{suffix}") for state in self.cell.states])
        return self._weight.new_zeros(sum(shape[2] for shape in self.state_shapes(1)))

    @property
    def _output_size(self) -> int:
        return self.proj_size or self.hidden_size

    def state_shapes(self, batch: int) -> list[tuple[int, int, int]]:
        """The shape of each state in hx: (L * D, B, `hidden_size` or `proj_size`)."""
        directions = 2 if self.bidirectional else 1
        sizes = {"H": self.hidden_size, "P": self._output_size}
        return [(self.num_layers * directions, batch, sizes[s]) for s in self.cell.state_sizes]

    def initial_state(self, batch: int) -> State:
        """The state from which sequences begin: zeros or, with `learn_state`, what was learned.

        Returns: a tensor (L * D, B, size), or a tuple of one for each state, such as (h, c) of an LSTM;
        on the weights' device and in their dtype.
        """
        states = self._initial_states(batch)
        return states if len(states) > 1 else states[0]

    def _initial_states(self, batch: int) -> tuple[Tensor, ...]:
        if self.learn_state:
            suffixes = [suffix for layer in range(self.num_layers) for suffix in self._suffixes(layer)]
            rows = [torch.stack([getattr(self, f"{s}_0{suffix}") for suffix in suffixes]) for s in self.cell.states]
            return tuple(r.unsqueeze(1).expand(-1, batch, -1) for r in rows)
        return tuple(self._weight.new_zeros(shape) for shape in self.state_shapes(batch))

    def extra_repr(self) -> str:
        words = [super().extra_repr()]
        words += ["reset_after=False"] if not getattr(self, "reset_after", True) else []
        words += ["learn_state=True"] if self.learn_state else []
        return ", ".join(words)

    def _learn_states(self, learn_state: bool, device: Any, dtype: Any) -> None:
        """Register the states that are learned, `{state}_0_l{layer}{_reverse}`, zeros at first."""
        if not isinstance(learn_state, bool):
            raise TypeError(f"{type(self).__name__}: learn_state is {learn_state!r}, expected True or False")
        self.learn_state = learn_state
        for layer in range(self.num_layers if learn_state else 0):
            for suffix in self._suffixes(layer):
                for state, shape in zip(self.cell.states, self.state_shapes(1), strict=True):
                    if f"{state}_0" in self.cell.vectors:
                        raise ValueError(f"{type(self).__name__}: the cell has a vector {state}_0; rename it")
                    zeros = torch.zeros(shape[2], device=device, dtype=dtype)
                    self.register_parameter(f"{state}_0{suffix}", nn.Parameter(zeros))

    def reset_parameters(self) -> None:
        """Draw every parameter from U(-1/√H, 1/√H), as torch.nn does, but learned states, which become zero, and
        vectors that have a number of their own to start from."""
        bound = 1 / math.sqrt(self.hidden_size) if self.hidden_size else 0.0
        starts = {node.key: dict(node.params) for _, node in walk(self.cell, "vector")}
        starts |= {f"{state}_0": {"initial": 0.0} for state in self.cell.states if self.learn_state}
        for name, parameter in self.named_parameters():
            start = starts.get(name.rpartition("_l")[0], {})
            if "initial" in start:
                nn.init.constant_(parameter, start["initial"])
            else:
                nn.init.uniform_(parameter, -bound, bound)
