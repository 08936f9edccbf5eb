"""The networks of the samples.

Those for images take [n, 64] as :func:`sample_checkpoints.load_digits` gives them, those for text [n, length]
as :func:`sample_checkpoints.load_text`.
"""

from collections import OrderedDict
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any, TypeVar

import torch
from torch import nn
from torch.nn.functional import gelu, linear
from torch.nn.utils import skip_init

__all__ = ["CharTransformer", "ResidualCNN", "build", "mlp"]

Model = TypeVar("Model", bound=nn.Module)
_ACTIVATIONS = {"relu": nn.ReLU, "tanh": nn.Tanh, "gelu": nn.GELU}


def mlp(widths: Sequence[int], activation: str = "relu", *, generator: torch.Generator | None = None) -> nn.Sequential:
    """Return a multilayer perceptron, [n, widths[0]] to [n, widths[-1]].

    Linear layers are ``fc1``, ``fc2``, ...; between them stand activations ``act1``, ``act2``, ...; the
    last layer has none. Weights are He-normal (fan in), biases zero, drawn from ``generator`` (torch's own
    if not given).

    Source: He et al. (2015), Delving Deep into Rectifiers, https://arxiv.org/abs/1502.01852.

    Raises:
        ValueError: fewer than two widths, or an activation other than relu, tanh and gelu.
    """
    if len(widths) < 2:
        raise ValueError(f"widths needs at least the input and the output width, got {tuple(widths)}")
    if activation not in _ACTIVATIONS:
        raise ValueError(f"activation is {activation!r}; accepted are {', '.join(_ACTIVATIONS)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for i, (fan_in, fan_out) in enumerate(pairwise(widths), start=1):
        layers[f"fc{i}"] = skip_init(nn.Linear, fan_in, fan_out)
        layers[f"act{i}"] = _ACTIVATIONS[activation]()
    layers.popitem()
    return _he_normal(nn.Sequential(layers), generator)


class ResidualCNN(nn.Module):
    """A small residual network with BatchNorm for 8×8 images of ten classes, [n, 64] to [n, 10].

    A 3×3 convolution to ``width`` channels, three residual blocks (``width``; ``2 * width`` at half the
    resolution; ``2 * width``), the mean over the image, a linear head. Weights are He-normal (fan in), biases
    zero, drawn from ``generator`` (torch's own if not given).

    Source: He et al. (2016), Deep Residual Learning for Image Recognition, https://arxiv.org/abs/1512.03385.
    """

    def __init__(self, width: int = 16, *, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.stem = _conv_bn(1, width)
        self.block1 = _ResidualBlock(width, width)
        self.block2 = _ResidualBlock(width, 2 * width, stride=2)
        self.block3 = _ResidualBlock(2 * width, 2 * width)
        self.head = skip_init(nn.Linear, 2 * width, 10)
        _he_normal(self, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, 10] of images [n, 64]."""
        h = torch.relu(self.stem(x.reshape(-1, 1, 8, 8)))
        h = self.block3(self.block2(self.block1(h)))
        return self.head(h.mean(dim=(2, 3)))


class CharTransformer(nn.Module):
    """A causal transformer that predicts the next character, [n, length] int64 to logits [n, length, characters].

    ``layers`` blocks (LayerNorm before each part) of width ``width``: attention with ``heads`` heads, then a
    GELU layer of ``4 * width`` units; positions up to ``context`` are learned. The character embedding is
    tied to the output layer: one tensor, ``embedding.weight`` [characters, width], serves as both. Linear
    weights are He-normal (fan in), embeddings normal with variance ``1 / width``, biases zero, drawn from
    ``generator`` (torch's own if not given).

    Source: Vaswani et al. (2017), Attention Is All You Need, https://arxiv.org/abs/1706.03762; tied
    embeddings: Press and Wolf (2017), https://arxiv.org/abs/1608.05859.
    """

    def __init__(
        self,
        characters: int,
        context: int = 32,
        width: int = 64,
        heads: int = 4,
        layers: int = 2,
        *,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.embedding = _embedding(characters, width)
        self.position = _embedding(context, width)
        self.blocks = nn.Sequential(*(_TransformerBlock(width, heads) for _ in range(layers)))
        self.norm = nn.LayerNorm(width)
        _he_normal(self, generator)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return the logits [n, length, characters] of the character that follows each of ``x`` [n, length]."""
        h = self.embedding(x) + self.position.weight[: x.shape[1]]
        return linear(self.norm(self.blocks(h)), self.embedding.weight)


def build(architecture: str, args: Mapping[str, Any], *, generator: torch.Generator | None = None) -> nn.Module:
    """Return the network that a manifest entry names: ``build(entry["architecture"], entry["args"])``."""
    constructors = {"mlp": mlp, "ResidualCNN": ResidualCNN, "CharTransformer": CharTransformer}
    if architecture not in constructors:
        raise ValueError(f"architecture is {architecture!r}; known are {', '.join(constructors)}")
    return constructors[architecture](**args, generator=generator)


class _ResidualBlock(nn.Module):
    """Two 3×3 convolutions with BatchNorm and a shortcut: 1×1 with BatchNorm where the shape changes."""

    def __init__(self, channels_in: int, channels_out: int, stride: int = 1) -> None:
        super().__init__()
        self.first = _conv_bn(channels_in, channels_out, stride=stride)
        self.second = _conv_bn(channels_out, channels_out)
        same_shape = channels_in == channels_out and stride == 1
        self.shortcut = nn.Identity() if same_shape else _conv_bn(channels_in, channels_out, 1, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.second(torch.relu(self.first(x))) + self.shortcut(x))


class _TransformerBlock(nn.Module):
    """Causal attention and two linear layers, each after a LayerNorm and added to its input."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.attention = _CausalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.expand = skip_init(nn.Linear, width, 4 * width)
        self.contract = skip_init(nn.Linear, 4 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x + self.attention(self.norm1(x))
        return x + self.contract(gelu(self.expand(self.norm2(x))))


class _CausalAttention(nn.Module):
    """Softmax attention to this and earlier characters.

    Written out: the fused kernel of torch has no second derivative, which curvature needs.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query = skip_init(nn.Linear, width, width)
        self.key = skip_init(nn.Linear, width, width)
        self.value = skip_init(nn.Linear, width, width)
        self.out = skip_init(nn.Linear, width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        n, length, width = x.shape
        q, k, v = (
            layer(x).view(n, length, self.heads, width // self.heads).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        )
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        later = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        mixed = scores.masked_fill(later, -torch.inf).softmax(-1) @ v
        return self.out(mixed.transpose(1, 2).reshape(n, length, width))


def _embedding(number: int, width: int) -> nn.Embedding:
    """One without values: `skip_init` of an Embedding imports all of torch's compiler, which takes over a second."""
    return nn.Embedding.from_pretrained(torch.empty(number, width), freeze=False)


def _conv_bn(channels_in: int, channels_out: int, size: int = 3, stride: int = 1) -> nn.Sequential:
    conv = skip_init(nn.Conv2d, channels_in, channels_out, size, stride=stride, padding=size // 2, bias=False)
    return nn.Sequential(OrderedDict(conv=conv, bn=nn.BatchNorm2d(channels_out)))


def _he_normal(model: Model, generator: torch.Generator | None) -> Model:
    """Fill the layers that skip_init left without values, in order of definition; embeddings as documented."""
    for layer in model.modules():
        if isinstance(layer, nn.Linear | nn.Conv2d):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu", generator=generator)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
        elif isinstance(layer, nn.Embedding):
            nn.init.normal_(layer.weight, std=layer.embedding_dim**-0.5, generator=generator)
    return model
