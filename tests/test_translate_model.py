"""The encoder, the attention and the decoder, against torch's own layers and against formulas written out."""

import math

import pytest
import torch
from helpers import assert_close, randomize
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise
from gatewise.tasks import translate
from gatewise.tasks.translate import training
from gatewise.tasks.translate.data import EOS, PAD, Cutter, Language

TOKENS = ["<unk>", "<pad>", "<bos>", "<eos>", *"abcdefg"]
LENGTHS = torch.tensor([3, 5, 1, 4])


def model_of(cell="gru", **sizes):
    language = Language(TOKENS, Cutter("characters"))
    sizes = {"hidden_size": 6, "embedding_size": 5, **sizes}
    return randomize(translate.Translator(cell, language, language, longest=9, **sizes))


def sentences():
    ids = torch.randint(4, len(TOKENS), (5, 4), generator=torch.Generator().manual_seed(1))
    for b, length in enumerate(LENGTHS.tolist()):
        ids[length - 1, b] = EOS
        ids[length:, b] = PAD
    return ids


def test_the_encoder_is_the_textbooks():
    encoder = model_of(num_layers=2).encoder
    embedding, gru = nn.Embedding(len(TOKENS), 5), nn.GRU(5, 6, 2)
    embedding.load_state_dict(encoder.embedding.state_dict())
    gru.load_state_dict(encoder.layer.state_dict())
    x = sentences()
    packed, state = gru(pack_padded_sequence(embedding(x), LENGTHS, enforce_sorted=False))
    output, found = encoder(x, LENGTHS)
    assert output.shape == (5, 4, 6)  # (T, B, H)
    assert found.shape == (2, 4, 6)  # (L, B, H)
    assert_close(output, pad_packed_sequence(packed)[0], 1e-6, "output")
    assert_close(found, state, 1e-6, "state")


@pytest.mark.parametrize("attention", ["additive", "none"])
@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_padding_changes_nothing(cell, attention):
    """Neither how much of it there is nor what stands there: not the scores, not the gradients."""
    model = model_of(cell, attention=attention, num_layers=2)
    x, y = sentences(), sentences()
    other = torch.cat((x, x[:2]))
    for b, length in enumerate(LENGTHS.tolist()):
        other[length:, b] = 4 + b
    grads = []
    for source in (x, other):
        model.zero_grad()
        scores = model(source, LENGTHS, training.before(y))
        training.masked(scores, y)[0].backward()
        grads.append([scores.detach(), *(p.grad for p in model.parameters())])
    for one, two in zip(*grads, strict=True):
        assert_close(one, two, 1e-6)
    alone = model(x[:3, :1], LENGTHS[:1], training.before(y[:, :1]))
    assert_close(alone, grads[0][0][:, :1], 1e-6, "alone")


def test_attention_is_the_formula():
    attention = randomize(translate.AdditiveAttention(6))
    query, values = torch.randn(4, 6), torch.randn(5, 4, 6)
    beyond = torch.arange(5).unsqueeze(1) >= LENGTHS
    context, weights = attention(query, attention.keys(values), values, beyond)
    w_q, w_k, v = attention.query.weight, attention.key.weight, attention.score.weight[0]
    for b, length in enumerate(LENGTHS.tolist()):
        scores = [v @ torch.tanh(w_q @ query[b] + w_k @ values[s, b]) for s in range(length)]
        shares = torch.stack([score.exp() for score in scores]) / sum(score.exp() for score in scores)
        assert_close(weights[:length, b], shares, 1e-5)
        assert not weights[length:, b].any()
        assert_close(context[b], sum(a * values[s, b] for s, a in enumerate(shares)), 1e-5)


@pytest.mark.parametrize("attention", ["additive", "none"])
def test_the_decoder_is_the_textbooks(attention):
    """One sentence at a time, with torch's GRU and the context written out, one step after the other."""
    model = model_of(attention=attention, num_layers=2)
    x, y = sentences(), training.before(sentences())
    scores = model(x, LENGTHS, y)
    gru = nn.GRU(5 + 6, 6, 2)
    gru.load_state_dict(model.decoder.layer.state_dict())
    for b, length in enumerate(LENGTHS.tolist()):
        output, state = model.encoder(x[:length, b : b + 1], LENGTHS[b : b + 1])
        context = state[-1]
        for t in range(len(y)):
            if attention == "additive":
                look = model.decoder.attention
                beyond = torch.zeros(length, 1, dtype=torch.bool)
                context, _ = look(state[-1], look.keys(output), output, beyond)
            e = model.decoder.embedding(y[t, b : b + 1])
            out, state = gru(torch.cat((e, context), 1).unsqueeze(0), state)
            assert_close(scores[t, b], model.decoder.output(out[0, 0]), 1e-5, f"sample {b}, step {t}")


def test_the_loss_is_the_mean_over_real_tokens():
    model = model_of()
    x, y = sentences(), sentences()
    scores = model(x, LENGTHS, training.before(y))
    loss, accuracy = training.masked(scores, y)
    each = [(b, t) for b, length in enumerate(LENGTHS.tolist()) for t in range(length)]
    expected = sum(-math.log(F.softmax(scores[t, b], 0)[y[t, b]].item()) for b, t in each) / len(each)
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    right = sum(scores[t, b].argmax().item() == y[t, b].item() for b, t in each)
    assert accuracy.item() == pytest.approx(right / len(each))


def test_xavier_draws_the_matrices_of_layers_and_nothing_else():
    torch.manual_seed(0)
    model = translate.Translator("gru", *[Language(TOKENS, Cutter())] * 2, hidden_size=50, init="xavier")
    weight = model.encoder.layer.weight_hh_l0
    bound = math.sqrt(6 / (150 + 50))  # torch's own would be 1 / sqrt(50) = 0.141
    assert 0.165 < weight.abs().max() <= bound
    assert model.decoder.output.weight.abs().max() > 1 / math.sqrt(50)
    assert model.encoder.layer.bias_hh_l0.abs().max() <= 1 / math.sqrt(50)
    assert model.encoder.embedding.weight.abs().max() > 1.5


def test_a_cell_that_has_one_mask_for_a_sequence_needs_it_in_one_call():
    cell = gatewise.recurrent_dropout(gatewise.cells.gru, 0.2)
    with pytest.raises(ValueError, match=r"mask is drawn once a sequence.*with --attention none it is one call"):
        model_of(cell)
    assert model_of(cell, attention="none")(sentences(), LENGTHS, sentences()).shape == (5, 4, len(TOKENS))
