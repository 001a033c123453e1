"""Pairs of sentences: the rules that make them, files that hold them, and how they become numbers."""

import hashlib
import zipfile
from datetime import date
from pathlib import Path

import pytest
import torch

from gatewise.errors import InputError
from gatewise.tasks import translate
from gatewise.tasks.translate import data, numbers, timetable

FRA_ENG = Path(__file__).parents[2] / "shared" / "data" / "seq2seq" / "fra-eng.zip"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (0, "zéro"), (16, "seize"), (17, "dix-sept"), (20, "vingt"), (21, "vingt-et-un"), (22, "vingt-deux"),
        (31, "trente-et-un"), (60, "soixante"), (61, "soixante-et-un"), (69, "soixante-neuf"), (70, "soixante-dix"),
        (71, "soixante-et-onze"), (72, "soixante-douze"), (77, "soixante-dix-sept"), (79, "soixante-dix-neuf"),
        (80, "quatre-vingts"), (81, "quatre-vingt-un"), (90, "quatre-vingt-dix"), (91, "quatre-vingt-onze"),
        (99, "quatre-vingt-dix-neuf"), (100, "cent"), (101, "cent-un"), (180, "cent-quatre-vingts"),
        (200, "deux-cents"), (201, "deux-cent-un"), (580, "cinq-cent-quatre-vingts"), (1000, "mille"),
        (1981, "mille-neuf-cent-quatre-vingt-un"), (2000, "deux-mille"), (21_000, "vingt-et-un-mille"),
        (80_000, "quatre-vingt-mille"), (200_000, "deux-cent-mille"),
        (671_580, "six-cent-soixante-et-onze-mille-cinq-cent-quatre-vingts"),
    ],
)  # fmt: skip
def test_french_numbers(number, words):
    assert numbers.french(number) == words


def test_a_rank_has_no_plural():
    assert [numbers.french(year, rank=True) for year in (1900, 1980, 80, 200)] == [
        "mille-neuf-cent", "mille-neuf-cent-quatre-vingt", "quatre-vingt", "deux-cent"
    ]  # fmt: skip


def test_no_two_numbers_are_the_same_words():
    assert len({numbers.french(n) for n in range(20_000)}) == 20_000
    assert len({numbers.english(n) for n in range(100)}) == 100


def test_english_numbers():
    assert [numbers.english_ordinal(n) for n in (1, 2, 3, 4, 5, 8, 9, 12, 13, 20, 21, 30, 31)] == [
        "first", "second", "third", "fourth", "fifth", "eighth", "ninth", "twelfth", "thirteenth", "twentieth",
        "twenty-first", "thirtieth", "thirty-first",
    ]  # fmt: skip
    assert [numbers.english_year(y) for y in (1800, 1805, 1912, 1981, 2000, 2005, 2010, 2099)] == [
        "eighteen hundred", "eighteen oh five", "nineteen twelve", "nineteen eighty-one", "two thousand",
        "two thousand and five", "twenty ten", "twenty ninety-nine",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("hour", "minute", "english", "french"),
    [
        (0, 0, "midnight", "minuit"),
        (23, 45, "a quarter to midnight", "minuit moins le quart"),
        (0, 30, "half past midnight", "minuit et demi"),
        (12, 30, "half past noon", "midi et demi"),
        (11, 55, "five to noon", "midi moins cinq"),
        (1, 0, "one o'clock in the morning", "une heure du matin"),
        (8, 40, "twenty to nine in the morning", "neuf heures moins vingt du matin"),
        (14, 30, "half past two in the afternoon", "deux heures et demie de l'après-midi"),
        (17, 15, "a quarter past five in the afternoon", "cinq heures et quart de l'après-midi"),
        (18, 5, "five past six in the evening", "six heures cinq du soir"),
        (12, 35, "twenty-five to one in the afternoon", "une heure moins vingt-cinq de l'après-midi"),
    ],
)
def test_times(hour, minute, english, french):
    assert numbers.english_time(hour, minute) == english
    assert numbers.french_time(hour, minute) == french


def test_dates():
    day = date(1981, 5, 1)
    assert numbers.english_date(day, month_first=True) == "Friday, May the first, nineteen eighty-one"
    assert numbers.english_date(day, month_first=False) == "Friday, the first of May, nineteen eighty-one"
    assert numbers.french_date(day) == "vendredi premier mai mille-neuf-cent-quatre-vingt-un"


def test_the_timetable_is_the_same_each_time_and_never_repeats_itself():
    pairs = timetable.pairs(500)
    assert timetable.pairs(200) == pairs[:200] != timetable.pairs(200, seed=1)
    assert len({source for source, _ in pairs}) == 500
    assert pairs[0] == (
        "On Wednesday, July the thirteenth, eighteen fourteen, the concert ends at twenty to nine in the morning.",
        "Le concert finit le mercredi treize juillet mille-huit-cent-quatorze à neuf heures moins vingt du matin.",
    )


def test_tokens():
    words, pieces = data.Cutter("words"), data.Cutter("pieces")
    assert words.split("Go.") == words.split("go .") == ["go", "."]
    assert words.split("Ça\u202falors\u00a0!") == ["ça", "alors", "!"]
    assert words.split("Wait... What?!") == ["wait", ".", ".", ".", "what", "?", "!"]
    assert words.join(["va", "!"]) == "va !"  # as the book prints it
    assert pieces.split("Mille-neuf-cent, non.") == ["mille", "-neuf", "-cent", ",", "non", "."]
    assert pieces.split("a - b --c -") == ["a", "-", "b", "-", "-c", "-"]
    assert pieces.join(pieces.split("mille-neuf-cent, non.")) == "mille-neuf-cent, non."
    assert pieces.join(pieces.split("paris - lyon: stop!")) == "paris - lyon: stop!"
    assert data.Cutter("words", lower=False).split("I'm Tom.") == ["I'm", "Tom", "."]
    assert data.Cutter("characters").split("Va !") == ["V", "a", " ", "!"]
    assert data.Cutter("characters").join(["V", "a", " ", "!"]) == "Va !"


