"""What Keras's layers compute and torch has no module for, channels last as in Keras."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gatewise.convert.keras.activations import named


class Activation(nn.Module):
    """An activation by Keras's name. second: as Keras 2 has it."""

    def __init__(self, name: str, second: bool = False) -> None:
        super().__init__()
        self.name, self.second = name, second

    def forward(self, x: Tensor) -> Tensor:
        found = named(self.name, 2 if self.second else 3, in_cell=False)
        assert found is not None
        made: Tensor = found(x)
        return made

    def extra_repr(self) -> str:
        return self.name


class Function(nn.Module):
    """A function of tensors, with settings."""

    def __init__(self, function: Callable[..., Any], **settings: Any) -> None:
        super().__init__()
        self.function, self.settings = function, settings

    def forward(self, *tensors: Tensor) -> Any:
        return self.function(*tensors, **self.settings)

    def extra_repr(self) -> str:
        return ", ".join([self.function.__name__, *(f"{k}={v!r}" for k, v in self.settings.items())])


class Merge(Function):
    """Multiply, Maximum or Minimum, which in Keras 3 take no step of an input that its mask leaves out.

    Called as (*tensors, masks=None): masks (B, T) or None, one for each tensor.
    """

    def forward(self, *tensors: Tensor, masks: Sequence[Tensor | None] | None = None) -> Any:
        if masks is None:
            return super().forward(*tensors)
        counts = [None if mask is None else mask.unsqueeze(-1) for mask in masks]
        if self.function is product:
            made = product(*(x if c is None else torch.where(c, x, 1.0) for x, c in zip(tensors, counts, strict=True)))
            some = [c for c in counts if c is not None]
            return made if len(some) < len(counts) else torch.where(reduce(torch.logical_or, some), made, 0.0)
        made, known = tensors[0], counts[0]
        for x, count in zip(tensors[1:], counts[1:], strict=True):
            x = x if count is None else torch.where(count, x, made)
            made = self.function(made if known is None else torch.where(known, made, x), x)
            known = None if known is None or count is None else torch.logical_or(known, count)
        return made


class Convolution(nn.Module):
    """A convolution over (B, …, C), padded as Keras pads it. padding: "valid", "same" or "causal"."""

    def __init__(self, inner: nn.Conv1d | nn.Conv2d, padding: str) -> None:
        super().__init__()
        self.inner, self.padding = inner, padding

    def forward(self, x: Tensor) -> Tensor:
        inner = self.inner
        x = x.movedim(-1, 1)
        x = F.pad(x, padded(x.shape[2:], inner.kernel_size, inner.stride, inner.dilation, self.padding))
        out: Tensor = inner(x)
        return out.movedim(1, -1)


class Pooling(nn.Module):
    """The largest or the average of a window, over (B, …, C); what is padded does not count."""

    def __init__(self, largest: bool, size: Sequence[int], stride: Sequence[int], padding: str) -> None:
        super().__init__()
        self.largest, self.size, self.stride, self.padding = largest, tuple(size), tuple(stride), padding

    def forward(self, x: Tensor) -> Tensor:
        x = x.movedim(-1, 1)
        around = padded(x.shape[2:], self.size, self.stride, (1,) * len(self.size), self.padding)
        if self.largest:
            pool: Any = F.max_pool1d if len(self.size) == 1 else F.max_pool2d
            made: Tensor = pool(F.pad(x, around, value=-torch.inf), self.size, self.stride)
        else:
            pool = F.avg_pool1d if len(self.size) == 1 else F.avg_pool2d
            counted = pool(F.pad(torch.ones_like(x[:1, :1]), around), self.size, self.stride)
            made = pool(F.pad(x, around), self.size, self.stride) / counted
        return made.movedim(1, -1)

    def extra_repr(self) -> str:
        return f"{'max' if self.largest else 'average'}, {self.size}, {self.stride}, {self.padding}"


