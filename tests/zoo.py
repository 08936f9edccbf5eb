"""Networks of many kinds, small, each with inputs: what the symmetry discovery must understand or freeze."""

import warnings

import torch
import torch.nn.functional as F
from torch import nn

from sample_checkpoints.models import CharTransformer, ResidualCNN, mlp


class Apply(nn.Module):
    """Named parts and a function of them, so that a network is a few lines."""

    def __init__(self, forward, **parts):
        super().__init__()
        self.run = forward
        for name, part in parts.items():
            if isinstance(part, torch.Tensor):
                self.register_parameter(name, nn.Parameter(part))
            else:
                self.add_module(name, part)

    def forward(self, *args):
        return self.run(self, *args)


def conv(i, o, k=3, **options):
    return nn.Conv2d(i, o, k, padding=k // 2, **options)


def conv_bn(i, o, k=3, **options):
    return nn.Sequential(conv(i, o, k, bias=False, **options), nn.BatchNorm2d(o), nn.ReLU())


def image(channels=3, size=8, n=2):
    return torch.randn(n, channels, size, size)


def tokens(n=2, length=5, words=11):
    return torch.randint(0, words, (n, length))


def residual_mlp(width=64, hidden=128, blocks=2, inputs=10, classes=5):
    def run(m, x):
        x = m.stem(x)
        for block in m.blocks:
            x = x + block(x)
        return m.head(F.relu(x))

    body = [nn.Sequential(nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width)) for _ in range(blocks)]
    return Apply(run, stem=nn.Linear(inputs, width), blocks=nn.ModuleList(body), head=nn.Linear(width, classes))


class BlockA(nn.Module):
    """Two convolutions, and a shortcut that pads with zero channels (He et al. 2016, option A)."""

    def __init__(self, i, o, stride):
        super().__init__()
        self.conv1, self.bn1 = conv(i, o, stride=stride, bias=False), nn.BatchNorm2d(o)
        self.conv2, self.bn2 = conv(o, o, bias=False), nn.BatchNorm2d(o)
        self.stride, self.more = stride, o - i

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        x = x[:, :, :: self.stride, :: self.stride]
        return F.relu(y + F.pad(x, (0, 0, 0, 0, self.more // 2, self.more - self.more // 2)))


def resnet_a(width=16, depth=3):
    layers, i = [conv_bn(3, width)], width
    for stage in range(3):
        for k in range(depth):
            o = width * 2**stage
            layers.append(BlockA(i, o, 2 if stage and not k else 1))
            i = o
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(i, 10))


def vgg():
    features = [conv(3, 8), nn.ReLU(), nn.MaxPool2d(2), conv(8, 12), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten()]
    return nn.Sequential(*features, nn.Linear(12 * 4, 32), nn.ReLU(), nn.Dropout(), nn.Linear(32, 10))


def preactivation():
    def run(m, x):
        x = m.stem(x)
        x = x + m.c2(F.relu(m.n2(m.c1(F.relu(m.n1(x))))))
        return m.head(F.relu(m.n3(x)).mean((2, 3)))

    norms = {f"n{i}": nn.BatchNorm2d(8) for i in (1, 2, 3)}
    return Apply(run, stem=conv(3, 8), c1=conv(8, 8), c2=conv(8, 8), head=nn.Linear(8, 4), **norms)


def densenet():
    def run(m, x):
        x = m.stem(x)
        for layer in m.layers:
            x = torch.cat([x, layer(x)], 1)
        return m.head(F.avg_pool2d(m.transition(x), 2).mean((2, 3)))

    layers = nn.ModuleList(nn.Sequential(nn.BatchNorm2d(8 + 4 * i), nn.ReLU(), conv(8 + 4 * i, 4)) for i in range(3))
    return Apply(run, stem=conv(3, 8), layers=layers, transition=conv_bn(20, 10, 1), head=nn.Linear(10, 4))


def inception():
    def run(m, x):
        x = m.stem(x)
        x = torch.cat([m.a(x), m.b(x), m.c(F.max_pool2d(x, 3, 1, 1))], 1)
        return m.head(x.mean((2, 3)))

    b = nn.Sequential(conv_bn(8, 4, 1), conv_bn(4, 6, 5))
    return Apply(run, stem=conv_bn(3, 8), a=conv_bn(8, 5, 1), b=b, c=conv_bn(8, 3, 1), head=nn.Linear(14, 4))


class SqueezeExcite(nn.Module):
    def __init__(self, width, squeezed):
        super().__init__()
        self.down, self.up = nn.Conv2d(width, squeezed, 1), nn.Conv2d(squeezed, width, 1)

    def forward(self, x):
        gate = self.up(F.relu(self.down(F.adaptive_avg_pool2d(x, 1))))
        return x * F.hardsigmoid(gate)


def mobilenet():
    block = [conv_bn(8, 16, 1), conv_bn(16, 16, groups=16), SqueezeExcite(16, 4), conv_bn(16, 8, 1)]
    return nn.Sequential(conv_bn(3, 8), *block, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4))


def resnext():
    def run(m, x):
        x = m.stem(x)
        return m.head((x + m.c(m.b(m.a(x)))).mean((2, 3)))

    b = conv_bn(16, 16, groups=4)
    return Apply(run, stem=conv_bn(3, 8), a=conv_bn(8, 16, 1), b=b, c=conv_bn(16, 8, 1), head=nn.Linear(8, 4))


def channel_shuffle():
    def run(m, x):
        x = m.a(m.stem(x))
        n, c, h, w = x.shape
        x = x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)
        return m.head(m.b(x).mean((2, 3)))

    return Apply(run, stem=conv_bn(3, 8), a=conv_bn(8, 8, groups=2), b=conv_bn(8, 8, groups=2), head=nn.Linear(8, 4))


