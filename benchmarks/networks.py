"""Networks that the benchmarks train or make themselves, on the digits of scikit-learn or on random images."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from itertools import pairwise

import torch
from sklearn.datasets import load_digits
from torch import Tensor, nn

STAGES = {"start": 0, "early": 60, "middle": 400, "late": 4000}


def digits() -> tuple[Tensor, Tensor]:
    """All 1797 images [n, 64] in 0..1, and their classes."""
    x, y = load_digits(return_X_y=True)
    return torch.tensor(x / 16, dtype=torch.float32), torch.tensor(y)


def stages(widths: list[int], activation: Callable[[], nn.Module] = nn.ReLU) -> Iterator[tuple[str, nn.Module]]:
    """A perceptron at four stages of its training by SGD with momentum, the step falling to 0."""
    torch.manual_seed(0)
    x, y = digits()
    layers = [m for a, b in pairwise(widths) for m in (nn.Linear(a, b), activation())]
    net = nn.Sequential(*layers[:-1])
    last = max(STAGES.values())
    optimiser = torch.optim.SGD(net.parameters(), 0.1, momentum=0.9)
    schedule = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.01, last)
    names = {step: name for name, step in STAGES.items()}
    for step in range(last + 1):
        if step in names:
            yield names[step], copy.deepcopy(net)
        rows = torch.randint(0, len(x), (64,))
        optimiser.zero_grad()
        nn.functional.cross_entropy(net(x[rows]), y[rows]).backward()
        optimiser.step()
        schedule.step()


class Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(outputs)
        self.conv2 = nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(outputs)
        self.stride, self.pad = stride, outputs - inputs

    def forward(self, x: Tensor) -> Tensor:
        h = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        shortcut = nn.functional.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, 0, self.pad))
        return torch.relu(h + shortcut)


def resnet20() -> nn.Sequential:
    """He et al. 2016, for 32x32 images, with the parameter-free shortcut; random weights."""
    torch.manual_seed(0)
    layers: list[nn.Module] = [nn.Conv2d(3, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU()]
    width = 16
    for outputs in (16, 32, 64):
        for i in range(3):
            layers.append(Block(width, outputs, 2 if i == 0 and outputs != 16 else 1))
            width = outputs
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(64, 10))


class Bottleneck(nn.Module):
    def __init__(self, inputs: int, width: int, stride: int):
        super().__init__()
        self.narrow, self.middle, self.wide = (
            nn.Sequential(nn.Conv2d(i, o, size, step, size // 2, bias=False), nn.BatchNorm2d(o))
            for i, o, size, step in ((inputs, width, 1, 1), (width, width, 3, stride), (width, 4 * width, 1, 1))
        )
        projected = nn.Sequential(nn.Conv2d(inputs, 4 * width, 1, stride, bias=False), nn.BatchNorm2d(4 * width))
        self.shortcut = nn.Identity() if inputs == 4 * width else projected

    def forward(self, x: Tensor) -> Tensor:
        h = torch.relu(self.middle(torch.relu(self.narrow(x))))
        return torch.relu(self.wide(h) + self.shortcut(x))


def resnet50() -> nn.Sequential:
    """He et al. 2016, for 1000 classes; random weights."""
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 64, 7, 2, 3, bias=False), nn.BatchNorm2d(64), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
    inputs = 64
    for stage, (width, blocks) in enumerate(((64, 3), (128, 4), (256, 6), (512, 3))):
        for i in range(blocks):
            layers.append(Bottleneck(inputs, width, 2 if stage and not i else 1))
            inputs = 4 * width
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(inputs, 1000))


def images(n: int = 256) -> tuple[Tensor, Tensor]:
    """Smooth random images [n, 3, 32, 32] and random classes."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.randn(n, 3, 8, 8, generator=generator)
    x = nn.functional.interpolate(coarse, size=(32, 32), mode="bilinear") + 0.3 * torch.randn(
        n, 3, 32, 32, generator=generator
    )
    return x, torch.randint(0, 10, (n,), generator=generator)
