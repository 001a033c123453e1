"""The programs of Dive into Deep Learning that use recurrent layers, rebuilt from their descriptions, in few lines.

Names are the book's, so that a test reads like its page. What differs: tensors come in torch's default dtype, which the
tests set to float64, where the book writes float32; and layers come from `lib`, which is torch.nn or gatewise.

Source: Zhang, Lipton, Li, Smola, Dive into Deep Learning, d2l.ai; sections of release 1.0, those of 0.17 in brackets.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gatewise

WAYS = ("made", "replaced", "restored")  # how a model gets its layers; the last one is torch.nn's again
TEXT = "the time traveller for so it will be convenient to speak of him was expounding a recondite matter to us "


def model_by(way: str, build: Callable[[Any], Any], seed: int = 0) -> Any:
    """`build(lib)`, with layers made by gatewise, or put in torch.nn's place, or put back."""
    torch.manual_seed(seed)
    model = build(gatewise if way == "made" else nn)
    if way in ("replaced", "restored"):
        assert gatewise.replace(model).swapped
    if way == "restored":
        assert gatewise.restore(model).swapped
    return model


def one_hot(ids: Tensor, size: int) -> Tensor:
    return F.one_hot(ids.long(), size).to(torch.get_default_dtype())


def states_of(state: Any) -> tuple[Tensor, ...]:
    """An LSTM's two states, or the only one of the others."""
    return state if isinstance(state, tuple) else (state,)


# --- 9.2, 9.3 (8.2, 8.3): a text as numbers, and in windows ----------------------------------------------------


def corpus(text: str = TEXT * 2) -> tuple[list[int], list[str]]:
    """Characters as numbers, and the characters; number 0 is the unknown one."""
    tokens = ["<unk>", *dict.fromkeys(text)]
    return [tokens.index(c) for c in text], tokens