def group_norm():
    def run(m, x):
        return m.head(F.relu(m.norm2(m.c2(F.relu(m.norm1(m.c1(x)))))).mean((2, 3)))

    norms = {"norm1": nn.GroupNorm(4, 16), "norm2": nn.GroupNorm(1, 12)}
    return Apply(run, c1=conv(3, 16), c2=conv(16, 12), head=nn.Linear(12, 4), **norms)


def group_norm_grouped():
    """Channel groups of two sizes, one within the other."""
    layers = [conv(3, 16), nn.ReLU(), conv(16, 16, groups=4), nn.GroupNorm(2, 16), nn.ReLU(), conv(16, 6, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, 4))


def unet():
    def run(m, x):
        a = m.down1(x)
        b = m.down2(F.max_pool2d(a, 2))
        up = m.up(b)
        wide = F.interpolate(b, scale_factor=2, mode="bilinear")
        return m.out(m.merge(torch.cat([a, up, wide], 1)))

    up = nn.ConvTranspose2d(12, 8, 2, stride=2)
    return Apply(run, down1=conv_bn(3, 8), down2=conv_bn(8, 12), up=up, merge=conv_bn(28, 8), out=nn.Conv2d(8, 2, 1))


def convnext():
    def run(m, x):
        x = m.stem(x)
        y = m.norm(m.depthwise(x).permute(0, 2, 3, 1))
        y = m.contract(F.gelu(m.expand(y))) * m.scale
        return m.head(m.last((x + y.permute(0, 3, 1, 2)).mean((2, 3))))

    parts = {"norm": nn.LayerNorm(8), "last": nn.LayerNorm(8), "head": nn.Linear(8, 4), "scale": torch.rand(8)}
    return Apply(
        run,
        stem=nn.Conv2d(3, 8, 2, 2),
        depthwise=conv(8, 8, groups=8),
        expand=nn.Linear(8, 32),
        contract=nn.Linear(32, 8),
        **parts,
    )


