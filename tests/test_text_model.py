import math

import pytest
import torch

import gatewise
from gatewise.errors import InputError
from gatewise.tasks.text import LanguageModel, Vocabulary, generate, stream

VOCABULARY = Vocabulary.of("abracadabra, the spell")


def model(cell="gru", **sizes):
    torch.manual_seed(0)
    return LanguageModel(cell, VOCABULARY, **{"hidden_size": 12, **sizes})


def probabilities(net, text):
    """p(next | text), from a whole pass over the text."""
    net.eval()
    return net(VOCABULARY.encode(text).unsqueeze(1))[0][-1, 0].softmax(-1)


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn", "gru_reset_before"])
def test_greedy_text_is_the_likeliest_character_after_the_whole_text_each_time(cell):
    net = model(cell, num_layers=2)
    text = "abra"
    for character in stream(net, text, 20, temperature=0):
        assert VOCABULARY.encode(character).item() == probabilities(net, text).argmax().item()
        text += character


def test_drawn_characters_are_as_frequent_as_the_model_predicts():
    net = model()
    for temperature in (0.5, 1.0):
        scores = probabilities(net, "spell").log()
        expected = (scores / temperature).softmax(-1)
        drawn = [generate(net, "spell", 1, temperature=temperature, seed=seed) for seed in range(2000)]
        found = torch.bincount(torch.cat([VOCABULARY.encode(c) for c in drawn]), minlength=len(VOCABULARY)) / 2000
        assert (found - expected).abs().max() < 4 * math.sqrt(0.25 / 2000)


def test_a_seed_gives_one_text_and_none_gives_others():
    net = model()
    texts = [generate(net, "the", 30, seed=7) for _ in range(2)] + [generate(net, "the", 30) for _ in range(2)]
    assert len(set(texts)) == 3
    assert generate(net, "the", 30, seed=8) != texts[0]


def test_writing_leaves_random_state_and_mode_alone_and_uses_no_dropout():
    net = model(num_layers=2, dropout=0.9).train()
    before = torch.get_rng_state()
    texts = {generate(net, "the", 30, temperature=0) for _ in range(3)}
    assert len(texts) == 1
    assert net.training
    assert torch.equal(torch.get_rng_state(), before)


def test_each_character_costs_one_step():
    net = model()
    lengths = []
    net.layer.register_forward_pre_hook(lambda layer, inputs: lengths.append(inputs[0].shape[0]))
    generate(net, "abra", 50)
    assert lengths == [4] + [1] * 49


def test_bad_questions_are_refused_before_the_first_character():
    net = model()
    for arguments, options, message in [
        (("", 3), {}, "the prompt is empty"),
        (("ABRA", 3), {}, "never saw 'A' 'B' 'R' in 'ABRA'"),
        (("abra", -1), {}, "length must be 0 or more"),
        (("abra", 3), {"temperature": -0.1}, "temperature must be 0"),
        (("abra", 3), {"temperature": math.nan}, "temperature must be 0"),
    ]:
        with pytest.raises(InputError, match=message):
            stream(net, *arguments, **options)
    assert generate(net, "abra", 0) == ""


def test_a_layer_may_be_given_if_it_fits():
    size = len(VOCABULARY)
    for layer in (
        gatewise.LSTM(size, 8, 2),
        gatewise.LSTM(size, 8, proj_size=3),
        gatewise.Recurrent(gatewise.cells.rnn, size, 8),
    ):
        net = LanguageModel(layer, VOCABULARY)
        assert net(torch.zeros(4, 3, dtype=torch.int64))[0].shape == (4, 3, size)
        assert net.settings().hidden_size == 8
    for layer, message in [
        (torch.nn.GRU(size, 8), "expected a layer of gatewise"),
        (gatewise.GRU(size + 1, 8), f"input_size {size + 1}, expected {size}"),
        (gatewise.GRU(size, 8, bidirectional=True), "bidirectional=True, expected False"),
        (gatewise.GRU(size, 8, batch_first=True), "batch_first=True, expected False"),
    ]:
        with pytest.raises(ValueError, match=message):
            LanguageModel(layer, VOCABULARY)
    with pytest.raises(TypeError, match="has its sizes already; got hidden_size"):
        LanguageModel(gatewise.GRU(size, 8), VOCABULARY, hidden_size=8)


def test_the_settings_of_a_model_build_its_like():
    net = model("lstm", num_layers=2, dropout=0.5, bias=False)
    settings = net.settings()
    assert (settings.cell, settings.num_layers, settings.dropout, settings.bias) == ("lstm", 2, 0.5, False)


def test_the_d2l_start_is_normal_weights_and_zero_biases_one_a_gate():
    net = model("gru_reset_before", hidden_size=200, bias="input", init="d2l")
    weights = torch.cat([p.flatten() for name, p in net.named_parameters() if "weight" in name])
    assert weights.std().item() == pytest.approx(0.01, rel=0.02)
    assert abs(weights.mean().item()) < 1e-4
    biases = {name: p for name, p in net.named_parameters() if "bias" in name}
    assert sorted(biases) == ["layer.bias_ih_l0", "output.bias"]
    assert not any(p.any() for p in biases.values())
    torch_start = model("gru_reset_before", hidden_size=200)
    assert torch_start.layer.weight_hh_l0.std().item() == pytest.approx(200**-0.5 / 3**0.5, rel=0.05)
