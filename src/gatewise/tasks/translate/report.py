"""What a run reports of its translations."""

from gatewise.tasks.translate.data import Cutter
from gatewise.tasks.translate.scores import Judged, bleu, sacrebleu, words
from gatewise.tasks.translate.settings import SampleSettings
from gatewise.tasks.translate.translation import Translation

SHOWN = 5  # sentences that were held out, and mistakes


def report(samples: list[Translation], asked: SampleSettings, cutter: Cutter, judged: Judged | None) -> str:
    """The report: scores on held-out sentences and some of them, then the sentences that were asked for.

    Args:
        samples: translations of what was asked for.
        asked: with the right translations.
        cutter: of the target.
        judged: the held-out sentences, or None.
    """
    blocks = ["Nothing was held out (--holdout 0), so nothing is known of new sentences."]
    if judged is not None:
        blocks = [_scores(judged), *_held_out(judged)]
    if samples:
        blocks.append(_asked(samples, asked, cutter))
    return "\n\n".join(blocks) + "\n"


def _scores(judged: Judged) -> str:
    return (
        f"{len(judged.translations):,} held-out sentences\n"
        f"exact match    {judged.exact:.1%}\n"
        f"BLEU, k = 2    {judged.bleu:.3f}\n"
        f"sacrebleu      {judged.sacrebleu:.1f}"
    )


def _held_out(judged: Judged) -> list[str]:
    pairs = list(zip(judged.translations, judged.right, strict=True))
    wrong = [(t, right) for t, right in pairs if t.text not in right]
    blocks = ["\n".join(_sentence(t, None if t.text in right else right[0]) for t, right in pairs[:SHOWN])]
    if wrong:
        some = [(t, right) for t, right in pairs[SHOWN:] if t.text not in right][:SHOWN]  # others than above
        head = f"{len(wrong):,} {'is' if len(wrong) == 1 else 'are'} not as expected"
        head += f"; {len(some)} more of them:" if some else ""
        blocks.append("\n".join([head, *(_sentence(t, right[0]) for t, right in some)]))
    return blocks


def _sentence(translation: Translation, right: str | None) -> str:
    """The source, what was made of it and, where that is another, the right translation."""
    lines = [f"  {translation.source_text}", f"    → {translation.text}"]
    return "\n".join(lines if right is None else [*lines, f"    ≠ {right}"])


def _asked(samples: list[Translation], asked: SampleSettings, cutter: Cutter) -> str:
    lines = []
    for sample, source, right in zip(samples, asked.sources, asked.references, strict=True):
        score = bleu(words(sample), cutter.split(right))
        lines.append(f"  {source} → {sample.text}   (BLEU, k = 2: {score:.3f}; {right})")
    whole = sacrebleu([sample.text for sample in samples], [[right] for right in asked.references]).score
    return "\n".join([f"{len(samples)} sentences of the book; sacrebleu {whole:.1f} of all together", *lines])
