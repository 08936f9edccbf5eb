"""Small networks and data whose answers are known."""

from itertools import pairwise

import torch
from torch import Tensor, nn

from analysis import Problem


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def linear_regression(dtype: torch.dtype = torch.float32, n: int = 50) -> tuple[nn.Linear, Tensor, Tensor]:
    model = nn.Linear(5, 3)
    g = generator(1)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(torch.randn(p.shape, generator=g))
    x, y = (
        torch.randn(n, 5, generator=g, dtype=torch.float64),
        torch.randn(n, 3, generator=g, dtype=torch.float64),
    )
    return model.to(dtype), x.to(dtype), y.to(dtype)


class Tied(nn.Module):
    """A language model of one block whose output layer is its embedding."""

    def __init__(self, vocabulary: int = 11, width: int = 8):
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.mix = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.embedding.weight

    def forward(self, tokens: Tensor) -> Tensor:
        h = self.embedding(tokens)
        return self.head(self.norm(h + torch.tanh(self.mix(h.cumsum(1)))))


class ConvBN(nn.Module):
    def __init__(self, dropout: float = 0.0):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, 3, padding=1)
        self.bn = nn.BatchNorm2d(4)
        self.drop = nn.Dropout(dropout)
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.drop(torch.relu(self.bn(self.conv(x))).mean((2, 3))))


def trained_conv_bn(seed: int = 0) -> tuple[ConvBN, Tensor, Tensor]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = ConvBN()
        x, y = torch.randn(96, 1, 6, 6), torch.randint(0, 3, (96,))
        x = x + y[:, None, None, None] * 0.7
        optimiser = torch.optim.Adam(model.parameters(), 1e-2)
        for _ in range(30):
            optimiser.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            optimiser.step()
    return model, x, y


def mlp(widths: tuple[int, ...] = (6, 16, 16, 3), seed: int = 0) -> nn.Sequential:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        layers: list[nn.Module] = []
        for a, b in pairwise(widths):
            layers += [nn.Linear(a, b), nn.ReLU()]
        return nn.Sequential(*layers[:-1])


def classification(n: int = 64, features: int = 6, classes: int = 3) -> tuple[Tensor, Tensor]:
    g = generator(2)
    x = torch.randn(n, features, generator=g)
    return x, (x[:, :classes] + 0.5 * torch.randn(n, classes, generator=g)).argmax(1)


def mlp_problem(**options: object) -> Problem:
    return Problem(mlp(), "cross_entropy", classification(), **options)  # type: ignore[arg-type]
