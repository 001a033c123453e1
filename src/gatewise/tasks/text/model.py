"""The language model, and text from it."""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

import gatewise
from gatewise.errors import InputError
from gatewise.tasks.find_cell import find_cell
from gatewise.tasks.models import check_layer, evaluating
from gatewise.tasks.settings import check_seed
from gatewise.tasks.text.data import Vocabulary
from gatewise.tasks.text.settings import ModelSettings, SampleSettings

State = Any  # a tensor (L, B, H), or a tuple of them for a cell with several states


class LanguageModel(nn.Module):
    """The probabilities of the next character: a recurrent layer on one-hot characters, then a linear one.

        h_t = layer(one_hot(x_t), h_{t-1})
        p(x_{t+1}) = softmax(W h_t + b)

    Args:
        cell: a built-in cell's name or `"FILE.py:NAME"`, a `gatewise.Graph`, or a layer of gatewise that is
            one-directional, time-major and takes `len(vocabulary)` inputs.
        vocabulary: the characters.
        sizes: where `cell` is no layer: `hidden_size`, `num_layers`, `dropout`, `bias`, `proj_size`, `init`;
            see `ModelSettings`.

    Raises:
        InputError: there is no such cell, or a size is out of its range.
        ValueError: the layer does not fit the vocabulary, is bidirectional or batch-first.
    """

    layer: Any  # a layer of gatewise; it has `cell`, `hidden_size` and so on, which nn.Module does not declare

    def __init__(self, cell: Any, vocabulary: Vocabulary, **sizes: Any) -> None:
        super().__init__()
        if isinstance(cell, nn.Module):
            if sizes:
                raise TypeError(f"LanguageModel: the layer has its sizes already; got {', '.join(sizes)} besides it")
            self.layer = cell
        else:
            graph = find_cell(cell) if isinstance(cell, str) else cell
            settings = ModelSettings(cell=graph.name, **sizes)
            self.layer = gatewise.Recurrent(
                graph,
                len(vocabulary),
                settings.hidden_size,
                settings.num_layers,
                bias=settings.bias,
                dropout=settings.dropout,
                proj_size=settings.proj_size,
            )
        unfit, why = ("bidirectional", "batch_first"), "text is read step by step"
        check_layer("LanguageModel", self.layer, len(vocabulary), " = len(vocabulary)", unfit, why)
        self.vocabulary = vocabulary
        self.output = nn.Linear(self.layer.proj_size or self.layer.hidden_size, len(vocabulary))
        if sizes.get("init") == "d2l":
            _start_as_d2l(self)

    def forward(self, x: Tensor, state: State = None) -> tuple[Tensor, State]:
        """Scores of the next characters.

        Args:
            x: (T, B) characters, as numbers (int64).
            state: (L, B, H), or a tuple of such tensors; None starts from zero.

        Returns:
            (T, B, V) unnormalised log-probabilities, and the state after the last step.
        """
        out, state = self.layer(x, state)
        return self.output(out), state

    def settings(self) -> ModelSettings:
        """The sizes, as settings from which a model with the same parameters can be built."""
        return ModelSettings.of_layer(self.layer, bias=self.layer.bias, proj_size=self.layer.proj_size)


@torch.no_grad()
def _start_as_d2l(model: LanguageModel) -> None:
    """Weights N(0, 0.01²) and zero biases, as in the book's networks from scratch (d2l.ai, section 9.5)."""
    for name, parameter in model.named_parameters():
        if "bias" in name:
            parameter.zero_()
        else:
            parameter.normal_(0, 0.01)


def stream(
    model: LanguageModel, prompt: str, length: int, *, temperature: float = 1.0, seed: int | None = None
) -> Iterator[str]:
    """Characters that continue a prompt, one at a time, as they come.

    The state is carried, so each character costs one step. Dropout is off, and torch's global random state is
    left alone.

    Args:
        model: the model.
        prompt: what is to be continued; at least one character, all from the model's vocabulary.
        length: how many characters to write.
        temperature: the scores are divided by it: below 1 the likely becomes likelier; 0 takes the likeliest.
        seed: of the drawing; None draws differently each time.

    Raises:
        InputError: the prompt is empty or holds an unknown character, or a number is out of its range.
    """
    if not prompt:
        raise InputError("the prompt is empty: give at least one character to continue")
    if not 0 <= temperature < math.inf:
        raise InputError(f"temperature must be 0 (always the likeliest) or above; got {temperature}")
    if length < 0:
        raise InputError(f"length must be 0 or more; got {length}")
    ids = model.vocabulary.encode(prompt).unsqueeze(1)
    random = torch.Generator()
    if seed is None:
        random.seed()
    else:
        check_seed(seed)
        random.manual_seed(seed)
    return _stream(model, ids, length, temperature, random)


def _stream(
    model: LanguageModel, ids: Tensor, length: int, temperature: float, random: torch.Generator
) -> Iterator[str]:
    state: State = None
    for _ in range(length):
        scores, state = _step(model, ids, state)
        if temperature:
            ids = torch.multinomial((scores / temperature).softmax(-1), 1, generator=random).unsqueeze(0)
        else:
            ids = scores.argmax().view(1, 1)
        yield model.vocabulary.tokens[int(ids)]


@torch.no_grad()
def _step(model: LanguageModel, ids: Tensor, state: State) -> tuple[Tensor, State]:
    """Scores (V,) after the last of `ids` (T, 1), on the CPU, so that a seed gives one text on any device."""
    with evaluating(model):
        scores, state = model(ids.to(model.output.weight.device), state)
    return scores[-1, 0].float().cpu(), state


def generate(
    model: LanguageModel, prompt: str, length: int, *, temperature: float = 1.0, seed: int | None = None
) -> str:
    """The continuation of a prompt, without the prompt; see `stream` for the arguments."""
    return "".join(stream(model, prompt, length, temperature=temperature, seed=seed))


def continuations(model: LanguageModel, examples: SampleSettings) -> list[str]:
    """Each prompt with what the model makes of it."""
    length, temperature, seed = examples.length, examples.temperature, examples.seed
    return [prompt + generate(model, prompt, length, temperature=temperature, seed=seed) for prompt in examples.prompts]
