"""Whole trainings of translators: what they leave behind, and the commands."""

import csv
import shutil

import pytest
import torch

from gatewise.errors import InputError
from gatewise.tasks import translate

SMALL = {"hidden": 12, "embedding": 8, "batch": 12, "epochs": 2, "pairs": 48, "longest": 40}
PAIRS = [(f"{a} {b} .", f"{b} {a} !") for a in "abcdefghijkl" for b in "opqrstuvwxyz"]


@pytest.fixture(autouse=True)
def one_thread():
    """For nets as small as these, a second thread only waits for a busy core."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def swapped(tmp_path_factory):
    """A run that has learned to turn two letters round."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    data = translate.PairData(PAIRS, holdout=0.2, batch=8, longest=6)
    torch.manual_seed(0)
    model = translate.Translator("lstm", data.source, data.target, longest=6, hidden_size=32, embedding_size=16)
    result = translate.fit(model, data, epochs=14, lr=0.02, out=tmp_path_factory.mktemp("runs") / "run")
    torch.set_num_threads(threads)
    return result, model


def test_an_lstm_learns_to_turn_words_round_and_the_run_has_all_that_is_promised(swapped):
    result, _ = swapped
    assert {path.name for path in result.run.path.iterdir()} == {
        "best.safetensors", "last.safetensors", "settings.json", "cell.txt", "vocabularies.json",
        "metrics.csv", "curves.png", "attention.png", "translations.txt",
    }  # fmt: skip
    read = translate.load(result.run.path)
    assert str(read.translate("c w .")) == "w c !"
    rows = list(csv.DictReader(result.run.metrics.read_text().splitlines()))
    assert float(rows[-1]["held_out_accuracy"]) > 0.9
    assert float(rows[-1]["held_out_loss"]) < 0.5 < float(rows[0]["held_out_loss"])
    report = result.run.report.read_text()
    assert "29 held-out sentences" in report
    judged = translate.judge(read, translate.PairData(PAIRS, holdout=0.2, batch=8, longest=6).held_out)
    assert f"exact match    {judged.exact:.1%}" in report
    assert f"sacrebleu      {judged.sacrebleu:.1f}" in report
    assert judged.exact >= 0.9


def test_the_attention_map_is_a_picture(swapped, tmp_path, run):
    folder, _ = swapped[0].run.path, None
    code, out, _ = run("translate", str(folder), "a v .", "--attention-map", str(tmp_path / "look.png"), "--beam", "3")
    assert (code, out) == (0, "v a !\n")
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    (tmp_path / "look.png").write_bytes(b"mine")
    code, out, _ = run("translate", str(folder), "a v .", "--attention-map", str(tmp_path / "look.png"))
    assert (code, out, (tmp_path / "look.png").read_bytes()) == (2, "", b"mine")
    assert run("translate", str(folder), "a v .", "--attention-map", str(tmp_path / "look.png"), "--force")[0] == 0
    assert (tmp_path / "look.png").read_bytes().startswith(b"\x89PNG")
    code, _, err = run("translate", str(folder), "a v .", "--attention-map", str(tmp_path / "look.doc"))
    assert (code, err.count("\n")) == (2, 1)
    assert "format is one of png, svg, pdf; got 'doc'" in err
    assert "got ''" in run("translate", str(folder), "a v .", "--attention-map", ".")[2]
    code, _, err = run("translate", str(folder), "a v .", "b v .", "--attention-map", str(tmp_path / "x.png"))
    assert (code, "draws one sentence; got 2" in err) == (2, True)


def test_several_sentences_and_files(swapped, tmp_path, run):
    folder = str(swapped[0].run.path)
    (tmp_path / "in.txt").write_text("a v .\nd y .\n")
    (tmp_path / "gap.txt").write_text("a v .\n\nd y .\n")
    assert (
        run("translate", folder, "a v .", "d y .")[:2]
        == run("translate", folder, "--file", str(tmp_path / "in.txt"))[:2]
    )
    for arguments, message in [
        (["a ! ."], "the model never saw '!' in 'a ! .'"),
        ([""], "the sentence is empty"),
        (["a a a a a ."], "has 6 tokens, and the model takes up to 5"),
        ([], "give sentences, each in quotation marks, or --file"),
        (["--file", str(tmp_path / "no.txt")], "there is no file"),
        (["--file", str(tmp_path / "gap.txt")], "gap.txt, line 2 is empty"),
        (["a v .", "--beam", "0"], "beam must be 1"),
    ]:
        code, out, err = run("translate", folder, *arguments)
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert message in err
    assert run("translate", folder, "a ! .", "--unknown")[0] == 0
    damaged = tmp_path / "damaged"
    shutil.copytree(folder, damaged)
    for content in ("[]", "{}", '{"source": [1], "target": [2]}', '{"source": null, "target": []}'):
        (damaged / "vocabularies.json").write_text(content)
        code, out, err = run("translate", str(damaged), "a v .")
        assert (code, out, err.count("\n")) == (2, "", 1)
        assert "vocabularies.json is damaged" in err


def test_the_recipe_is_the_books_on_a_file_of_ones_own(tmp_path, run):
    pairs = tmp_path / "pairs.tsv"
    pairs.write_text("".join(f"{source}\t{target}\tof no concern\n" for source, target in PAIRS))
    settings = translate.TranslateSettings.of("d2l")
    assert (settings.model.hidden_size, settings.model.embedding_size, settings.model.num_layers) == (32, 32, 2)
    assert (settings.fit.lr, settings.fit.epochs, settings.fit.clip, settings.data.batch) == (5e-3, 300, 1.0, 64)
    code, out, err = run(
        "train", "translate", "--recipe", "d2l", "--data", str(pairs), "--epochs", "1", "--attention", "none",
        "--out", str(tmp_path / "run"),
    )  # fmt: skip
    assert code == 0, err
    assert "4 sentences of the book" in out
    assert "144 to learn" in out
    assert not (tmp_path / "run" / "attention.png").exists()
    code, _, err = run("translate", str(tmp_path / "run"), "a u .", "--attention-map", str(tmp_path / "x.png"))
    assert (code, "has no attention to draw" in err) == (2, True)
    pairs.write_text("a\tb\nc\n")
    code, _, err = run("train", "translate", "--data", str(pairs), "--out", str(tmp_path / "other"))
    assert (code, "line 2: expected a source, a tab" in err) == (2, True)
    assert not (tmp_path / "other").exists()


def test_settings_that_do_not_fit_are_refused_before_a_folder_is_made(tmp_path):
    for flags, message in [
        ({"attention": "dot"}, "attention is one of additive, none; got 'dot'"),
        ({"cell": "lstm_projected"}, "projects its output"),
        ({"batch": 15, "devices": 2}, "shared by 2 devices"),
        ({"pairs": 2}, "too few"),
    ]:
        with pytest.raises(InputError, match=message):
            translate.train(translate.TranslateSettings.of(**{**SMALL, **flags}), tmp_path / "run")
    (tmp_path / "pairs.tsv").write_text("a b\tb a\n" * 9)
    settings = translate.TranslateSettings.of("d2l", data=str(tmp_path / "pairs.tsv"), longest=3)
    with pytest.raises(InputError, match=r"'i lost \.' has 3 tokens"):
        translate.train(settings, tmp_path / "run")
    assert not (tmp_path / "run").exists()
