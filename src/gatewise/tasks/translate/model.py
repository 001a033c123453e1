"""The encoder, the attention and the decoder, and the translator made of them."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import gatewise
from gatewise.tasks.find_cell import find_cell
from gatewise.tasks.translate.data import Language
from gatewise.tasks.translate.settings import ModelSettings
from gatewise.tasks.translate.translation import Translation, translations

State = Any  # a tensor (L, B, H), or a tuple of them for a cell with several states


def top(state: State) -> Tensor:
    """The output's state of the top layer, (B, H): h of an LSTM's h and c."""
    first: Tensor = state[0] if isinstance(state, tuple) else state
    return first[-1]


class Encoder(nn.Module):
    """Reads the source: an embedding and a recurrent layer over it.

        e_s = embedding(x_s)
        h_s = layer(e_s, h_{s-1})

    Args:
        tokens: size of the vocabulary.
        layer: a layer of gatewise, one-directional and time-major; its `input_size` is the embedding's.
    """

    def __init__(self, tokens: int, layer: Any) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, layer.input_size)
        self.layer = layer

    def forward(self, x: Tensor, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        """Run over sentences.

        Args:
            x: (S, B) tokens as numbers.
            lengths: (B,) how many of each are the sentence; what follows is not looked at. None for all.

        Returns:
            output: (S, B, H), zero beyond the lengths.
            state: (L, B, H) after each sentence's last token, or a tuple of such tensors.
        """
        output, state = self.layer(self.embedding(x), lengths=lengths)
        return output, state


class AdditiveAttention(nn.Module):
    """Where to look: a small network scores each source token for the decoder's state.

        a_s = v · tanh(W_q q + W_k k_s)
        α = softmax(a) over the sentence's own tokens
        context = Σ_s α_s k_s

    Args:
        size: H, of the query, of the keys and of the network between them.
        dropout: the share of α that is dropped in training.

    Source: Bahdanau, Cho and Bengio 2014, arXiv 1409.0473; without biases as in the d2l book, section 11.3.
    """

    def __init__(self, size: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.query = nn.Linear(size, size, bias=False)
        self.key = nn.Linear(size, size, bias=False)
        self.score = nn.Linear(size, 1, bias=False)
        self.dropout = dropout

    def keys(self, output: Tensor) -> Tensor:
        """W_k k_s for all s at once, (S, B, H): the same at every step of the decoder."""
        projected: Tensor = self.key(output)
        return projected

    def forward(self, query: Tensor, keys: Tensor, values: Tensor, beyond: Tensor) -> tuple[Tensor, Tensor]:
        """Look once.

        Args:
            query: (B, H). keys: (S, B, H), from `keys`. values: (S, B, H).
            beyond: (S, B) true where a sentence is over.

        Returns:
            context: (B, H). weights: (S, B), which sum to 1 over each sentence and are 0 beyond it.
        """
        scores = self.score(torch.tanh(self.query(query) + keys)).squeeze(2)
        weights = scores.masked_fill(beyond, -torch.inf).softmax(0)
        used = F.dropout(weights, self.dropout, self.training)
        return torch.einsum("sb,sbh->bh", used, values), weights


class Memory:
    """What the decoder sees of the source at every step.

    Args:
        values: (S, B, H) the encoder's outputs; without attention its last state, (1, B, H).
        keys: (S, B, H), see `AdditiveAttention.keys`.
        beyond: (S, B) true where a sentence is over.
    """

    def __init__(self, values: Tensor, keys: Tensor | None = None, beyond: Tensor | None = None) -> None:
        self.values, self.keys, self.beyond = values, keys, beyond

    def repeated(self, times: int) -> "Memory":
        """One sentence's memory for several translations of it."""
        values, keys, beyond = (
            None if part is None else part.expand(-1, times, *part.shape[2:])
            for part in (self.values, self.keys, self.beyond)
        )
        assert values is not None
        return Memory(values, keys, beyond)