class Attention(nn.Module):
    """Packed or separate projections, heads of keys shared by several heads of queries, rotations, norms of queries."""

    def __init__(self, width=16, heads=4, shared=1, rotary=False, norms=False, fused=True, separate=False):
        super().__init__()
        self.heads, self.shared, self.fused, self.size = heads, shared, fused, width // heads
        keys = width // shared
        self.separate = separate
        if separate:
            self.q, self.k, self.v = nn.Linear(width, width), nn.Linear(width, keys), nn.Linear(width, keys)
        else:
            self.qkv = nn.Linear(width, width + 2 * keys)
        self.cut = [width, keys, keys]
        self.out = nn.Linear(width, width)
        self.rotary = rotary
        self.qn, self.kn = (nn.LayerNorm(self.size), nn.LayerNorm(self.size)) if norms else (nn.Identity(),) * 2

    def forward(self, x):
        n, length, width = x.shape
        parts = (self.q(x), self.k(x), self.v(x)) if self.separate else self.qkv(x).split(self.cut, -1)
        q, k, v = (p.view(n, length, -1, self.size).transpose(1, 2) for p in parts)
        q, k = self.qn(q), self.kn(k)
        if self.rotary:
            angle = torch.arange(length)[:, None] * 0.5 ** torch.arange(self.size // 2)
            angle = torch.cat([angle, angle], -1)
            q, k = (t * angle.cos() + self.turned(t) * angle.sin() for t in (q, k))
        k, v = (t.repeat_interleave(self.shared, 1) for t in (k, v))
        if self.fused:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=self.rotary)
        else:
            y = torch.einsum("nhij,nhjd->nhid", (torch.einsum("nhid,nhjd->nhij", q, k) / 2).softmax(-1), v)
        return self.out(y.transpose(1, 2).reshape(n, length, width))

    @staticmethod
    def turned(t):
        a, b = t.chunk(2, -1)
        return torch.cat([-b, a], -1)


class SwiGLU(nn.Module):
    def __init__(self, width, hidden):
        super().__init__()
        self.both, self.down = nn.Linear(width, 2 * hidden, bias=False), nn.Linear(hidden, width, bias=False)

    def forward(self, x):
        gate, up = self.both(x).chunk(2, -1)
        return self.down(F.silu(gate) * up)


class Block(nn.Module):
    def __init__(self, width=16, hidden=32, norm=nn.LayerNorm, swiglu=False, **attention):
        super().__init__()
        self.n1, self.n2 = norm(width), norm(width)
        self.attention = Attention(width, **attention)
        feed = nn.Sequential(nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width))
        self.feed = SwiGLU(width, hidden) if swiglu else feed

    def forward(self, x):
        x = x + self.attention(self.n1(x))
        return x + self.feed(self.n2(x))


def vit(**attention):
    def run(m, x):
        x = m.patch(x).flatten(2).transpose(1, 2)
        x = torch.cat([m.cls.expand(len(x), -1, -1), x], 1) + m.position
        return m.head(m.norm(m.blocks(x))[:, 0])

    parts = {"cls": torch.randn(1, 1, 16), "position": torch.randn(1, 17, 16)}
    blocks = nn.Sequential(*(Block(**attention) for _ in range(2)))
    return Apply(
        run, patch=nn.Conv2d(3, 16, 2, 2), blocks=blocks, norm=nn.LayerNorm(16), head=nn.Linear(16, 4), **parts
    )


def language_model(tied=True, **block):
    def run(m, x):
        h = m.norm(m.blocks(m.embedding(x)))
        return F.linear(h, m.embedding.weight) if tied else m.head(h)

    blocks = nn.Sequential(*(Block(**block) for _ in range(2)))
    parts = {} if tied else {"head": nn.Linear(16, 11)}
    norm = block.get("norm", nn.LayerNorm)(16)
    return Apply(run, embedding=nn.Embedding(11, 16), blocks=blocks, norm=norm, **parts)


