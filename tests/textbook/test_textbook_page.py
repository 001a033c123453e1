"""docs/textbook.md: each block runs on its own, in an empty folder, and prints what its comments say."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch

import gatewise

PAGE = (Path(__file__).parents[2] / "docs" / "textbook.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=lambda block: str(BLOCKS.index(block)))
def test_a_block_runs_as_it_stands(
    block: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # runs' folders go there
    torch.set_default_dtype(torch.float32)  # as a user has it
    file = tmp_path / "block.py"  # a cell's equations are read from its file
    file.write_text(block, encoding="utf-8")
    exec(compile(block, str(file), "exec"), {})
    printed = capsys.readouterr().out
    if ".fit(" not in block:  # a training tells how it goes
        assert bool(printed) == ("print(" in block)
        comments = re.findall(r"# (.*)", block)
        for line in printed.splitlines():
            assert line in comments, line


def test_the_books_names_are_on_the_page() -> None:
    for name in [
        "load_data_time_machine", "Vocab", "read_time_machine", "seq_data_iter_random", "seq_data_iter_sequential",
        "RNNModelScratch", "RNNModel", "RNNScratch", "RNNLMScratch", "RNNLM", "train_ch8", "train_epoch_ch8",
        "predict_ch8", "grad_clipping", "d2l.sgd", "perplexity", "GRUScratch", "LSTMScratch", "get_params",
        "init_gru_state", "StackedRNNScratch", "BiRNNScratch", "load_data_nmt", "MTFraEng", "bleu", "truncate_pad",
        "Encoder", "Decoder", "Seq2SeqEncoder", "Seq2SeqDecoder", "MaskedSoftmaxCELoss", "train_seq2seq",
        "predict_seq2seq", "AdditiveAttention", "AttentionDecoder", "d2l.Trainer", "d2l.try_gpu", "d2l.Timer",
        "d2l.Animator", "xavier_init_weights",
    ]:  # fmt: skip
        assert re.search(rf"\b{re.escape(name)}\b", PAGE), name


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`gatewise\.(\w+)", PAGE))))
def test_what_the_page_names_is_there(name: str) -> None:
    assert hasattr(gatewise, name) or name in ("cells", "convert")
