"""Searching for translations, and scoring them."""

import math

import pytest
import torch
from helpers import randomize

from gatewise.errors import InputError
from gatewise.tasks import translate
from gatewise.tasks.translate.data import BOS, EOS, PAD, Cutter, Language, padded
from gatewise.tasks.translate.scores import bleu, sacrebleu
from gatewise.tasks.translate.search import beam, greedy
from gatewise.tasks.translate.translation import check, translations


def model_of(target="ab", seed=0, limit=8, **sizes):
    source, target = (Language(["<unk>", "<pad>", "<bos>", "<eos>", *tokens], Cutter()) for tokens in ("xyz", target))
    sizes = {"hidden_size": 8, "embedding_size": 6, **sizes}
    return randomize(translate.Translator("gru", source, target, longest=limit, **sizes), seed).eval()


@pytest.mark.parametrize("attention", ["additive", "none"])
def test_a_beam_of_one_is_greedy(attention):
    ends = set()
    for seed in range(6):
        model = model_of("abcdef", seed, attention=attention, num_layers=2)
        sources = [[4, 5, 6, 3], [6, 3], [5, 5, 4, 4, 6, 3]]
        batch = greedy(model, *padded(sources), 8)
        for source, found in zip(sources, batch, strict=True):
            alone = beam(model, torch.tensor(source), 1, 8)
            assert alone.ids == found.ids
            assert alone.log_p == pytest.approx(found.log_p, rel=1e-5)
            assert (found.weights is None) == (attention == "none")
            if attention == "additive":
                assert found.weights.shape == alone.weights.shape == (len(found.ids), len(source))
                assert torch.allclose(found.weights, alone.weights, atol=1e-5)
                assert torch.allclose(found.weights.sum(1), torch.ones(len(found.ids)))
            ends.add((len(found.ids), found.ids[-1] == EOS))
    assert len(ends) >= 3


def all_sentences(model, source, limit):
    """Every sentence that ends, or is as long as the limit, with its log-probability."""
    memory, state = model.read(source.unsqueeze(1), torch.tensor([len(source)]))

    def grown(ids, log_p, state):
        scores, state, _ = model.decoder.step(torch.tensor([ids[-1] if ids else BOS]), state, memory)
        scores[:, [PAD, BOS]] = -math.inf
        for token, p in enumerate(scores.log_softmax(1)[0].tolist()):
            if p == -math.inf:
                continue
            if token == EOS or len(ids) + 1 == limit:
                yield [*ids, token], log_p + p
            else:
                yield from grown([*ids, token], log_p + p, state)

    return list(grown([], 0.0, state))


@torch.no_grad()
def test_a_beam_as_wide_as_all_sentences_finds_the_best_of_all():
    limit, source = 4, torch.tensor([5, 6, 3])
    differs = 0
    for seed in range(4):
        model = model_of("ab", seed, limit)
        every = all_sentences(model, source, limit)
        assert len(every) == 1 + 3 + 9 + 27 * 4
        for norm in (0.0, 0.75, 1.0):
            value, ids = max((log_p / len(ids) ** norm, ids) for ids, log_p in every)
            found = beam(model, source, 4**limit, limit, norm)
            assert found.ids == ids
            assert found.log_p / len(found.ids) ** norm == pytest.approx(value, abs=1e-5)
            differs += beam(model, source, 1, limit, norm).ids != ids
    assert differs  # greedy is not as good: the test can tell


def test_what_cannot_be_translated_is_told():
    model = model_of()
    assert isinstance(str(model.translate("x y z")), str)
    for text, message in [
        ("", "the sentence is empty: give at least one word"),
        ("  ", "the sentence is empty"),
        (
            "x q y xx q",
            r"the model never saw 'q', 'xx' in 'x q y xx q': use only words it was trained on, or .* --unknown",
        ),
        ("x " * 8, r"has 8 tokens, and the model takes up to 7: split it"),
    ]:
        with pytest.raises(InputError, match=message):
            model.translate(text)
    language = Language.of([["train", "man"]], Cutter())
    with pytest.raises(InputError, match=r"trained on \(such as train for trian\), or"):
        check(language, "the trian and", ["trian", "and"], 9, False)
    with pytest.raises(InputError, match="beam must be 1"):
        model.translate("x", beam=0)
    assert model.translate("x q", unknown=True).source == ["x", "<unk>", "<eos>"]


def test_translating_leaves_mode_and_random_state_alone():
    model = model_of(num_layers=2, dropout=0.5).train()
    before = torch.get_rng_state()
    found = translations(model, ["x y", "z"]), translations(model, ["x y", "z"], beam=3)
    assert model.training
    assert torch.equal(torch.get_rng_state(), before)
    assert [t.text for t in found[0]] == [t.text for t in translations(model.eval(), ["x y", "z"])]


@pytest.mark.parametrize(
    ("predicted", "right", "score"),
    [
        ("va !", "va !", 1.0),
        ("il est riche .", "il est calme .", (3 / 4) ** 0.5 * (1 / 3) ** 0.25),  # 0.658, as the book prints
        ("a b", "a b c d", math.exp(1 - 4 / 2)),  # too short
        ("a a b", "a b c", (2 / 3) ** 0.5 * (1 / 2) ** 0.25),  # each n-gram counts as often as it is there
        ("a", "a", 1.0),  # shorter than k
        ("", "a", 0.0),
    ],
)
def test_the_books_bleu(predicted, right, score):
    assert bleu(predicted.split(), right.split()) == pytest.approx(score)


def test_sacrebleu_is_bleu_of_four_grams():
    predicted, right = "the cat sat on a mat", "the cat sat on the mat"
    shares = [5 / 6, 3 / 5, 2 / 4, 1 / 3]
    expected = 100 * math.prod(shares) ** 0.25
    assert sacrebleu([predicted], [[right]]).score == pytest.approx(expected)
    both = sacrebleu(["a b c d", "e f g h"], [["x y z", "a b c d"], ["e f g h"]])  # one of two, one of one
    assert both.score == pytest.approx(100)