class Window(nn.Module):
    """Attention in shifted windows with a table of relative positions."""

    def __init__(self, width=8, heads=2, window=2):
        super().__init__()
        self.attention, self.norm = Attention(width, heads, fused=False), nn.LayerNorm(width)
        self.table = nn.Parameter(torch.randn(9, heads))
        at = torch.stack(torch.meshgrid(torch.arange(2), torch.arange(2), indexing="ij")).flatten(1)
        apart = (at[:, :, None] - at[:, None, :] + 1).permute(1, 2, 0)
        self.register_buffer("index", apart[..., 0] * 3 + apart[..., 1])

    def forward(self, x):
        n, h, w, c = x.shape
        y = torch.roll(self.norm(x), (-1, -1), (1, 2))
        y = y.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 4, c)
        q, k, v = (t.view(len(y), 4, 2, -1).transpose(1, 2) for t in self.attention.qkv(y).chunk(3, -1))
        bias = self.table[self.index.view(-1)].view(4, 4, 2).permute(2, 0, 1)
        y = ((q @ k.transpose(-1, -2) + bias).softmax(-1) @ v).transpose(1, 2).reshape(-1, 4, c)
        y = self.attention.out(y).view(n, h // 2, w // 2, 2, 2, c).permute(0, 1, 3, 2, 4, 5).reshape(n, h, w, c)
        return x + torch.roll(y, (1, 1), (1, 2))


def swin():
    def run(m, x):
        x = m.window2(m.window1(m.patch(x).permute(0, 2, 3, 1)))
        n, h, w, c = x.shape
        x = x.view(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 4, 2, 5).flatten(3)
        return m.head(m.merge(m.norm(x)).mean((1, 2)))

    parts = {"norm": nn.LayerNorm(32), "merge": nn.Linear(32, 12), "head": nn.Linear(12, 4)}
    return Apply(run, patch=nn.Conv2d(3, 8, 2, 2), window1=Window(), window2=Window(), **parts)


def mixer():
    def run(m, x):
        x = m.patch(x).flatten(2).transpose(1, 2)
        x = x + m.tokens(m.n1(x).transpose(1, 2)).transpose(1, 2)
        x = x + m.channels(m.n2(x))
        return m.head(x.mean(1))

    def feed(i, h):
        return nn.Sequential(nn.Linear(i, h), nn.GELU(), nn.Linear(h, i))

    parts = {"n1": nn.LayerNorm(8), "n2": nn.LayerNorm(8), "head": nn.Linear(8, 4)}
    return Apply(run, patch=nn.Conv2d(3, 8, 2, 2), tokens=feed(16, 24), channels=feed(8, 32), **parts)


def recurrent(cell, **options):
    def run(m, x):
        y, state = m.cell(m.embedding(x))
        state = state[0] if isinstance(state, tuple) else state
        return m.head(y[:, -1]) + m.second(state[-1])

    both = 2 if options.get("bidirectional") else 1
    part = cell(6, 8, batch_first=True, **options)
    return Apply(run, embedding=nn.Embedding(11, 6), cell=part, head=nn.Linear(8 * both, 4), second=nn.Linear(8, 4))


def decoder():
    def run(m, x, memory):
        return m.head(m.layer(m.embedding(x), m.memory(memory)))

    layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True)
    return Apply(run, embedding=nn.Embedding(11, 16), memory=nn.Linear(7, 16), layer=layer, head=nn.Linear(16, 11))


def encoder():
    layer = nn.TransformerEncoderLayer(16, 4, 32, batch_first=True, norm_first=True)
    return nn.Sequential(
        nn.Linear(7, 16), nn.TransformerEncoder(layer, 2, enable_nested_tensor=False), nn.Linear(16, 3)
    )


def multihead():
    def run(m, x):
        y, weights = m.attention(m.stem(x), m.stem(x), m.stem(x))
        return m.head(y), weights

    parts = {"stem": nn.Linear(7, 16), "head": nn.Linear(16, 3)}
    return Apply(run, attention=nn.MultiheadAttention(16, 4, batch_first=True), **parts)


def normalised_weights():
    from torch.nn.utils.parametrizations import spectral_norm, weight_norm

    layers = [weight_norm(nn.Linear(6, 12)), nn.ReLU(), spectral_norm(nn.Linear(12, 12)), nn.ReLU(), nn.Linear(12, 3)]
    return nn.Sequential(*layers)


def set_pooling():
    """Learned queries that are averaged, so that they may be exchanged too."""

    def run(m, x):
        k = m.key(x)
        scores = (m.queries @ k.transpose(1, 2)).softmax(-1)
        return m.head(F.relu(m.value(scores @ k)).mean(1))

    parts = {"key": nn.Linear(7, 12), "value": nn.Linear(12, 16), "head": nn.Linear(16, 3)}
    return Apply(run, queries=torch.randn(1, 6, 12), **parts)


def cumulative():
    """cumsum along the units: their order counts."""
    return Apply(
        lambda m, x: m.c(F.relu(m.b(torch.cumsum(F.relu(m.a(x)), -1)))),
        a=nn.Linear(6, 9),
        b=nn.Linear(9, 8),
        c=nn.Linear(8, 3),
    )


def sorting():
    """No rule for sort: what it touches must be frozen."""
    return Apply(
        lambda m, x: m.c(F.relu(m.b(torch.sort(F.relu(m.a(x)), -1).values))),
        a=nn.Linear(6, 9),
        b=nn.Linear(9, 8),
        c=nn.Linear(8, 3),
    )


