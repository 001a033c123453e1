"""The classifier: against torch.nn with packed sequences, blind to padding and to its neighbours; its scores."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import gatewise
from gatewise.errors import InputError
from gatewise.tasks.classify import metrics, plot
from gatewise.tasks.classify.data import NO_LABEL, padded
from gatewise.tasks.classify.model import Classifier, loss
from gatewise.tasks.classify.sequences import Facts, Sequences
from gatewise.tasks.plot import rendered

LENGTHS = [5, 1, 7, 3]


def facts(per="sequence", features=3, classes=4):
    names = [f"x{i}" for i in range(features)]
    return Facts([f"c{k}" for k in range(classes)], names, [0.5] * features, [2.0] * features, per)


def sequences(seed=0, lengths=LENGTHS):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(n, 3, generator=random, dtype=torch.float64) for n in lengths]


@pytest.mark.parametrize("cell", ["gru", "lstm", "rnn"])
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("mode", ["last", "mean", "step"])
def test_the_model_is_torchs_with_packed_sequences(cell, bidirectional, mode):
    torch.manual_seed(1)
    pool, per = ("last", "step") if mode == "step" else (mode, "sequence")
    model = Classifier(cell, facts(per), hidden_size=5, num_layers=2, bidirectional=bidirectional, pool=pool)
    twin = getattr(nn, cell.upper())(3, 5, 2, bidirectional=bidirectional)
    twin.load_state_dict(model.layer.state_dict())
    x, lengths = padded([((s - 0.5) / 2).float() for s in sequences()])
    y = torch.tensor([0, 3, 1, 2]) if mode != "step" else torch.randint(4, x.shape[:2])
    if mode == "step":
        y = y.where(torch.arange(7).unsqueeze(1) < lengths, NO_LABEL)
    out, state = twin(pack_padded_sequence(x, lengths, enforce_sorted=False))
    out, _ = pad_packed_sequence(out)
    h = state[0] if cell == "lstm" else state
    if mode == "last":
        pooled = torch.cat((h[-2], h[-1]), 1) if bidirectional else h[-1]
    else:
        pooled = out if mode == "step" else torch.stack([out[:n, b].mean(0) for b, n in enumerate(LENGTHS)])
    expected = F.cross_entropy(model.output(pooled).reshape(-1, 4), y.reshape(-1), ignore_index=NO_LABEL)
    expected.backward()
    wanted = [p.grad.clone() for p in (*twin.parameters(), *model.output.parameters())]
    model.zero_grad()
    mean, right, count = loss(model(x, lengths), y)
    mean.backward()
    torch.testing.assert_close(mean, expected)
    assert count == (16 if mode == "step" else 4)
    best = model.output(pooled).argmax(-1)
    torch.testing.assert_close(right, (best == y)[y != NO_LABEL].float().mean())
    for found, grad in zip(
        [p.grad for p in (*model.layer.parameters(), *model.output.parameters())], wanted, strict=True
    ):
        torch.testing.assert_close(found, grad)


@pytest.mark.parametrize("mode", ["last", "mean", "step"])
def test_padding_and_neighbours_change_nothing(mode):
    torch.manual_seed(2)
    pool, per = ("last", "step") if mode == "step" else (mode, "sequence")
    model = Classifier("gru", facts(per), hidden_size=5, num_layers=2, pool=pool).eval()
    given = sequences()
    x, lengths = padded([s.float() for s in given])
    filled = F.pad(x, (0, 0, 0, 0, 0, 4))
    filled[torch.arange(11).unsqueeze(1) >= lengths] = float("nan")
    one, other = model(x, lengths), model(filled, lengths)
    if mode == "step":
        one, other = ([s[:n, b] for b, n in enumerate(LENGTHS)] for s in (one, other))
    assert all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    alone = [model.predict_proba([s])[0] for s in given]
    for batch in (1, 3, 256):
        torch.testing.assert_close(model.predict_proba(given, batch), alone)
        torch.testing.assert_close(model.predict_proba(given[::-1], batch), alone[::-1])


def test_predictions_from_raw_values_are_named():
    torch.manual_seed(0)
    model = Classifier("lstm", facts(), hidden_size=5, dropout=0.5, num_layers=2, noise=1.0)
    given = sequences()
    model.train()
    first = model.predict_proba(given)
    assert model.training
    torch.testing.assert_close(first, model.predict_proba([s.numpy() for s in given]))  # neither noise nor dropout
    assert model.predict(given) == [f"c{p.argmax()}" for p in first]
    torch.testing.assert_close(sum(first[0]), torch.tensor(1.0))
    tagger = Classifier("gru", facts("step"), hidden_size=5)
    assert [len(labels) for labels in tagger.predict(Sequences(given))] == LENGTHS
    with pytest.raises(InputError, match="sequence 2 is empty"):
        model.predict([given[0], torch.ones(0, 3)])
    with pytest.raises(InputError, match=r"sequence 1 has shape \(5, 2\), expected \(steps, 3\)"):
        model.predict([given[0][:, :2]])
    with pytest.raises(InputError, match=r"have 2 features, x1, x2; the model was trained on 3, x0, x1, x2"):
        model.predict(Sequences([given[0][:, :2]]))


def test_noise_and_layers_of_ones_own():
    torch.manual_seed(0)
    x, lengths = padded([s.float() for s in sequences()])
    noisy = Classifier(gatewise.GRU(3, 5), facts(), noise=0.5)
    assert not torch.equal(noisy(x, lengths), noisy(x, lengths))
    assert torch.equal(noisy.eval()(x, lengths), noisy(x, lengths))
    assert noisy.settings().noise == 0.5
    for unfit, words in (
        (gatewise.GRU(2, 5), "has input_size 2, expected 3"),
        (gatewise.GRU(3, 5, batch_first=True), "batch_first=True, expected False"),
        (nn.GRU(3, 5), "expected a layer of gatewise"),
    ):
        with pytest.raises(ValueError, match=words):
            Classifier(unfit, facts())
    with pytest.raises(TypeError, match="has its sizes already; got hidden_size"):
        Classifier(gatewise.GRU(3, 5), facts(), hidden_size=5)


def test_scores_are_scikit_learns():
    sklearn = pytest.importorskip("sklearn.metrics")
    random = torch.Generator().manual_seed(0)
    truth, predicted = (torch.randint(5, (200,), generator=random) for _ in range(2))
    truth[truth == 3] = 2  # a class that is predicted and never true
    predicted = torch.where(torch.rand(200, generator=random) < 0.6, truth, predicted)
    labels = list("abcdef")  # f never occurs
    scores = metrics.scores(truth, predicted, labels)
    assert scores.accuracy == sklearn.accuracy_score(truth, predicted)
    assert scores.macro_f1 == pytest.approx(sklearn.f1_score(truth, predicted, average="macro"))
    assert scores.confusion.tolist() == sklearn.confusion_matrix(truth, predicted, labels=range(6)).tolist()
    each = sklearn.precision_recall_fscore_support(truth, predicted, labels=range(6), zero_division=0)
    for found, expected in zip((scores.precision, scores.recall, scores.f1), each, strict=False):
        assert found.tolist() == pytest.approx(expected.tolist())
    assert scores.most_frequent == max(truth.bincount()) / 200
    header, *rows = metrics.as_csv(scores).splitlines()
    assert header == "true \\ predicted,a,b,c,d,e,f"
    assert [[int(n) for n in row.split(",")[1:]] for row in rows] == scores.confusion.tolist()
    picture = plot.confusion(scores, "letters", "sequences")
    assert picture.startswith(b"\x89PNG")
    assert picture != plot.confusion(metrics.scores(predicted, truth, labels), "letters", "sequences")


def test_labels_are_drawn_as_they_are():
    labels = ["$x^$", r"$\frac$", "単語", "[/h]"]
    found = metrics.scores(torch.arange(4), torch.arange(4), labels)
    assert plot.confusion(found, "gru on a$^$b", "sequences").startswith(b"\x89PNG")
    assert "[/h]" in metrics.table(found, "sequences")


@pytest.mark.parametrize("labels", [["0", "1"], ["walking upstairs with a bag", "sitting"], list("abcdefghi")])
def test_nothing_of_the_picture_is_cut_or_printed_over(labels, monkeypatch):
    drawn = []
    monkeypatch.setattr(plot, "rendered", lambda figure: drawn.append(figure) or rendered(figure))
    truth = torch.arange(len(labels))
    plot.confusion(
        metrics.scores(truth, truth.clamp(min=1), labels), "bidirectional gru, H = 128, on walks.csv", "steps"
    )
    (figure,) = drawn
    (axes,) = figure.axes
    texts = [text for text in (*axes.texts, *figure.texts, *axes.get_xticklabels()) if text.get_text()]
    boxes = {text.get_text(): text.get_window_extent() for text in texts}
    title, head = figure.texts[0].get_window_extent(), boxes["recall, %"]
    assert head.y1 < title.y0
    assert head.y0 >= axes.get_window_extent().y1
    whole = figure.get_tightbbox()  # in inches; the file holds this
    assert title.x1 <= whole.x1 * figure.dpi
    assert set(labels) <= boxes.keys()
    assert [text.get_text() for text in axes.texts].count("0") == 2  # the first on the diagonal, and its recall
    picture = plot.confusion(metrics.scores(truth, truth, labels), "t" * 70, "steps")
    assert int.from_bytes(picture[16:20]) > 70 * 10  # as wide as its title


def test_the_interval_is_wilsons():
    low, high = metrics.interval(363, 370)  # as statsmodels' proportion_confint(363, 370, method="wilson") has it
    assert (low, high) == (pytest.approx(0.961469, abs=1e-6), pytest.approx(0.990806, abs=1e-6))
