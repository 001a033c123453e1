import json

import pytest

from gatewise.errors import InputError
from gatewise.tasks.text import TextSettings


def test_a_recipe_changes_the_defaults_and_a_flag_the_recipe():
    plain, book = TextSettings.of(), TextSettings.of("d2l")
    assert (book.data.source, book.data.steps, book.data.batch, book.data.limit) == ("time-machine", 35, 32, 10_000)
    assert (book.data.letters, book.data.holdout, book.data.sampling) == (True, 0.0, "sequential")
    assert (book.model.cell, book.model.hidden_size, book.model.init, book.model.bias) == ("gru", 256, "torch", True)
    assert (book.fit.optimizer, book.fit.lr, book.fit.clip, book.fit.epochs) == ("sgd", 1.0, 1.0, 500)
    assert (book.sample.prompts, book.sample.length) == (("time traveller", "traveller"), 50)
    assert book.sample.temperature == 0
    assert not plain.data.letters
    mixed = TextSettings.of("d2l", hidden=512, cell="rnn", init="d2l", epochs=3, lr=None)
    assert (mixed.model.hidden_size, mixed.model.bias, mixed.fit.epochs, mixed.fit.lr) == (512, "input", 3, 1.0)


def test_the_recipe_starts_the_gru_from_scratch_as_the_book_does():
    book = TextSettings.of("d2l", cell="gru_reset_before")
    assert (book.model.init, book.model.bias) == ("d2l", "input")
    own = TextSettings.of("d2l", cell="gru_reset_before", init="torch")
    assert (own.model.init, own.model.bias) == ("torch", True)
    assert TextSettings.of(cell="gru_reset_before").model.init == "torch"


def test_one_layer_has_no_default_dropout():
    assert TextSettings.of().model.dropout > 0
    assert TextSettings.of(layers=1).model.dropout == 0
    assert TextSettings.of(layers=3).model.dropout == TextSettings.of().model.dropout
    assert TextSettings.of("d2l").model.num_layers == 1


def test_minutes_take_the_place_of_the_default_epochs():
    assert TextSettings.of().fit.epochs is not None
    assert (TextSettings.of(minutes=2).fit.epochs, TextSettings.of(minutes=2).fit.minutes) == (None, 2)
    assert TextSettings.of(minutes=2, epochs=5).fit.epochs == 5
    assert TextSettings.of("d2l", minutes=2).fit.epochs == 500


def test_settings_survive_json():
    settings = TextSettings.of("d2l", layers=2, dropout=0.1, minutes=0.5)
    assert TextSettings.from_dict(json.loads(json.dumps(settings.to_dict()))) == settings


def test_every_flag_is_read_back():
    values = {"cell": "lstm", "sampling": "random", "optimizer": "sgd", "precision": "64-true", "accelerator": "cpu"}
    values |= {"data": "file", "init": "d2l", "holdout": 0.3, "dropout": 0.2, "lr": 0.3, "clip": 0.4, "minutes": 0.7}
    values |= {"schedule": "linear"}
    values |= dict(
        zip(("steps", "batch", "hidden", "layers", "epochs", "seed", "devices", "threads"), range(2, 10), strict=True)
    )
    assert set(values) == set(TextSettings.FLAGS)
    settings = TextSettings.of(**values)
    assert {flag: settings.flag(flag) for flag in TextSettings.FLAGS} == values


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"recipe": "d3l"}, "recipe is one of d2l; got 'd3l'"),
        ({"optimizer": "adagrad"}, "optimizer is one of adam, adamw, rmsprop, sgd; got 'adagrad'"),
        ({"lr": 0.0}, "lr must be above 0; got 0.0"),
        ({"lr": float("nan")}, "lr must be above 0"),
        ({"clip": -1.0}, "clip must be 0"),
        ({"epochs": 0}, "epochs must be above 0"),
        ({"minutes": -1.0}, "minutes must be above 0"),
        ({"seed": -1}, "seed must be from 0"),
        ({"devices": 0}, "devices must be above 0"),
        ({"threads": 0}, "threads must be above 0"),
        ({"hidden": 0}, "hidden must be above 0"),
        ({"dropout": 1.0}, "dropout must be a share from 0 to below 1"),
        ({"dropout": 0.5, "layers": 1}, "add --layers 2"),
        ({"precision": "8"}, "precision is one of"),
        ({"init": "zeros"}, "init is one of torch, d2l"),
    ],
)
def test_wrong_values_are_refused(flags, message):
    with pytest.raises(InputError, match=message):
        TextSettings.of(**flags)
