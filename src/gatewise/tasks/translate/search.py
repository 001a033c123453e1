"""From scores to sentences: the likeliest token each time, or a search with several at once."""

from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gatewise.tasks.translate.data import BOS, EOS, PAD

if TYPE_CHECKING:
    from gatewise.tasks.translate.model import Translator

NORM = 0.75  # the exponent of a sentence's length, as in the d2l book's section on beam search


class Found(NamedTuple):
    """A sentence that a search found.

    Args:
        ids: its tokens; `<eos>` at the end, unless the limit came first.
        log_p: the logarithm of its probability.
        weights: (len(ids), S) where each step looked, or None without attention.
    """

    ids: list[int]
    log_p: float
    weights: Tensor | None


@torch.no_grad()
def greedy(model: "Translator", source: Tensor, lengths: Tensor, limit: int) -> list[Found]:
    """The likeliest token at each step.

    Args:
        model: in evaluation mode.
        source: (S, B) tokens. lengths: (B,).
        limit: a sentence ends after so many tokens at the latest.
    """
    memory, state = model.read(source, lengths)
    y = source.new_full((source.shape[1],), BOS)
    ids, log_ps, looks = [], [], []
    over = torch.zeros_like(y, dtype=torch.bool)
    for _ in range(limit):
        scores, state, weights = model.decoder.step(y, state, memory)
        best = _log_p(scores).max(1)
        y = best.indices
        ids.append(y)
        log_ps.append(best.values.masked_fill(over, 0))
        looks.append(weights)
        over = over | (y == EOS)
        if over.all():
            break
    totals = torch.stack(log_ps).double().sum(0).tolist()
    found = []
    for b, row in enumerate(torch.stack(ids, 1).tolist()):
        row = row[: row.index(EOS) + 1] if EOS in row else row
        own = [w[: int(lengths[b]), b] for w in looks[: len(row)] if w is not None]
        found.append(Found(row, totals[b], torch.stack(own).cpu() if own else None))
    return found


@torch.no_grad()
def beam(model: "Translator", source: Tensor, width: int, limit: int, norm: float = NORM) -> Found:
    """The best of the sentences that a beam search meets.

    At each step the K likeliest continuations of the sentences at hand are kept; those that end are put aside. Of
    these, and of those that the limit cuts off, the one with the highest log p / length^norm is taken. A beam of 1
    is the greedy search.

    Args:
        model: in evaluation mode.
        source: (S,) one sentence's tokens.
        width: K.
        limit: a sentence ends after so many tokens at the latest.
        norm: 0 compares probabilities, which favours short sentences; 1 means per token.
    """
    memory, state = model.read(source.unsqueeze(1), torch.tensor([len(source)]))
    ids, log_p = source.new_full((1, 1), BOS), torch.zeros(1, dtype=torch.float64, device=source.device)
    looks: Tensor | None = None
    best, best_value = Found([EOS], -torch.inf, None), -torch.inf
    for length in range(1, limit + 1):
        scores, state, weights = model.decoder.step(ids[:, -1], state, memory.repeated(len(ids)))
        grown = log_p.unsqueeze(1) + _log_p(scores).double()
        log_p, chosen = grown.flatten().topk(min(width, grown.numel()))
        chosen, log_p = chosen[log_p > -torch.inf], log_p[log_p > -torch.inf]
        parent, token = chosen // grown.shape[1], chosen % grown.shape[1]
        ids = torch.cat((ids[parent], token.unsqueeze(1)), 1)
        if weights is not None:
            now = weights.T[parent].unsqueeze(1)
            looks = now if looks is None else torch.cat((looks[parent], now), 1)
        over = (token == EOS) | (length == limit)
        for row in over.nonzero().flatten().tolist()[:1]:  # they are in order, and equally long
            if (value := log_p[row].item() / length**norm) > best_value:
                found = Found(ids[row, 1:].tolist(), log_p[row].item(), None if looks is None else looks[row].cpu())
                best, best_value = found, value
        goes_on = (~over).nonzero().flatten()
        # A longer sentence is less likely; that it is divided by more helps it by so much at most.
        if not len(goes_on) or best_value >= log_p[goes_on[0]].item() / limit**norm:
            break
        ids, log_p, state = ids[goes_on], log_p[goes_on], _rows(state, parent[goes_on])
        looks = None if looks is None else looks[goes_on]
    return best


def _log_p(scores: Tensor) -> Tensor:
    """Logarithms of probabilities (B, V), of tokens that a sentence can have."""
    scores = scores.float().index_fill(1, torch.tensor([PAD, BOS], device=scores.device), -torch.inf)
    return scores.log_softmax(1)


def _rows(state: Any, rows: Tensor) -> Any:
    """The states of some samples."""
    return tuple(s[:, rows] for s in state) if isinstance(state, tuple) else state[:, rows]
