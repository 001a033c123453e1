"""Texts, and characters as numbers."""

import hashlib
import re
from collections import Counter
from pathlib import Path

import torch
from torch import Tensor

from gatewise.errors import InputError, shortened, string
from gatewise.tasks.download import fetch
from gatewise.tasks.files import read_text
from gatewise.tasks.text.settings import DataSettings
from gatewise.tasks.text.windows import InOrder, Windows

UNKNOWN = "<unk>"

TIME_MACHINE_URL = "http://d2l-data.s3-accelerate.amazonaws.com/timemachine.txt"
TIME_MACHINE_SHA1 = "090b5e7e70c295757f55df93cb0a180b9691891a"


def read(source: str, data_dir: Path | None = None) -> str:
    """A text to learn from.

    Args:
        source: `"python-docs"`: the language reference inside CPython, without paragraphs that stand there
            twice; `"time-machine"`: H. G. Wells' novel as the d2l book uses it, downloaded if it is not there;
            else the path of a UTF-8 file.
        data_dir: the folder of downloaded texts; None means `~/.cache/gatewise`.

    Raises:
        InputError: the file is missing, empty or not text, or the download failed.
    """
    if source == "python-docs":
        return _python_docs()
    if source == "time-machine":
        return _read_file(fetch(TIME_MACHINE_URL, TIME_MACHINE_SHA1, data_dir))
    return _read_file(Path(source))


def _python_docs() -> str:
    from pydoc_data.topics import topics

    paragraphs = "\n\n".join(topics[name].strip("\n") for name in sorted(topics)).split("\n\n")
    return "\n\n".join(dict.fromkeys(paragraphs))


def _read_file(path: Path) -> str:
    if not path.is_file():
        raise InputError(f"there is no file {path}: give python-docs, time-machine or the path of a UTF-8 text file")
    text = read_text(path)
    if not text.strip():
        raise InputError(f"{path} is empty: give a file with text")
    return text


def only_letters(text: str) -> str:
    """The text as the d2l book reads it: lower case, all else a space, lines stripped and joined without a gap."""
    return "".join(re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in text.splitlines())


class Vocabulary:
    """The characters of a text, most frequent first (ties in order of first appearance), as numbers from 0.

    Args:
        tokens: the characters, each once. A first token `"<unk>"` stands for every other character.
    """

    def __init__(self, tokens: list[str]) -> None:
        self.tokens = list(map(string, tokens))
        self._ids = {token: i for i, token in enumerate(self.tokens)}

    @classmethod
    def of(cls, text: str, unknown: bool = False) -> "Vocabulary":
        """The characters of `text`, behind `"<unk>"` if `unknown` is set, as in the d2l book."""
        return cls([UNKNOWN] * unknown + [token for token, _ in Counter(text).most_common()])

    def __len__(self) -> int:
        return len(self.tokens)

    def __contains__(self, token: str) -> bool:
        return token in self._ids

    def encode(self, text: str) -> Tensor:
        """Characters to numbers, (N,) int64.

        Raises:
            InputError: a character is not in the vocabulary.
        """
        unseen = sorted({character for character in text if character not in self._ids})
        if unseen:
            raise InputError(
                f"the model never saw {_listed(unseen)} in {shortened(text)}: use only the characters it was trained"
                f" on, {_listed(sorted(self._ids))}"
            )
        return torch.tensor([self._ids[character] for character in text], dtype=torch.int64)

    def decode(self, ids: Tensor) -> str:
        """Numbers (N,) to characters."""
        return "".join(self.tokens[i] for i in ids.tolist())


def _listed(characters: list[str], most: int = 40) -> str:
    shown = " ".join(repr(character) for character in characters[:most])
    return shown if len(characters) <= most else f"{shown} and {len(characters) - most} more"


class TextData:
    """A text made ready for training: its vocabulary, the part to learn and the part held out.

    The vocabulary is counted over the whole text. The held-out part is the text's end, in one piece.

    Args:
        text: the text, as `read` gives it.
        settings: how it is read and cut; keyword arguments do the same: `TextData(text, steps=64, batch=32)`.
            See `DataSettings` for their names and meanings.

    Raises:
        InputError: the text is too short, or a setting is out of its range.
    """

    def __init__(self, text: str, settings: DataSettings | None = None, **choices: object) -> None:
        if settings is None:
            settings = DataSettings(**{"source": "", **choices})  # type: ignore[arg-type]  # checked by DataSettings
        elif choices:
            raise TypeError(f"give settings or keyword arguments, not both; got {', '.join(choices)} besides settings")
        if settings.letters:
            text = only_letters(text)
        self.settings = settings
        self.vocabulary = Vocabulary.of(text, unknown=settings.letters)
        text = text[: settings.limit]
        self.sha256 = hashlib.sha256(text.encode()).hexdigest()
        split = len(text) - int(len(text) * settings.holdout)
        self.text, self.held_out_text = text[:split], text[split:]
        self.training()  # a text that is too short is refused here, before any work is done
        self.held_out()

    def training(self, seed: int = 0, rank: int = 0, world: int = 1) -> Windows:
        """The batches to learn from; see `Windows`."""
        ids = self.vocabulary.encode(self.text)
        s = self.settings
        return Windows(ids, s.steps, s.batch, s.sampling, seed=seed, rank=rank, world=world)

    def held_out(self) -> InOrder | None:
        """The held-out text in order, or None where nothing is held out."""
        if not self.settings.holdout:
            return None
        return InOrder(self.vocabulary.encode(self.held_out_text), self.settings.steps, self.settings.batch)

    def opening(self) -> str:
        """The first words of the held-out text (of the text where nothing is held out), to be continued."""
        text = self.held_out_text or self.text
        words = re.search(r"\b\w+ \w+ \w+ ", text)
        return words[0] if words else text.lstrip()[:1] or text[:1]
