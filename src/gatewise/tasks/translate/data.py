"""Pairs of sentences: read, cut into tokens, numbered, and put into batches."""

import hashlib
import random
import re
import zipfile
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

from gatewise.errors import InputError, shortened, string
from gatewise.tasks.download import fetch
from gatewise.tasks.files import read_text
from gatewise.tasks.translate.settings import DataSettings
from gatewise.tasks.translate.timetable import pairs as timetable

FRA_ENG_URL = "http://d2l-data.s3-accelerate.amazonaws.com/fra-eng.zip"
FRA_ENG_SHA1 = "94646ad1522d915e7b0f9296181140edcf86a4f5"

SPECIAL = ("<unk>", "<pad>", "<bos>", "<eos>")  # in the d2l book's order
UNKNOWN, PAD, BOS, EOS = range(4)

TIMETABLE = 4_000  # pairs, where no number is given

Pair = tuple[str, str]
Cut = tuple[list[str], list[str]]  # the tokens of a source and of its target


def read(source: str, count: int | None = None, data_dir: Path | None = None) -> list[Pair]:
    """Pairs of sentences to learn from.

    Args:
        source: `"timetable"`: made by rules, see `timetable.pairs`; `"fra-eng"`: English and French sentences of
            the Tatoeba project as the d2l book uses them, downloaded if they are not there; else the path of a
            UTF-8 file with a pair a line: source, tab, target; what follows a second tab is passed over.
        count: only so many, from the front; None for all.
        data_dir: the folder of downloaded files; None means `~/.cache/gatewise`.

    Raises:
        InputError: the file is missing, empty or no table of pairs, or the download failed.
    """
    if source == "timetable":
        return timetable(count or TIMETABLE)
    if source == "fra-eng":
        archive = fetch(FRA_ENG_URL, FRA_ENG_SHA1, data_dir)
        with zipfile.ZipFile(archive) as file:
            return _pairs(file.read("fra-eng/fra.txt").decode(), archive, count)
    path = Path(source)
    if not path.is_file():
        raise InputError(f"there is no file {path}: give timetable, fra-eng or the path of a file with pairs")
    return _pairs(read_text(path, newline=""), path, count)


def _pairs(text: str, path: Path, count: int | None) -> list[Pair]:
    found: list[Pair] = []
    for number, line in enumerate(text.split("\n"), 1):  # splitlines would cut at rarer signs, too
        if count is not None and len(found) == count:
            break
        if not line.strip():
            continue
        source, *rest = (part.strip() for part in line.split("\t"))
        if not rest:
            raise InputError(
                f"{path}, line {number}: expected a source, a tab and its target; got no tab in {shortened(line)}"
            )
        if not source or not rest[0]:
            side = "source" if not source else "target"
            raise InputError(f"{path}, line {number}: the {side} is empty; give both sentences or delete the line")
        found.append((source, rest[0]))
    if not found:
        raise InputError(f"{path} is empty: give a file with a pair a line, source, tab, target")
    return found


@dataclass(frozen=True)
class Cutter:
    """How a language's sentences are cut into tokens and put together again.

    Args:
        tokens: `"words"`, cut at spaces, with `, . ! ?` as words of their own, as in the d2l book; `"pieces"`,
            words that are cut before each hyphen, too (`vingt -trois`), and put together as they are written;
            `"characters"`.
        lower: in lower case. Characters are always kept as they are.
    """

    tokens: str = "words"
    lower: bool = True

    def split(self, text: str) -> list[str]:
        """A sentence's tokens."""
        text = text.replace("\u202f", " ").replace("\xa0", " ")  # French has such spaces before ! and ?
        if self.tokens == "characters":
            return list(text)
        words = re.sub(r"(?<=[^ ])([,.!?])", r" \1", text.lower() if self.lower else text).split()
        if self.tokens == "words":
            return words
        return [piece for word in words for piece in re.findall(r"^[^-]+|-[^-]*|^$", word)]

    def join(self, tokens: list[str]) -> str:
        """The sentence of tokens."""
        if self.tokens == "characters":
            return "".join(tokens)
        text = " ".join(tokens)
        return re.sub(" ([,.!?]|-(?! |$))", r"\1", text) if self.tokens == "pieces" else text