def looked_up():
    """Entries of a table at the places that weights say: with them, the order of the units counts."""

    def run(m, x):
        found = m.table.weight.index_select(0, m.a.weight.argmax(1))
        return m.b(F.relu(m.a(x))) + (found * torch.arange(12.0)[:, None].to(x.dtype)).sum(0)

    return Apply(run, a=nn.Linear(6, 12), table=nn.Embedding(6, 3), b=nn.Linear(12, 3))


def in_place():
    """A forward that writes inputs over some units of a layer."""

    def run(m, x):
        h = m.a(x)
        h[:, :4] = x[:, :4]
        return m.b(F.relu(h))

    return Apply(run, a=nn.Linear(6, 12), b=nn.Linear(12, 3))


def softmax_in_groups():
    """A softmax over parts of a layer."""

    def run(m, x):
        h = m.a(x)
        return m.b(h.view(-1, 4, 3).softmax(-1).reshape(h.shape))

    return Apply(run, a=nn.Linear(6, 12), b=nn.Linear(12, 3))


def data_dependent():
    """Control flow that export cannot follow."""

    def run(m, x):
        h = F.relu(m.a(x))
        return m.b(h) if h.sum() > 0 else m.b(-h)

    return Apply(run, a=nn.Linear(6, 12), b=nn.Linear(12, 3))


def shared_block():
    """One layer used twice."""
    return Apply(
        lambda m, x: m.out(torch.tanh(m.mix(torch.tanh(m.mix(m.stem(x)))))),
        stem=nn.Linear(6, 10),
        mix=nn.Linear(10, 10),
        out=nn.Linear(10, 3),
    )


def autoencoder():
    """The decoder is the transposed encoder."""
    return Apply(lambda m, x: F.linear(torch.tanh(m.encoder(x)), m.encoder.weight.t()), encoder=nn.Linear(6, 10))


def instance_norm():
    layers = [
        conv(3, 8),
        nn.InstanceNorm2d(8, affine=True),
        nn.PReLU(8),
        conv(8, 6),
        nn.Conv2d(6, 8, 1),
        nn.PixelShuffle(2),
        nn.Flatten(),
    ]
    return nn.Sequential(*layers, nn.Linear(8 * 64, 4))


def temporal():
    layers = [nn.Conv1d(4, 8, 3, padding=2, dilation=2), nn.ReLU(), nn.Conv1d(8, 16, 3), nn.GLU(1), nn.AvgPool1d(2)]
    return nn.Sequential(*layers, nn.Flatten(), nn.Linear(8 * 5, 3))


def low_rank():
    """A weight that is a sum of a matrix and a product (LoRA)."""

    def run(m, x):
        return m.head(F.relu(F.linear(x, m.base + m.up @ m.down)))

    return Apply(run, base=torch.randn(8, 6), up=torch.randn(8, 3), down=torch.randn(3, 6), head=nn.Linear(8, 3))


def experts():
    """A soft mixture of experts, whose weights are stacked."""

    def run(m, x):
        gate = m.gate(x).softmax(-1)
        hidden = F.relu(torch.einsum("ni,eih->neh", x, m.first))
        return m.head((gate[..., None] * torch.einsum("neh,eho->neo", hidden, m.second)).sum(1))

    parts = {"first": torch.randn(4, 6, 5), "second": torch.randn(4, 5, 7)}
    return Apply(run, gate=nn.Linear(6, 4), head=nn.Linear(7, 3), **parts)


def picking(pick):
    """One unit of a layer is used for itself, by an operation that picks it: the others are free."""

    def run(m, x):
        h = torch.tanh(m.a(x))
        return m.b(h) * (1 + pick(h))

    return lambda: Apply(run, a=nn.Linear(6, 9), b=nn.Linear(9, 3))


def gate_channel():
    """One channel of a convolution is a gate of all."""

    def run(m, x):
        h = m.a(x)
        return m.b(F.relu(h)) * h[:, :1].sigmoid()

    return Apply(run, a=conv(3, 8), b=conv(8, 3))


def routed():
    """A mixture of experts in a loop, each weighted by a unit of the router."""

    def run(m, x):
        gate = m.gate(x).softmax(-1)
        return sum(gate[:, i : i + 1] * expert(x) for i, expert in enumerate(m.experts))

    experts = nn.ModuleList(nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3)) for _ in range(4))
    return Apply(run, gate=nn.Linear(6, 4), experts=experts)