def test_a_language_numbers_the_most_frequent_first():
    language = data.Language.of([["b", "a", "a"], ["a", "b", "c", "<pad>"]], data.Cutter(), least=2)
    assert language.tokens == ["<unk>", "<pad>", "<bos>", "<eos>", "a", "b"]
    assert language.encode(["b", "c"]) == [5, data.UNKNOWN, data.EOS]
    assert language.encode(["<eos>", "a"]) == [data.UNKNOWN, 4, data.EOS]
    assert language.decode([5, 4, data.EOS, 4]) == "b a"
    assert language.unknown(["c", "a", "d", "c"]) == ["c", "d"]


def test_pairs_with_one_source_stay_together_and_what_is_too_long_is_left_out():
    pairs = [(f"a {n}", f"b {n} {k}") for n in range(50) for k in range(3)] + [("a b c d e", "x"), ("x", "a b c d e")]
    made = translate.PairData(pairs, holdout=0.2, longest=5)
    assert (len(made.learned), len(made.held_out), made.left_out) == (120, 30, 2)
    assert not {tuple(e.source) for e in made.learned} & {tuple(e.source) for e in made.held_out}
    assert data.UNKNOWN in made.held_out[0].source_ids  # its number is not in what is learned
    again = translate.PairData(pairs, holdout=0.2, longest=5)
    assert [e.source for e in again.held_out] == [e.source for e in made.held_out]
    assert again.sha256 == made.sha256 != translate.PairData(pairs[:-1], holdout=0.2).sha256


def test_padding():
    ids, lengths = data.padded([[5, 3], [6, 7, 3]])
    assert ids.tolist() == [[5, 6], [3, 7], [data.PAD, 3]]
    assert lengths.tolist() == [2, 3]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\tb\nno tab\n", r"p\.tsv, line 2: expected a source, a tab and its target; got no tab in 'no tab'"),
        (b"a\tb\n\n \tb\n", r"p\.tsv, line 3: the source is empty"),
        (b"a\t\tb\n", r"p\.tsv, line 1: the target is empty"),
        (b"\n \n", r"p\.tsv is empty: give a file with a pair a line"),
        (b"a\tb\xff\n", r"p\.tsv is not UTF-8 text \(byte 3\): save it as UTF-8"),
        (b"a\tb\0\n", r"p\.tsv is a binary file"),
    ],
)
def test_a_bad_file_is_told_in_one_line(tmp_path, content, message):
    (tmp_path / "p.tsv").write_bytes(content)
    with pytest.raises(InputError, match=message) as caught:
        data.read(str(tmp_path / "p.tsv"))
    assert "\n" not in str(caught.value)


def test_a_file_is_read(tmp_path):
    (tmp_path / "p.tsv").write_bytes("\ufeffGo.\tVa !\tCC-BY\r\n\nHi.\tSalut.\n".encode())
    assert data.read(str(tmp_path / "p.tsv")) == [("Go.", "Va !"), ("Hi.", "Salut.")]
    assert data.read(str(tmp_path / "p.tsv"), 1) == [("Go.", "Va !")]
    with pytest.raises(InputError, match=r"there is no file .*: give timetable, fra-eng or the path"):
        data.read(str(tmp_path / "q.tsv"))


def test_too_few_pairs_are_refused():
    with pytest.raises(InputError, match=r"1 pairs to learn and 0 held out are too few .*: give more pairs"):
        translate.PairData([("a", "b")])
    with pytest.raises(InputError, match="3 are longer than 1 tokens"):
        translate.PairData([("a b", "b")] * 3, longest=2)
    for wrong in ({"holdout": 1.0}, {"tokens": "syllables"}, {"longest": 1}, {"batch": 0}, {"least": 0}):
        with pytest.raises(InputError, match=next(iter(wrong))):
            translate.PairData([("a", "b")] * 9, **wrong)


def test_the_books_archive_is_read_from_the_cache(tmp_path, monkeypatch):
    with zipfile.ZipFile(tmp_path / "fra-eng.zip", "w") as file:
        file.writestr("fra-eng/fra.txt", "Go.\tVa !\nHi.\tSalut !\n")
    with pytest.raises(InputError, match=f"SHA-1 .*, expected {data.FRA_ENG_SHA1}"):
        data.read("fra-eng", None, tmp_path)
    sha1 = hashlib.sha1((tmp_path / "fra-eng.zip").read_bytes()).hexdigest()
    monkeypatch.setattr(data, "FRA_ENG_SHA1", sha1)
    assert data.read("fra-eng", None, tmp_path) == [("Go.", "Va !"), ("Hi.", "Salut !")]


@pytest.mark.skipif(not FRA_ENG.exists(), reason="needs ../shared/data/seq2seq/fra-eng.zip")
def test_the_recipe_reads_what_the_book_reads():
    settings = translate.TranslateSettings.of("d2l").data
    made = translate.PairData(translate.read("fra-eng", settings.pairs, FRA_ENG.parent), settings)
    assert (len(made.learned), made.left_out) == (600, 0)
    assert (len(made.source), len(made.target)) == (184, 201)  # the sizes that the book's own code comes to
    assert made.source.tokens[:5] == ["<unk>", "<pad>", "<bos>", "<eos>", "."]
    batch = data.batch_of(made.learned[:2])
    assert made.source.words(batch.source[:, 0].tolist()) == ["go", "."]
    assert torch.equal(batch.lengths, torch.tensor([3, 3]))