def seq_data_iter_random(ids: list[int], batch_size: int, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows in any order: neighbours in two minibatches aren't neighbours in the text."""
    ids = ids[random.randint(0, num_steps - 1) :]
    starts = list(range(0, (len(ids) - 1) // num_steps * num_steps, num_steps))
    random.shuffle(starts)
    for k in range(0, len(starts) // batch_size * batch_size, batch_size):
        rows = starts[k : k + batch_size]
        yield tuple(torch.tensor([ids[s + late :][:num_steps] for s in rows]) for late in (0, 1))


def seq_data_iter_sequential(ids: list[int], batch_size: int, num_steps: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Windows of which each goes on where the one in the minibatch before ended."""
    offset = random.randint(0, num_steps)
    row = (len(ids) - offset - 1) // batch_size
    X, Y = (torch.tensor(ids[offset + late :][: row * batch_size]).view(batch_size, row) for late in (0, 1))
    for k in range(0, row // num_steps * num_steps, num_steps):
        yield X[:, k : k + num_steps], Y[:, k : k + num_steps]


ITERATORS = {"random": seq_data_iter_random, "sequential": seq_data_iter_sequential}


# --- 9.5, 9.6 (8.5, 8.6): language models, their training and what they write ----------------------------------


class RNNModelScratch:
    """The net from scratch: a list of parameters and a function of them."""

    def __init__(
        self, vocab_size: int, num_hiddens: int, device: Any, get_params: Any, init_state: Any, forward_fn: Any
    ) -> None:
        self.vocab_size, self.num_hiddens = vocab_size, num_hiddens
        self.params = get_params(vocab_size, num_hiddens, device)
        self.init_state, self.forward_fn = init_state, forward_fn

    def __call__(self, X: Tensor, state: Any) -> Any:
        return self.forward_fn(one_hot(X.T, self.vocab_size), state, self.params)

    def begin_state(self, batch_size: int, device: Any) -> Any:
        return self.init_state(batch_size, self.num_hiddens, device)


class RNNModel(nn.Module):
    """The concise net: a layer of the framework and a linear one."""

    def __init__(self, rnn_layer: nn.Module, vocab_size: int) -> None:
        super().__init__()
        self.rnn, self.vocab_size, self.num_hiddens = rnn_layer, vocab_size, rnn_layer.hidden_size
        self.num_directions = 2 if self.rnn.bidirectional else 1
        self.linear = nn.Linear(self.num_directions * self.num_hiddens, vocab_size)

    def forward(self, inputs: Tensor, state: Any) -> tuple[Tensor, Any]:
        Y, state = self.rnn(one_hot(inputs.T, self.vocab_size), state)
        return self.linear(Y.reshape((-1, Y.shape[-1]))), state

    def begin_state(self, device: Any, batch_size: int = 1) -> Any:
        shape = (self.num_directions * self.rnn.num_layers, batch_size, self.num_hiddens)
        if not isinstance(self.rnn, nn.LSTM):
            return torch.zeros(shape, device=device)
        return torch.zeros(shape, device=device), torch.zeros(shape, device=device)


def sgd(params: Sequence[Tensor], lr: float, batch_size: int) -> None:
    with torch.no_grad():
        for param in params:
            param -= lr * param.grad / batch_size
            param.grad.zero_()


def grad_clipping(net: Any, theta: float) -> None:
    params = [p for p in net.parameters() if p.requires_grad] if isinstance(net, nn.Module) else net.params
    norm = torch.sqrt(sum(torch.sum(p.grad**2) for p in params))
    if norm > theta:
        for param in params:
            param.grad[:] *= theta / norm


def train_ch8(net: Any, ids: list[int], lr: float, epochs: int, sampling: str, steps: int = 7) -> list[float]:
    """The loss of each minibatch. States are carried where the sampling is sequential, and detached in place."""
    random.seed(0)
    loss, losses = nn.CrossEntropyLoss(), []
    module = isinstance(net, nn.Module)
    optimizer = torch.optim.SGD(net.parameters(), lr) if module else None
    for _ in range(epochs):
        state = None
        for X, Y in ITERATORS[sampling](ids, 3, steps):
            if state is None or sampling == "random":
                state = net.begin_state(batch_size=X.shape[0], device="cpu")
            elif module and not isinstance(state, tuple):
                state.detach_()
            else:
                for s in state:
                    s.detach_()
            y_hat, state = net(X, state)
            value = loss(y_hat, Y.T.reshape(-1).long()).mean()
            if optimizer is not None:
                optimizer.zero_grad()
            value.backward()
            grad_clipping(net, 1)
            sgd(net.params, lr, 1) if optimizer is None else optimizer.step()
            losses.append(value.item())
    return losses


def predict_ch8(prefix: str, num_preds: int, net: Any, tokens: list[str]) -> str:
    state = net.begin_state(batch_size=1, device="cpu")
    outputs = [tokens.index(prefix[0])]
    for known in [*prefix[1:], *[None] * num_preds]:
        y, state = net(torch.tensor([outputs[-1]]).reshape(1, 1), state)
        outputs.append(int(y.argmax(dim=1).reshape(1)) if known is None else tokens.index(known))
    return "".join(tokens[i] for i in outputs)


# --- the same in release 1.0: modules within modules ------------------------------------------------------------


class RNN(nn.Module):
    """The framework's layer, and a name for its hidden size; LSTM and deep nets are the same with another layer."""

    def __init__(self, rnn: nn.Module) -> None:
        super().__init__()
        self.rnn, self.num_hiddens = rnn, rnn.hidden_size

    def forward(self, inputs: Tensor, H: Any = None) -> Any:
        return self.rnn(inputs, H)


class RNNLM(nn.Module):
    """A language model that starts each minibatch from no state; scores come as (B, T, vocabulary)."""

    def __init__(self, rnn: nn.Module, vocab_size: int) -> None:
        super().__init__()
        self.rnn, self.vocab_size, self.linear = rnn, vocab_size, nn.LazyLinear(vocab_size)

    def forward(self, X: Tensor, state: Any = None) -> Tensor:
        return self.linear(self.rnn(one_hot(X.T, self.vocab_size), state)[0]).swapaxes(0, 1)


# --- 10.7, 11.4 (9.7, 10.4): from sequence to sequence -----------------------------------------------------------


class Seq2SeqEncoder(nn.Module):
    def __init__(self, lib: Any, vocab: int, embed: int, hiddens: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, embed)
        self.rnn = lib.GRU(embed, hiddens, layers, dropout=dropout)

    def forward(self, X: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
        return self.rnn(self.embedding(X).permute(1, 0, 2))


class Seq2SeqDecoder(nn.Module):
    """Reads the encoder's last state beside each token."""

    def __init__(self, lib: Any, vocab: int, embed: int, hiddens: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocab, embed)
        self.rnn = lib.GRU(embed + hiddens, hiddens, layers, dropout=dropout)
        self.dense = nn.Linear(hiddens, vocab)

    def init_state(self, enc_outputs: tuple[Tensor, Tensor], *_: Any) -> Any:
        return enc_outputs[1]

    def forward(self, X: Tensor, state: Tensor) -> tuple[Tensor, Any]:
        X = self.embedding(X).permute(1, 0, 2)
        output, state = self.rnn(torch.cat((X, state[-1].repeat(X.shape[0], 1, 1)), 2), state)
        return self.dense(output).permute(1, 0, 2), state


class AdditiveAttention(nn.Module):
    def __init__(self, hiddens: int) -> None:
        super().__init__()
        self.W_k, self.W_q = (nn.Linear(hiddens, hiddens, bias=False) for _ in range(2))
        self.w_v = nn.Linear(hiddens, 1, bias=False)

    def forward(self, queries: Tensor, keys: Tensor, values: Tensor, valid_lens: Tensor | None) -> Tensor:
        features = torch.tanh(self.W_q(queries).unsqueeze(2) + self.W_k(keys).unsqueeze(1))
        scores = self.w_v(features).squeeze(-1)
        if valid_lens is not None:
            beyond = torch.arange(keys.shape[1]) >= valid_lens[:, None, None]
            scores = scores.masked_fill(beyond, -1e6)
        return torch.bmm(scores.softmax(-1), values)


class Seq2SeqAttentionDecoder(Seq2SeqDecoder):
    """Looks at the encoder's outputs anew at each step: the layer is called for one step at a time."""

    def __init__(self, lib: Any, vocab: int, embed: int, hiddens: int, layers: int, dropout: float = 0.0) -> None:
        super().__init__(lib, vocab, embed, hiddens, layers, dropout)
        self.attention = AdditiveAttention(hiddens)

    def init_state(self, enc_outputs: tuple[Tensor, Tensor], enc_valid_lens: Tensor, *_: Any) -> Any:
        outputs, hidden_state = enc_outputs
        return outputs.permute(1, 0, 2), hidden_state, enc_valid_lens

    def forward(self, X: Tensor, state: Any) -> tuple[Tensor, Any]:
        enc_outputs, hidden_state, enc_valid_lens = state
        outputs = []
        for x in self.embedding(X).permute(1, 0, 2):
            query = hidden_state[-1].unsqueeze(1)
            context = self.attention(query, enc_outputs, enc_outputs, enc_valid_lens)
            x = torch.cat((context, x.unsqueeze(1)), dim=-1)
            out, hidden_state = self.rnn(x.permute(1, 0, 2), hidden_state)
            outputs.append(out)
        return self.dense(torch.cat(outputs)).permute(1, 0, 2), [enc_outputs, hidden_state, enc_valid_lens]


class EncoderDecoder(nn.Module):
    def __init__(self, encoder: nn.Module, decoder: nn.Module) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, enc_X: Tensor, dec_X: Tensor, *args: Any) -> Any:
        return self.decoder(dec_X, self.decoder.init_state(self.encoder(enc_X, *args), *args))


class MaskedSoftmaxCELoss(nn.CrossEntropyLoss):
    def forward(self, pred: Tensor, label: Tensor, valid_len: Tensor) -> Tensor:
        self.reduction = "none"
        weights = (torch.arange(label.shape[1]) < valid_len[:, None]).to(pred.dtype)
        return (super().forward(pred.permute(0, 2, 1), label) * weights).mean(dim=1)


def xavier_by_type(m: nn.Module) -> None:
    """As the book asks: a subclass of nn.GRU is passed by."""
    if type(m) == nn.Linear:  # noqa: E721
        nn.init.xavier_uniform_(m.weight)
    if type(m) == nn.GRU:  # noqa: E721
        for param in m._flat_weights_names:
            if "weight" in param:
                nn.init.xavier_uniform_(m._parameters[param])


def xavier(m: nn.Module) -> None:
    """The same, asked so that it is right with gatewise's layers too."""
    if isinstance(m, nn.Linear):
        nn.init.xavier_uniform_(m.weight)
    if isinstance(m, nn.GRU):
        for param in m._flat_weights_names:
            if "weight" in param:
                nn.init.xavier_uniform_(m._parameters[param])


def train_seq2seq(net: nn.Module, batches: Any, lr: float, epochs: int, bos: int) -> list[float]:
    optimizer, loss, losses = torch.optim.Adam(net.parameters(), lr=lr), MaskedSoftmaxCELoss(), []
    net.train()
    for _ in range(epochs):
        for X, X_valid_len, Y, Y_valid_len in batches:
            optimizer.zero_grad()
            dec_input = torch.cat([torch.full((Y.shape[0], 1), bos), Y[:, :-1]], 1)
            Y_hat, _ = net(X, dec_input, X_valid_len)
            value = loss(Y_hat, Y, Y_valid_len)
            value.sum().backward()
            grad_clipping(net, 1)
            optimizer.step()
            losses.append(value.sum().item())
    return losses


def predict_seq2seq(net: nn.Module, source: list[int], num_steps: int, bos: int, eos: int, pad: int) -> list[int]:
    net.eval()
    enc_valid_len = torch.tensor([len(source)])
    enc_X = torch.tensor((source + [pad] * num_steps)[:num_steps]).unsqueeze(0)
    state = net.decoder.init_state(net.encoder(enc_X, enc_valid_len), enc_valid_len)
    dec_X, found = torch.tensor([[bos]]), []
    for _ in range(num_steps):
        Y, state = net.decoder(dec_X, state)
        dec_X = Y.argmax(dim=2)
        if (token := int(dec_X.squeeze())) == eos:
            break
        found.append(token)
    return found