def gated_far_away():
    """A unit that counts for itself only where an input is large, which no sample is."""

    def run(m, x):
        h = m.a(x)
        return m.b(F.relu(h)) * (1 + h[:, :1] * (x[:, :1] > 5))

    return Apply(run, a=nn.Linear(6, 9), b=nn.Linear(9, 3))


def joined(pick):
    """A layer of which each unit has two places, which an operation brings into another order."""
    return lambda: Apply(
        lambda m, x: m.b(pick(torch.cat([torch.tanh(m.a(x)), torch.sin(m.a(x))], 1))),
        a=nn.Linear(6, 7),
        b=nn.Linear(14, 3),
    )


def cycles():
    """Each unit times its follower in a cycle; of two cycles the second runs backwards through its places."""
    return Apply(
        lambda m, x: m.b((h := torch.tanh(m.a(x))) * h[:, [1, 2, 0, 5, 3, 4]].sin()),
        a=nn.Linear(6, 6),
        b=nn.Linear(6, 3),
    )


def conditional():
    """Two branches as blocks of the graph."""

    def run(m, x):
        h = torch.tanh(m.a(x))
        return m.b(h) * torch.cond(x.sum() > 0, lambda t: t.sin(), lambda t: t.cos(), (m.c(x),))

    return Apply(run, a=nn.Linear(6, 9), b=nn.Linear(9, 3), c=nn.Linear(6, 3))


def circulant():
    """Each row of a matrix holds all units, in another order."""

    def run(m, x):
        h = torch.tanh(m.a(x))
        return m.b((h[:, (torch.arange(5)[:, None] + torch.arange(5)) % 5] * m.w).sum(2))

    return Apply(run, a=nn.Linear(6, 5), w=torch.randn(5, 5), b=nn.Linear(5, 3))


def batched(outputs, turned):
    """A weight with a batch dim of length 1, transposed."""

    def run(m, x):
        y = turned(m.w) @ torch.tanh(m.a(x))[..., None]
        return m.b(torch.tanh(y[..., 0]))

    return lambda: Apply(run, a=nn.Linear(6, 7), w=torch.randn(1, 7, outputs), b=nn.Linear(outputs, 3))


def chosen_by_data(choose):
    """A part of a network gives a result whose size depends on the values; the other part is an MLP."""

    def run(m, x):
        return m.b(F.relu(m.a(x))) * (1 + choose(torch.tanh(m.c(x))))

    return lambda: Apply(run, a=nn.Linear(6, 9), b=nn.Linear(9, 3), c=nn.Linear(6, 5))


def beside_mlp(part, run, outputs):
    """A part that is not understood, and an MLP that is."""
    return lambda: Apply(
        lambda m, x: m.b(F.relu(m.a(x))) + m.d(run(m, m.c(x)).tanh()),
        part=part(),
        a=nn.Linear(6, 9),
        b=nn.Linear(9, 3),
        c=nn.Linear(6, 4),
        d=nn.Linear(outputs, 3),
    )


def packed(m, x):
    rows = nn.utils.rnn.pack_padded_sequence(x[:, None].expand(-1, 2, -1), [2] * len(x), batch_first=True)
    return m.part(rows, x.new_zeros(1, len(x), 5))[1][0]


