import random
import re
from collections import Counter
from pathlib import Path

import pytest

from gatewise.errors import InputError
from gatewise.tasks.text import TextData, Vocabulary, read
from gatewise.tasks.text.data import only_letters

TIME_MACHINE = Path(__file__).parents[2] / "shared" / "data" / "text" / "timemachine.txt"


def book_corpus(path: Path) -> tuple[list[int], list[str]]:
    """The d2l book's own steps (release 0.17, d2l.torch.load_corpus_time_machine), with its 10,000 characters."""
    with open(path) as file:
        lines = [re.sub("[^A-Za-z]+", " ", line).strip().lower() for line in file]
    counter = Counter(token for line in lines for token in line)
    tokens = ["<unk>"] + [t for t, _ in sorted(counter.items(), key=lambda item: item[1], reverse=True)]
    number = {token: i for i, token in enumerate(tokens)}
    return [number[token] for line in lines for token in line][:10_000], tokens


def d2l_data() -> TextData:
    if not TIME_MACHINE.exists():
        pytest.skip("needs ../shared/data/text/timemachine.txt")
    text = read("time-machine", TIME_MACHINE.parent)
    return TextData(text, letters=True, limit=10_000, steps=35, batch=32, holdout=0.0)


def test_the_d2l_corpus_and_vocabulary_are_the_books():
    data = d2l_data()
    corpus, tokens = book_corpus(TIME_MACHINE)
    assert data.vocabulary.tokens == tokens
    assert len(tokens) == 28
    assert data.vocabulary.encode(data.text).tolist() == corpus


def test_a_held_out_text_of_one_character_is_refused():
    with pytest.raises(InputError, match="raise --holdout, or set it to 0"):
        TextData("abcdefghij" * 2, steps=1, batch=1, holdout=0.06)


def test_python_docs_hold_no_paragraph_twice():
    text = read("python-docs")
    paragraphs = text.split("\n\n")
    assert len(text) > 300_000
    assert len(set(paragraphs)) == len(paragraphs)


def test_the_vocabulary_is_by_frequency_then_by_appearance():
    vocabulary = Vocabulary.of("bcabca a", unknown=True)
    assert vocabulary.tokens == ["<unk>", "a", "b", "c", " "]
    assert vocabulary.decode(vocabulary.encode("a cab")) == "a cab"
    with pytest.raises(InputError, match="never saw 'x' 'y' in 'xyx'"):
        vocabulary.encode("xyx")


def test_only_letters_is_the_books_cleaning():
    assert only_letters("The Time-Machine, 1895!\n\n  by H. G. Wells\n") == "the time machineby h g wells"


def test_text_is_split_at_the_end_and_the_vocabulary_counts_all_of_it():
    data = TextData("ab" * 450 + "c" * 100, steps=5, batch=2, holdout=0.1)
    assert data.text == "ab" * 450
    assert data.held_out_text == "c" * 100
    assert "c" in data.vocabulary
    assert TextData("ab" * 450, steps=5, batch=2, holdout=0.0).held_out() is None


def test_the_opening_is_words_of_the_held_out_text():
    words = " ".join(random.Random(0).choices(["some", "text", "of", "words"], k=500))
    data = TextData(words, steps=5, batch=2)
    assert re.fullmatch(r"\w+ \w+ \w+ ", data.opening())
    assert data.opening() in data.held_out_text
    assert TextData("-=" * 500, steps=5, batch=2).opening() == "-"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "there is no file"),
        (b"", "is empty: give a file with text"),
        (b" \n ", "is empty: give a file with text"),
        (b"text\0more", "is a binary file"),
        (b"caf\xe9 cr\xe8me", r"is not UTF-8 text \(byte 3\)"),
    ],
)
def test_files_that_cannot_be_read_are_refused(tmp_path, content, message):
    file = tmp_path / "text.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read(str(file))


def test_windows_line_ends_and_a_byte_order_mark_are_not_learned(tmp_path):
    file = tmp_path / "text.txt"
    file.write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert read(str(file)) == "one\ntwo\n"


def test_choices_out_of_range_are_refused():
    for choice, message in [
        ({"steps": 0}, "steps must be above 0"),
        ({"holdout": 1.0}, "holdout must be a share"),
        ({"sampling": "both"}, "sampling is one of sequential, random; got 'both'"),
        ({"limit": 0}, "limit must be above 0"),
    ]:
        with pytest.raises(InputError, match=message):
            TextData("a b" * 9999, **choice)
