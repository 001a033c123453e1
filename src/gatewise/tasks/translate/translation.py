"""Sentences in, sentences out: what is checked before a search, and what comes of it."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gatewise.errors import InputError, shortened
from gatewise.tasks.models import evaluating
from gatewise.tasks.translate.data import Language, padded
from gatewise.tasks.translate.search import Found, beam, greedy

if TYPE_CHECKING:
    from gatewise.tasks.translate.model import Translator

BATCH = 128  # sentences side by side; more gain nothing


@dataclass(frozen=True)
class Translation:
    """What a model makes of a sentence; `print` shows the target.

    Args:
        text: the target.
        source_text: the sentence as the model read it.
        source: its tokens, `<eos>` last.
        target: the target's tokens; `<eos>` last, unless the limit came first.
        log_p: the logarithm of the target's probability.
        weights: (len(target), len(source)) where each step looked, or None for a model without attention.
    """

    text: str
    source_text: str
    source: list[str]
    target: list[str]
    log_p: float
    weights: Tensor | None = field(repr=False)

    def __str__(self) -> str:
        return self.text


def translations(
    model: "Translator", texts: Sequence[str], *, beam: int = 1, unknown: bool = False
) -> list[Translation]:
    """Translate sentences. Dropout is off, and torch's global random state is left alone.

    Args:
        model: the model.
        texts: the sentences, each of at least one token.
        beam: K, the sentences that a beam search holds; 1 takes the likeliest token each time.
        unknown: read words that are not in the vocabulary as `<unk>` rather than refuse them.

    Raises:
        InputError: a sentence is empty, too long or has unknown words, or the beam is less than 1.
    """
    if beam < 1:
        raise InputError(f"beam must be 1 (the likeliest token each time) or more; got {beam}")
    cut = [model.source.cutter.split(text) for text in texts]
    for text, tokens in zip(texts, cut, strict=True):
        check(model.source, text, tokens, model.longest, unknown)
    return decoded(model, [model.source.encode(tokens) for tokens in cut], beam=beam)


def decoded(model: "Translator", sources: Sequence[list[int]], *, beam: int = 1) -> list[Translation]:
    """Translate sentences that are numbers already, `<eos>` last; see `translations`."""
    with evaluating(model):
        found = _found(model, sources, beam)
    return [
        Translation(
            model.target.decode(f.ids),
            model.source.decode(source),
            [model.source.tokens[i] for i in source],
            [model.target.tokens[i] for i in f.ids],
            f.log_p,
            f.weights,
        )
        for source, f in zip(sources, found, strict=True)
    ]


def _found(model: "Translator", sources: Sequence[list[int]], width: int) -> list[Found]:
    device = model.decoder.output.weight.device
    if width > 1:
        return [beam(model, torch.tensor(source, device=device), width, model.longest) for source in sources]
    found: list[Found] = []
    for first in range(0, len(sources), BATCH):
        ids, lengths = padded(list(sources[first : first + BATCH]))
        found += greedy(model, ids.to(device), lengths, model.longest)
    return found


def check(language: Language, text: str, tokens: list[str], longest: int, unknown: bool) -> None:
    """Check that a sentence can be translated.

    Raises:
        InputError: it is empty, too long or, unless these are to be `<unk>`, has unknown words.
    """
    if not tokens or not text.strip():
        raise InputError("the sentence is empty: give at least one word")
    if len(tokens) >= longest:
        raise InputError(
            f"{shortened(text, 60)} has {len(tokens)} tokens, and the model takes up to {longest - 1}: split it,"
            " or train with a higher --longest"
        )
    strange = language.unknown(tokens)
    if strange and not unknown:
        guesses = [difflib.get_close_matches(word, language.tokens[4:], n=1, cutoff=0.75) for word in strange]
        near = ", ".join(f"{guess[0]} for {word}" for word, guess in zip(strange, guesses, strict=True) if guess)
        raise InputError(
            f"the model never saw {', '.join(map(repr, strange))} in {shortened(text, 60)}: use only words it was"
            + " trained on"
            + (f" (such as {near})" if near else "")
            + ", or have them read as <unk> with --unknown"
        )