def masked_weights():
    """Old-style parametrisations, whose modules hold computed tensors."""
    from torch.nn.utils import prune, weight_norm

    model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 8), nn.ReLU(), nn.Linear(8, 3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        weight_norm(model[2])
    prune.random_unstructured(model[0], "weight", 0.2)
    model(torch.randn(3, 6))
    return model


def maxout():
    """The values of an extremum are used, and not where it is."""
    return Apply(lambda m, x: m.b(m.a(x).view(-1, 4, 3).max(2).values), a=nn.Linear(6, 12), b=nn.Linear(4, 3))


def rows_and_columns():
    """Units in a square, summed along rows and along columns, which differ in what comes after."""

    def run(m, x):
        h = m.a(x).view(-1, 3, 3)
        return m.b(torch.tanh(h.sum(2)).sum(1, keepdim=True) * torch.sin(h.sum(1)).sum(1, keepdim=True))

    return Apply(run, a=nn.Linear(6, 9), b=nn.Linear(1, 3))


def vectors(n=3, width=6):
    return (torch.randn(n, width),)


# name: (module, inputs, least share of parameters that moves; None where a sound freeze is enough)
ZOO = {
    "mlp": (lambda: mlp([6, 16, 16, 3]), vectors, 0.99),
    "mlp batchnorm": (
        lambda: nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Linear(16, 3)),
        vectors,
        0.98,
    ),
    "residual mlp": (residual_mlp, lambda: vectors(width=10), 0.99),
    "vgg with flatten": (vgg, lambda: (image(),), 0.99),
    "resnet option a": (lambda: resnet_a(4, 1), lambda: (image(),), 0.99),
    "resnet option b": (lambda: ResidualCNN(8), lambda: vectors(width=64), 0.99),
    "pre-activation": (preactivation, lambda: (image(),), 0.99),
    "densenet": (densenet, lambda: (image(),), 0.99),
    "inception": (inception, lambda: (image(),), 0.99),
    "mobilenet": (mobilenet, lambda: (image(),), 0.99),
    "resnext": (resnext, lambda: (image(),), 0.99),
    "channel shuffle": (channel_shuffle, lambda: (image(),), None),
    "group norm": (group_norm, lambda: (image(),), 0.99),
    "group norm, grouped": (group_norm_grouped, lambda: (image(),), 0.98),
    "unet": (unet, lambda: (image(),), 0.99),
    "convnext": (convnext, lambda: (image(),), 0.99),
    "vit": (vit, lambda: (image(),), 0.99),
    "vit, query norms": (lambda: vit(norms=True), lambda: (image(),), 0.99),
    "vit, separate, einsum": (lambda: vit(separate=True, fused=False), lambda: (image(),), 0.99),
    "swin": (swin, lambda: (image(),), 0.99),
    "mixer": (mixer, lambda: (image(),), 0.98),
    "encoder": (encoder, lambda: (torch.randn(2, 5, 7),), 0.99),
    "decoder": (decoder, lambda: (tokens(), torch.randn(2, 6, 7)), 0.99),
    "multihead": (multihead, lambda: (torch.randn(2, 5, 7),), 0.99),
    "tied lm": (language_model, lambda: (tokens(),), 0.99),
    "char transformer": (lambda: CharTransformer(11, 8, 16, 4, 1), lambda: (tokens(),), 0.99),
    "rope": (lambda: language_model(rotary=True), lambda: (tokens(),), 0.99),
    "gqa": (lambda: language_model(shared=2, tied=False), lambda: (tokens(),), 0.99),
    "swiglu, rms": (lambda: language_model(swiglu=True, norm=nn.RMSNorm), lambda: (tokens(),), 0.99),
    "llama": (
        lambda: language_model(tied=False, rotary=True, shared=2, swiglu=True, norm=nn.RMSNorm, separate=True),
        lambda: (tokens(),),
        0.99,
    ),
    "lstm": (lambda: recurrent(nn.LSTM), lambda: (tokens(),), 0.98),
    "lstm, two layers, both ways": (
        lambda: recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        lambda: (tokens(),),
        0.98,
    ),
    "gru": (lambda: recurrent(nn.GRU), lambda: (tokens(),), 0.98),
    "rnn": (lambda: recurrent(nn.RNN), lambda: (tokens(),), 0.95),
    "weight norm": (normalised_weights, vectors, None),
    "set pooling": (set_pooling, lambda: (torch.randn(2, 5, 7),), 0.99),
    "cumulative": (cumulative, vectors, None),
    "sorting": (sorting, vectors, None),
    "looked up": (looked_up, vectors, None),
    "in place": (in_place, vectors, None),
    "softmax in groups": (softmax_in_groups, vectors, 0.97),
    "data dependent": (data_dependent, vectors, None),
    "shared block": (shared_block, vectors, 0.98),
    "autoencoder": (autoencoder, vectors, 0.9),
    "instance norm": (instance_norm, lambda: (image(),), 0.99),
    "temporal": (temporal, lambda: (torch.randn(2, 4, 12),), 0.98),
    "low rank": (low_rank, vectors, 0.95),
    "experts": (experts, vectors, 0.95),
    "picked by slice": (picking(lambda h: h[:, :1]), vectors, 0.83),
    "picked by select": (picking(lambda h: h[:, 0].unsqueeze(1)), vectors, 0.83),
    "picked by unbind": (picking(lambda h: h.unbind(1)[3][:, None]), vectors, 0.83),
    "picked by index_select": (picking(lambda h: h.index_select(1, torch.tensor([2]))), vectors, 0.83),
    "picked by a list": (picking(lambda h: h[:, [2]]), vectors, 0.83),
    "picked by narrow": (picking(lambda h: h.narrow(1, 4, 1)), vectors, 0.83),
    "picked by split": (picking(lambda h: h.split([1, 8], 1)[0]), vectors, 0.83),
    "picked by gather": (picking(lambda h: h.gather(1, torch.full((3, 1), 2))), vectors, None),
    "picked by step": (picking(lambda h: h[:, ::5].sum(1, keepdim=True)), vectors, 0.83),
    "picked three times": (picking(lambda h: h[:, [2, 2, 2]]), vectors, 0.83),
    "gate channel": (gate_channel, lambda: (image(),), 0.8),
    "routed": (routed, vectors, 0.8),
    "gated far away": (gated_far_away, vectors, 0.83),
    "joined": (joined(lambda h: h), vectors, 0.96),
    "joined, rolled": (joined(lambda h: h.roll(1, 1)), vectors, 0.8),
    "joined, picked": (joined(lambda h: h[:, [6, 5, 4, 3, 2, 1, 0, 9, 8, 7, 10, 11, 12, 13]]), vectors, 0.96),
    "joined, transposed": (
        joined(lambda h: h.view(-1, 7, 2).transpose(1, 2).flatten(1)),
        vectors,
        0.8,
    ),
    "cycles": (cycles, vectors, None),
    "conditional": (conditional, vectors, None),
    "circulant": (circulant, vectors, None),
    "mT, square": (batched(7, lambda w: w.mT), vectors, 0.97),
    "mT": (batched(8, lambda w: w.mT), vectors, 0.97),
    "mH": (batched(8, lambda w: w.mH), vectors, 0.97),
    "adjoint": (batched(8, lambda w: w.adjoint()), vectors, 0.97),
    "T of three dims": (batched(8, lambda w: w.permute(1, 2, 0).T), vectors, 0.97),
    "chosen by mask": (chosen_by_data(lambda h: h[h > 0].sum()), vectors, 0.6),
    "chosen by nonzero": (chosen_by_data(lambda h: torch.nonzero(h > 0).sum()), vectors, 0.6),
    "size of nonzero": (chosen_by_data(lambda h: torch.nonzero(h > 0).shape[0]), vectors, 0.6),
    "unique": (chosen_by_data(lambda h: torch.unique(h.detach()).sum()), vectors, 0.6),
    "lstm with projection": (
        beside_mlp(lambda: nn.LSTM(4, 6, proj_size=5, batch_first=True), lambda m, x: m.part(x[:, None])[0][:, 0], 5),
        vectors,
        0.2,
    ),
    "packed": (beside_mlp(lambda: nn.GRU(4, 5, batch_first=True), packed, 5), vectors, None),
    "transposed, grouped": (
        beside_mlp(
            lambda: nn.ConvTranspose1d(4, 6, 3, groups=2),
            lambda m, x: m.part(x[..., None].expand(-1, -1, 3))[..., 0],
            6,
        ),
        vectors,
        0.4,
    ),
    "einsum, implicit": (
        beside_mlp(lambda: nn.Linear(4, 5), lambda m, x: torch.einsum("bi,ji", x, m.part.weight), 5),
        vectors,
        0.9,
    ),
    "einsum, dots": (
        beside_mlp(lambda: nn.Linear(4, 5), lambda m, x: torch.einsum("...i,ji->...j", x, m.part.weight), 5),
        vectors,
        0.9,
    ),
    "einsum, diagonal": (
        beside_mlp(lambda: nn.Linear(4, 4), lambda m, x: torch.einsum("bi,ii->bi", x, m.part.weight), 4),
        vectors,
        0.4,
    ),
    "maxout": (maxout, vectors, 0.96),
    "masked weights": (masked_weights, vectors, None),
    "rows and columns": (rows_and_columns, vectors, 0.9),
    "linear": (lambda: nn.Linear(6, 3), vectors, None),
}


def make(name, seed=0):
    """A network of the zoo and its inputs."""
    build, inputs, share = ZOO[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().eval(), inputs(), share
