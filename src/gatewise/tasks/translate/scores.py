"""How good translations are: BLEU as the d2l book computes it, sacrebleu's, and exact matches."""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gatewise.errors import require
from gatewise.tasks.translate.data import Example
from gatewise.tasks.translate.translation import Translation, decoded

if TYPE_CHECKING:
    from gatewise.tasks.translate.model import Translator


def bleu(predicted: Sequence[str], right: Sequence[str], k: int = 2) -> float:
    """BLEU of one sentence, as the d2l book has it.

        exp(min(0, 1 - len(right) / len(predicted))) · Π_{n=1..k} p_n^(1/2^n)

    where p_n is the share of the predicted n-grams that are in the right sentence, each as often as it is there.
    A sentence of fewer than k tokens has only as many factors.

    Args:
        predicted, right: the tokens.
        k: the longest n-grams that are compared.

    Source: d2l.ai, section 9.7 of release 0.17, 10.7 of release 1.0; after Papineni et al. 2002.
    """
    if not predicted:
        return 0.0
    score = math.exp(min(0.0, 1 - len(right) / len(predicted)))
    for n in range(1, min(k, len(predicted)) + 1):
        there, made = _grams(right, n), _grams(predicted, n)
        score *= ((made & there).total() / made.total()) ** (0.5**n)
    return score


def _grams(tokens: Sequence[str], n: int) -> Counter[tuple[str, ...]]:
    return Counter(tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1))


def sacrebleu(predicted: Sequence[str], right: Sequence[Sequence[str]]) -> Any:
    """sacrebleu's score of a corpus, 0 to 100.

    Args:
        predicted: a sentence each.
        right: for each, one or several right translations.

    Returns:
        Its `score`, and with `format()` what it is made of. Defaults: 4-grams, tokenizer 13a, exponential smoothing.

    Raises:
        MissingPackageError: sacrebleu is not installed.
    """
    require("sacrebleu", extra="translate")
    from sacrebleu.metrics.bleu import BLEU

    most = max(map(len, right))
    streams: list[Any] = [[r[i] if i < len(r) else None for r in right] for i in range(most)]
    return BLEU(force=True).corpus_score(list(predicted), streams)  # force: no advice on ` .` at a sentence's end


@dataclass(frozen=True)
class Judged:
    """How a model translates sentences whose right translations are known.

    Args:
        translations: by the model, one for each different source.
        right: the right ones for each, as text.
        exact: the share that equals a right one.
        bleu: the mean over the sentences of the book's BLEU with k = 2, by the best right one.
        sacrebleu: of all together, 0 to 100.
    """

    translations: list[Translation]
    right: list[list[str]]
    exact: float
    bleu: float
    sacrebleu: float


def judge(model: "Translator", examples: Sequence[Example], *, beam: int = 1) -> Judged:
    """Translate examples' sources, each once, and compare with all their targets."""
    known: dict[tuple[str, ...], list[Example]] = {}
    for example in examples:
        known.setdefault(tuple(example.source), []).append(example)
    groups = list(known.values())
    made = decoded(model, [group[0].source_ids for group in groups], beam=beam)
    join = model.target.cutter.join
    right = [[join(example.target) for example in group] for group in groups]
    scores = [
        max(bleu(words(translation), example.target) for example in group)
        for translation, group in zip(made, groups, strict=True)
    ]
    hits = [translation.text in texts for translation, texts in zip(made, right, strict=True)]
    return Judged(
        made, right, sum(hits) / len(hits), sum(scores) / len(scores), sacrebleu([t.text for t in made], right).score
    )


def words(translation: Translation) -> list[str]:
    """A translation's tokens without `<eos>`."""
    return translation.target[:-1] if translation.target[-1:] == ["<eos>"] else translation.target