def padded(
    sizes: Sequence[int], kernel: Sequence[Any], stride: Sequence[Any], dilation: Sequence[Any], padding: str
) -> list[int]:
    """What F.pad is told, so that a window over these sizes does what `padding` says."""
    around: list[int] = []
    for n, k, s, d in zip(sizes, kernel, stride, dilation, strict=True):
        reach = (k - 1) * d
        if padding == "causal":
            pair = [reach, 0]
        elif padding == "same":
            whole = max((-(-n // s) - 1) * s + reach + 1 - n, 0)
            pair = [whole // 2, whole - whole // 2]
        else:
            pair = [0, 0]
        around = pair + around  # F.pad begins with the last axis
    return around


class BatchNorm(nn.Module):
    """Batch normalisation of one axis of any tensor."""

    def __init__(self, inner: nn.BatchNorm1d, axis: int) -> None:
        super().__init__()
        self.inner, self.axis = inner, axis

    def forward(self, x: Tensor) -> Tensor:
        last = x.movedim(self.axis, -1)
        out: Tensor = self.inner(last.reshape(-1, last.shape[-1]))
        return out.reshape(last.shape).movedim(-1, self.axis)


class LastAxis(nn.Module):
    """A module for tensors whose last axis is this one, as a file of Keras 2 tells it.

    Raises: ValueError: the input has another number of axes.
    """

    def __init__(self, inner: nn.Module, axis: int) -> None:
        super().__init__()
        self.inner, self.axis = inner, axis

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != self.axis + 1:
            raise ValueError(f"LastAxis: the input has shape {tuple(x.shape)}, expected {self.axis + 1} axes")
        out: Tensor = self.inner(x)
        return out


class PReLU(nn.Module):
    """x where it is positive, else alpha x; alpha broadcasts."""

    def __init__(self, alpha: Tensor) -> None:
        super().__init__()
        self.alpha = nn.Parameter(alpha)

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x) - self.alpha * torch.relu(-x)


class TimeDistributed(nn.Module):
    """A module that is run on every step: time and batch are one axis to it."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.inner(x.flatten(0, 1))
        return out.reshape(*x.shape[:2], *out.shape[1:])


# --- functions ---------------------------------------------------------------------------------------


def indices(x: Tensor) -> Tensor:
    """Indices of an embedding, which Keras takes as floats too."""
    return x if x.dtype in (torch.int32, torch.int64) else x.long()


def nonzero(x: Tensor, embedded: Tensor) -> Tensor:
    """The mask of Embedding(mask_zero=True). embedded: what it makes, which tells whose mask this is."""
    return x != 0


def masking(x: Tensor, value: float) -> Tensor:
    """The mask of Masking."""
    return (x != value).any(-1)


def masked(x: Tensor, mask: Tensor) -> Tensor:
    """x, zeros where the mask is False."""
    return torch.where(mask.unsqueeze(-1), x, torch.zeros_like(x))


def ones(x: Tensor) -> Tensor:
    """The mask (B, T) in which every step counts."""
    return torch.ones_like(x[..., 0], dtype=torch.bool)


def masked_mean(x: Tensor, mask: Tensor, keepdims: bool) -> Tensor:
    """GlobalAveragePooling1D over the steps that count."""
    counts = mask.unsqueeze(-1).to(x.dtype).sum(1, keepdim=keepdims)
    return masked(x, mask).sum(1, keepdim=keepdims) / counts


def reduced(x: Tensor, largest: bool, axes: Sequence[int], keepdims: bool) -> Tensor:
    return torch.amax(x, list(axes), keepdims) if largest else torch.mean(x, list(axes), keepdims)


def reshaped(x: Tensor, shape: Sequence[int]) -> Tensor:
    return x.reshape(x.shape[0], *shape)


def permuted(x: Tensor, dims: Sequence[int]) -> Tensor:
    return x.permute(0, *dims)


def repeated(x: Tensor, n: int) -> Tensor:
    return x.unsqueeze(1).expand(-1, n, -1)


def padding(x: Tensor, around: Sequence[int]) -> Tensor:
    return F.pad(x, [0, 0, *around])


def cropped(x: Tensor, before: int, after: int) -> Tensor:
    return x[:, before : x.shape[1] - after]


def upsampled(x: Tensor, size: int) -> Tensor:
    return x.repeat_interleave(size, 1)


def rectified(x: Tensor, slope: float, most: float | None, threshold: float) -> Tensor:
    """Keras's ReLU: x between threshold and most, slope (x - threshold) below."""
    above = x if most is None else x.clamp(max=most)
    return torch.where(x >= threshold, above, slope * (x - threshold))


def rescaled(x: Tensor, scale: float | Sequence[float], offset: float | Sequence[float]) -> Tensor:
    """x scale + offset; lists are over the last axis."""
    x = x if x.is_floating_point() else x.float()
    return x * x.new_tensor(scale) + x.new_tensor(offset)


def elu(x: Tensor, alpha: float) -> Tensor:
    return F.elu(x, alpha)


def softmax(x: Tensor, axis: int) -> Tensor:
    return torch.softmax(x, axis)


def concatenated(*tensors: Tensor, axis: int) -> Tensor:
    return torch.cat(tensors, axis)


def total(*tensors: Tensor) -> Tensor:
    made = tensors[0]
    for t in tensors[1:]:
        made = made + t
    return made


def difference(one: Tensor, two: Tensor) -> Tensor:
    return one - two


def product(*tensors: Tensor) -> Tensor:
    made = tensors[0]
    for t in tensors[1:]:
        made = made * t
    return made


def average(*tensors: Tensor) -> Tensor:
    return total(*tensors) / len(tensors)


def largest(*tensors: Tensor) -> Tensor:
    made = tensors[0]
    for t in tensors[1:]:
        made = torch.maximum(made, t)
    return made


def smallest(*tensors: Tensor) -> Tensor:
    made = tensors[0]
    for t in tensors[1:]:
        made = torch.minimum(made, t)
    return made


def dotted(one: Tensor, two: Tensor, axes: Sequence[int], normalize: bool) -> Tensor:
    """Products of two tensors over an axis of each, sample by sample."""
    if normalize:
        one, two = F.normalize(one, dim=axes[0], eps=1e-6), F.normalize(two, dim=axes[1], eps=1e-6)
    left, right = one.movedim(axes[0], -1), two.movedim(axes[1], 1)
    rest = (*left.shape[1:-1], *right.shape[2:])
    made = left.reshape(left.shape[0], -1, left.shape[-1]) @ right.reshape(right.shape[0], right.shape[1], -1)
    return made.reshape(made.shape[0], *(rest or (1,)))
