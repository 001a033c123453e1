"""What Keras does around a recurrent layer: masks, directions, initial states, and what it returns.

A step that is masked changes no state, and its output is that of the step before it (zeros before the first). So the
steps that count are moved to the front of each sample, the layer runs over those, and the outputs are dealt out
again: exact for every mask, at the speed of the layer.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gatewise.layer import Layer

MERGES = ("concat", "sum", "mul", "ave", "none")


class KerasRNN(nn.Module):
    """One of gatewise's layers, or several on top of each other, run as Keras runs its RNN or Bidirectional.

    Args:
        layers: by name, batch first.
        runs: which of them are run on top of each other, and whether over the sequence from its end; two runs are
            two directions, and so is one run of bidirectional layers.
        merge: of two directions: "concat", "sum", "mul", "ave", or "none", which returns both.
        return_sequences, return_state, stateful, zero_output_for_mask: as in Keras.
        time_major: input and output are (T, B, …), as an option of Keras 2 has it.

    Called as (x, *states, mask=None): x (B, T, I); states (B, H) each, those of the first direction first; mask
    (B, T), True where a step counts. Returns the output, or a tuple of outputs and states where there are several.

    Raises: ValueError: the number of states is wrong; or a stateful layer is given another batch size than before.
    """

    def __init__(
        self,
        layers: Mapping[str, Layer],
        runs: Sequence[tuple[Sequence[str], bool]],
        *,
        merge: str = "concat",
        return_sequences: bool = False,
        return_state: bool = False,
        stateful: bool = False,
        zero_output_for_mask: bool = False,
        time_major: bool = False,
    ) -> None:
        super().__init__()
        for name, layer in layers.items():
            self.add_module(name, layer)
        self.runs = tuple((tuple(names), backwards) for names, backwards in runs)
        self.merge, self.return_sequences, self.return_state = merge, return_sequences, return_state
        self.stateful, self.zero_output_for_mask, self.time_major = stateful, zero_output_for_mask, time_major
        self.kept: list[Tensor] | None = None  # a stateful layer's states, from one call to the next

    def reset_states(self) -> None:
        """Let a stateful layer begin anew."""
        self.kept = None

    def forward(self, x: Tensor, *states: Tensor, mask: Tensor | None = None) -> Any:
        x = x.transpose(0, 1) if self.time_major else x
        given = list(states) or (self.kept if self.stateful else None) or None
        if given is not None and len(given) != self._count():
            raise ValueError(f"KerasRNN: {len(given)} states, expected {self._count()}")
        if given is not None and given[0].shape[0] != x.shape[0]:
            raise ValueError(f"KerasRNN: states of batch size {given[0].shape[0]}, expected {x.shape[0]}; a stateful "
                             "layer needs reset_states() before another batch size")  # fmt: skip
        sequences: list[Tensor] = []
        lasts: list[Tensor] = []
        finals: list[Tensor] = []
        for names, backwards in self.runs:
            layers = [self.get_submodule(name) for name in names]
            taken = None if given is None else given[len(finals) : len(finals) + self._count(layers)]
            outputs, after = self._run(layers, backwards, x, taken, mask)
            finals += after
            for k, output in enumerate(outputs):
                last_is_first = k == 1  # the reverse direction of a bidirectional layer, in the order of time
                lasts.append(output[:, 0] if last_is_first else output[:, -1])
                # A second direction is turned back to the order of time; alone, Keras leaves it as it ran.
                sequences.append(output.flip(1) if backwards and len(self.runs) > 1 else output)
        if self.stateful:
            self.kept = [s.detach() for s in finals]
        results = sequences if self.return_sequences else lasts
        if self.time_major and self.return_sequences:
            results = [r.transpose(0, 1) for r in results]
        results = results if len(results) == 1 else self._merged(*results)
        if self.return_state:
            results = [*results, *finals]
        return results[0] if len(results) == 1 else tuple(results)

    def _merged(self, one: Tensor, two: Tensor) -> list[Tensor]:
        if self.merge == "concat":
            return [torch.cat([one, two], -1)]
        if self.merge == "none":
            return [one, two]
        return [one * two if self.merge == "mul" else (one + two) / 2 if self.merge == "ave" else one + two]

    def _count(self, layers: Sequence[nn.Module] | None = None) -> int:
        """How many states there are, (B, H) each."""
        every = [m for m in self.children() if isinstance(m, Layer)] if layers is None else layers
        return sum(len(layer.cell.states) * (2 if layer.bidirectional else 1) for layer in every)  # type: ignore[union-attr, arg-type, misc]

    def _run(
        self, layers: Sequence[Any], backwards: bool, x: Tensor, states: Sequence[Tensor] | None, mask: Tensor | None
    ) -> tuple[list[Tensor], list[Tensor]]:
        """Layers on top of each other: the last one's output (B, T, H) for each direction, and the final states."""
        if backwards:
            x, mask = x.flip(1), None if mask is None else mask.flip(1)
        lengths = None
        if mask is not None:
            mask = mask.to(torch.bool)
            counts = mask.sum(1)
            lengths = counts.clamp(min=1)  # a sample without any step is mended below
            # Each key but once, since exporters know no stable sort.
            steps = torch.arange(mask.shape[1], device=mask.device)
            order = torch.argsort(torch.where(mask, steps, steps + mask.shape[1]), dim=1)
            x = x.gather(1, order.unsqueeze(2).expand_as(x))
        finals: list[Tensor] = []
        for layer in layers:
            number, sides = len(layer.cell.states), 2 if layer.bidirectional else 1
            if states is None:
                before = list(layer._initial_states(x.shape[0]))
            else:
                part = states[len(finals) : len(finals) + number * sides]
                before = [torch.stack([part[d * number + k] for d in range(sides)]) for k in range(number)]
            x, after = layer(x, tuple(before) if number > 1 else before[0], lengths=lengths)
            after = after if isinstance(after, tuple) else (after,)
            if mask is not None:
                some = (counts > 0).unsqueeze(1)
                after = tuple(torch.where(some, a, b) for a, b in zip(after, before, strict=True))
            finals += [after[k][d] for d in range(sides) for k in range(number)]
        outputs = list(x.chunk(2, 2)) if layers[-1].bidirectional else [x]
        if mask is not None:
            done = mask.cumsum(1)  # how many steps counted up to each one
            places = [done - 1, done - mask.long()]  # the last that counted, and on the way back the next
            outputs = [self._dealt(o, p, counts, mask) for o, p in zip(outputs, places, strict=False)]
        return outputs, finals

    def _dealt(self, output: Tensor, place: Tensor, counts: Tensor, mask: Tensor) -> Tensor:
        """The output of the step at each place, zeros where there is none."""
        inside = (place >= 0) & (place < counts.unsqueeze(1))
        if self.zero_output_for_mask:
            inside = inside & mask
        place = place.clamp(0, output.shape[1] - 1)
        taken = output.gather(1, place.unsqueeze(2).expand_as(output))
        return torch.where(inside.unsqueeze(2), taken, torch.zeros_like(taken))

    def extra_repr(self) -> str:
        words = [f"merge={self.merge!r}"] if self._sides() > 1 else []
        words += ["backwards"] if len(self.runs) == 1 and self.runs[0][1] else []
        flags = ("return_sequences", "return_state", "stateful", "zero_output_for_mask", "time_major")
        return ", ".join(words + [f for f in flags if getattr(self, f)])

    def _sides(self) -> int:
        return len(self.runs) + any(isinstance(m, Layer) and m.bidirectional for m in self.children())