class Language:
    """The tokens of one side as numbers: `<unk>`, `<pad>`, `<bos>`, `<eos>`, then the most frequent first.

    Args:
        tokens: all of them, in order.
        cutter: how sentences become tokens.
    """

    def __init__(self, tokens: list[str], cutter: Cutter) -> None:
        self.tokens, self.cutter = list(map(string, tokens)), cutter
        # Without the first ones, so that a sentence in which `<eos>` is written does not end there.
        self._ids = {token: i for i, token in enumerate(self.tokens) if i >= len(SPECIAL)}

    @classmethod
    def of(cls, sentences: Iterable[list[str]], cutter: Cutter, least: int = 1) -> "Language":
        """The language of sentences that are cut already, of tokens that occur at least so often."""
        counts = Counter(token for sentence in sentences for token in sentence)
        known = [token for token, n in counts.most_common() if n >= least and token not in SPECIAL]
        return cls([*SPECIAL, *known], cutter)

    def __len__(self) -> int:
        return len(self.tokens)

    def unknown(self, tokens: list[str]) -> list[str]:
        """The tokens that are not in the vocabulary, each once."""
        return list(dict.fromkeys(token for token in tokens if token not in self._ids))

    def encode(self, tokens: list[str]) -> list[int]:
        """Tokens as numbers, `<eos>` after the last; what is not in the vocabulary is `<unk>`."""
        return [*(self._ids.get(token, UNKNOWN) for token in tokens), EOS]

    def decode(self, ids: Iterable[int]) -> str:
        """The sentence of numbers, up to `<eos>`."""
        return self.cutter.join(self.words(ids))

    def words(self, ids: Iterable[int]) -> list[str]:
        """The tokens of numbers, up to `<eos>`."""
        found = []
        for i in ids:
            if i == EOS:
                break
            found.append(self.tokens[i])
        return found


class Batch(NamedTuple):
    """Sentences side by side, each behind its end filled up with `<pad>`.

    Args:
        source: (S, B) int64, each with `<eos>` at its end.
        lengths: (B,) of the sources.
        target: (T, B) int64, each with `<eos>` at its end.
        target_lengths: (B,).
    """

    source: Tensor
    lengths: Tensor
    target: Tensor
    target_lengths: Tensor


def padded(sentences: list[list[int]]) -> tuple[Tensor, Tensor]:
    """Sentences as one tensor (T, B), filled up with `<pad>`, and their lengths (B,)."""
    lengths = torch.tensor([len(sentence) for sentence in sentences])
    ids = torch.full((int(lengths.max()), len(sentences)), PAD)
    for b, sentence in enumerate(sentences):
        ids[: len(sentence), b] = torch.tensor(sentence)
    return ids, lengths


class Example(NamedTuple):
    """A pair as tokens and as numbers."""

    source: list[str]
    target: list[str]
    source_ids: list[int]
    target_ids: list[int]


class PairData:
    """Pairs made ready for training: the two languages, the pairs to learn and the pairs held out.

    All pairs with the same source stand on the same side, so no held-out sentence has been learned with another
    translation. Which are held out is drawn once, by a fixed seed. The vocabularies are those of the learned part.

    Args:
        pairs: (source, target), as `read` gives them.
        settings: how they are cut and divided; keyword arguments do the same: `PairData(pairs, batch=32)`. See
            `DataSettings` for their names and meanings.

    Raises:
        InputError: too few pairs are left, or a setting is out of its range.
    """

    def __init__(self, pairs: list[Pair], settings: DataSettings | None = None, **choices: object) -> None:
        if settings is None:
            settings = DataSettings(**{"source": "", **choices})  # type: ignore[arg-type]  # checked by DataSettings
        elif choices:
            raise TypeError(f"give settings or keyword arguments, not both; got {', '.join(choices)} besides settings")
        self.settings = settings
        self.sha256 = hashlib.sha256("\n".join(map("\t".join, pairs)).encode()).hexdigest()
        cutters = [
            Cutter(kind, settings.lower) for kind in (settings.tokens, settings.target_tokens or settings.tokens)
        ]
        cut = [(cutters[0].split(source), cutters[1].split(target)) for source, target in pairs]
        short = [(s, t) for s, t in cut if s and t and max(len(s), len(t)) < settings.longest]
        self.left_out = len(cut) - len(short)
        learned, held_out = _divided(short, settings.holdout)
        if len(learned) < 2 or (settings.holdout and len(held_out) < 2):
            raise InputError(
                f"{len(learned)} pairs to learn and {len(held_out)} held out are too few ({self.left_out} are longer"
                f" than {settings.longest - 1} tokens): give more pairs, or change --holdout or --longest"
            )
        self.source = Language.of((s for s, _ in learned), cutters[0], settings.least)
        self.target = Language.of((t for _, t in learned), cutters[1], settings.least)
        self.learned, self.held_out = self.examples(learned), self.examples(held_out)

    def examples(self, cut: list[Cut]) -> list[Example]:
        """Pairs that are cut already as numbers of the two languages; other tokens are `<unk>`."""
        return [Example(s, t, self.source.encode(s), self.target.encode(t)) for s, t in cut]


def batch_of(examples: list[Example]) -> Batch:
    """Examples side by side."""
    return Batch(*padded([e.source_ids for e in examples]), *padded([e.target_ids for e in examples]))


def _divided(cut: list[Cut], share: float) -> tuple[list[Cut], list[Cut]]:
    """The pairs to learn and those held out, divided by their sources, each part in its order."""
    sources = list(dict.fromkeys(" ".join(s) for s, _ in cut))
    random.Random(0).shuffle(sources)
    away = set(sources[: round(len(sources) * share)])
    parts: tuple[list[Cut], list[Cut]] = ([], [])
    for pair in cut:
        parts[" ".join(pair[0]) in away].append(pair)
    return parts