class Decoder(nn.Module):
    """Writes the target: at each step it reads its last token and a context, and scores the next token.

        c_t = attention(h_{t-1}, outputs of the encoder), or the encoder's last state where there is none
        h_t = layer([embedding(y_{t-1}), c_t], h_{t-1})
        p(y_t) = softmax(W h_t + b)

    Args:
        tokens: size of the vocabulary.
        embedding_size: E.
        layer: a layer of gatewise with `input_size` E + H.
        attention: where to look, or None.
    """

    def __init__(self, tokens: int, embedding_size: int, layer: Any, attention: AdditiveAttention | None) -> None:
        super().__init__()
        self.embedding = nn.Embedding(tokens, embedding_size)
        self.layer, self.attention = layer, attention
        self.output = nn.Linear(layer.hidden_size, tokens)

    def begin(self, output: Tensor, state: State, lengths: Tensor) -> Memory:
        """What is known of the source before the first step: see `Memory`."""
        if self.attention is None:
            return Memory(top(state).unsqueeze(0))
        beyond = torch.arange(output.shape[0], device=output.device).unsqueeze(1) >= lengths.to(output.device)
        return Memory(output, self.attention.keys(output), beyond)

    def forward(self, y: Tensor, state: State, memory: Memory) -> Tensor:
        """Scores of all next tokens, where the right ones before are given (teacher forcing).

        Args:
            y: (T, B) the tokens before each step, `<bos>` first.
            state: the encoder's last.
            memory: what `begin` made.

        Returns:
            (T, B, V) unnormalised log-probabilities.
        """
        embedded = self.embedding(y)
        if self.attention is None:  # the context is known beforehand, so all steps run in one call
            context = memory.values.expand(y.shape[0], -1, -1)
            output, _ = self.layer(torch.cat((embedded, context), 2), state)
        else:
            outputs = []
            for e in embedded:
                context, _ = self.attention(top(state), memory.keys, memory.values, memory.beyond)
                out, state = self.layer.step(torch.cat((e, context), 1), state)
                outputs.append(out)
            output = torch.stack(outputs)
        scores: Tensor = self.output(output)
        return scores

    def step(self, y: Tensor, state: State, memory: Memory) -> tuple[Tensor, State, Tensor | None]:
        """One step.

        Args:
            y: (B,) the tokens before it.

        Returns:
            scores: (B, V). state: after it. weights: (S, B) of the attention, or None.
        """
        if self.attention is None:
            context, weights = memory.values[0], None
        else:
            context, weights = self.attention(top(state), memory.keys, memory.values, memory.beyond)
        output, state = self.layer.step(torch.cat((self.embedding(y), context), 1), state)
        return self.output(output), state, weights


class Translator(nn.Module):
    """An encoder that reads a sentence, and a decoder that writes its translation.

    Args:
        cell: a built-in cell's name or `"FILE.py:NAME"`, or a `gatewise.Graph`.
        source, target: the languages.
        longest: a sentence's most tokens, `<eos>` counted.
        sizes: `embedding_size`, `hidden_size`, `num_layers`, `dropout`, `attention`, `init`; see `ModelSettings`.

    Raises:
        InputError: there is no such cell, or a size is out of its range.
        ValueError: the cell cannot be used here.

    Source: Sutskever, Vinyals and Le 2014, arXiv 1409.3215; Cho et al. 2014, arXiv 1406.1078, whose decoder reads
    the context at every step; with attention, Bahdanau et al. 2014, arXiv 1409.0473.
    """

    def __init__(self, cell: Any, source: Language, target: Language, longest: int = 50, **sizes: Any) -> None:
        super().__init__()
        graph = find_cell(cell) if isinstance(cell, str) else cell
        s = ModelSettings(cell=graph.name, **sizes)
        self.source, self.target, self.longest, self._settings = source, target, longest, s
        layers: dict[str, Any] = {"num_layers": s.num_layers, "dropout": s.dropout}
        attention = AdditiveAttention(s.hidden_size, s.dropout) if s.attention == "additive" else None
        self.encoder = Encoder(len(source), gatewise.Recurrent(graph, s.embedding_size, s.hidden_size, **layers))
        layer = gatewise.Recurrent(graph, s.embedding_size + s.hidden_size, s.hidden_size, **layers)
        self.decoder = Decoder(len(target), s.embedding_size, layer, attention)
        if attention is not None:
            try:
                layer.step(torch.zeros(1, layer.input_size))
            except RuntimeError as error:  # a mask that is drawn once a sequence
                raise ValueError(f"{error}; with --attention none it is one call") from error
        if s.init == "xavier":
            _start_by_xavier(self)

    @property
    def layer(self) -> Any:
        """The encoder's recurrent layer; the decoder's has the same cell and sizes."""
        return self.encoder.layer

    def settings(self) -> ModelSettings:
        """The sizes, as settings from which a model with the same parameters can be built."""
        return self._settings

    def read(self, source: Tensor, lengths: Tensor) -> tuple[Memory, State]:
        """Encode sentences (S, B) of these lengths (B,): what the decoder begins with."""
        output, state = self.encoder(source, lengths)
        return self.decoder.begin(output, state, lengths), state

    def forward(self, source: Tensor, lengths: Tensor, y: Tensor) -> Tensor:
        """Scores of the translations' tokens, each from the right ones before it.

        Args:
            source: (S, B) tokens. lengths: (B,).
            y: (T, B) the tokens before each step, `<bos>` first.

        Returns:
            (T, B, V) unnormalised log-probabilities.
        """
        memory, state = self.read(source, lengths)
        scores: Tensor = self.decoder(y, state, memory)
        return scores

    def translate(self, text: str, *, beam: int = 1, unknown: bool = False) -> Translation:
        """Translate a sentence; see `translations`."""
        return translations(self, [text], beam=beam, unknown=unknown)[0]


@torch.no_grad()
def _start_by_xavier(model: Translator) -> None:
    """Glorot's uniform weights in linear and recurrent layers, as the d2l book's `xavier_init_weights`."""
    for module in model.modules():
        if isinstance(module, (nn.Linear, gatewise.Recurrent)):
            for name, parameter in module.named_parameters(recurse=False):
                if "weight" in name:
                    nn.init.xavier_uniform_(parameter)
