"""Nets in PyTorch, for benchmarks: named as in the official code and in timm, so that our weights load."""

import torch
from torch import nn
from torch.nn import functional as F


def unit(inner: int, outer: int, kernel, stride: int = 1, padding=0) -> nn.Sequential:
    """Inception's: convolution, normalization, ReLU."""
    layers = {
        "conv": nn.Conv2d(inner, outer, kernel, stride, padding, bias=False),
        "bn": nn.BatchNorm2d(outer),
        "relu": nn.ReLU(inplace=True),
    }
    net = nn.Sequential()
    for name, layer in layers.items():
        net.add_module(name, layer)
    return net


def chain(inner: int, *specs) -> nn.Sequential:
    """Units one after another: (features, kernel, stride, padding)."""
    units = []
    for features, *rest in specs:
        units.append(unit(inner, features, *rest))
        inner = features
    return nn.Sequential(*units)


class Block(nn.Module):
    """ResNet's basic block and bottleneck."""

    def __init__(self, inner: int, width: int, stride: int, bottleneck: bool):
        super().__init__()
        outer = width * (4 if bottleneck else 1)
        shapes = (
            [(inner, width, 1, 1), (width, width, 3, stride), (width, outer, 1, 1)]
            if bottleneck
            else [(inner, width, 3, stride), (width, width, 3, 1)]
        )
        for i, (a, b, kernel, s) in enumerate(shapes, start=1):
            self.add_module(f"conv{i}", nn.Conv2d(a, b, kernel, s, kernel // 2, bias=False))
            self.add_module(f"bn{i}", nn.BatchNorm2d(b))
        self.count = len(shapes)
        self.shortcut = nn.Sequential()
        if stride > 1 or inner != outer:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inner, outer, 1, stride, bias=False), nn.BatchNorm2d(outer)
            )

    def forward(self, x):
        y = x
        for i in range(1, self.count + 1):
            y = getattr(self, f"bn{i}")(getattr(self, f"conv{i}")(y))
            y = F.relu(y) if i < self.count else y
        return F.relu(y + self.shortcut(x))


class ResNet(nn.Module):
    """For images of 32 px, or with `large` of 224 px."""

    def __init__(self, blocks: tuple[int, ...], bottleneck: bool, width: int = 64, large: bool = False):
        super().__init__()
        self.large, self.stages = large, len(blocks)
        stem = {"kernel_size": 7, "stride": 2, "padding": 3} if large else {"kernel_size": 3, "padding": 1}
        self.conv1, self.bn1 = nn.Conv2d(3, width, bias=False, **stem), nn.BatchNorm2d(width)
        inner = width
        for stage, count in enumerate(blocks):
            layers, features = [], width * 2**stage
            for i in range(count):
                layers.append(Block(inner, features, 2 if stage and not i else 1, bottleneck))
                inner = features * (4 if bottleneck else 1)
            self.add_module(f"layer{stage + 1}", nn.Sequential(*layers))
        self.linear = nn.Linear(inner, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.conv1(x)))
        x = F.max_pool2d(x, 3, 2, 1) if self.large else x
        for stage in range(1, self.stages + 1):
            x = getattr(self, f"layer{stage}")(x)
        return self.linear(x.mean((2, 3)))


class VGG(nn.Module):
    """For images of 32 px, or with `large` of 224 px."""

    def __init__(self, blocks: tuple[int, ...], large: bool = False):
        super().__init__()
        layers, inner = [], 3
        for stage, count in enumerate(blocks):
            width = 64 * min(2**stage, 8)
            for _ in range(count):
                layers += [
                    nn.Conv2d(inner, width, 3, padding=1),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                ]
                inner = width
            layers.append(nn.MaxPool2d(2))
        hidden = [nn.Conv2d(512, 4096, 7), nn.ReLU(), nn.Dropout(), nn.Conv2d(4096, 4096, 1), nn.ReLU()]
        self.features, self.hidden = nn.Sequential(*layers), nn.Sequential(*(hidden if large else []))
        self.classifier = nn.Linear(4096 if large else 512, 10)

    def forward(self, x):
        return self.classifier(self.hidden(self.features(x)).mean((2, 3)))


class Attention(nn.Module):
    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads, self.qkv, self.proj = heads, nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x):
        q, k, v = self.qkv(x).unflatten(-1, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        return self.proj(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2))


class Encoder(nn.Module):
    """A block of a vision transformer."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = Attention(width, heads)
        layers = {
            "fc1": nn.Linear(width, 4 * width),
            "act": nn.GELU(),
            "fc2": nn.Linear(4 * width, width),
        }
        self.mlp = nn.Sequential()
        for name, layer in layers.items():
            self.mlp.add_module(name, layer)

    def forward(self, x):
        x = x + self.attn(self.norm1(x))
        return x + self.mlp(self.norm2(x))


class ViT(nn.Module):
    def __init__(self, width: int = 768, depth: int = 12, heads: int = 12, patch: int = 16, size: int = 224):
        super().__init__()
        self.patch_embed = nn.Sequential()
        self.patch_embed.add_module("proj", nn.Conv2d(3, width, patch, patch))
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 1 + (size // patch) ** 2, width))
        self.blocks = nn.Sequential(*[Encoder(width, heads) for _ in range(depth)])
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 10)

    def forward(self, x):
        tokens = self.patch_embed(x).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(x), -1, -1), tokens], 1) + self.pos_embed
        return self.head(self.norm(self.blocks(tokens))[:, 0])


class Dense(nn.Module):
    def __init__(self, inner: int, growth: int):
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(inner), nn.Conv2d(inner, 4 * growth, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(4 * growth)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, x):
        y = self.conv2(F.relu(self.bn2(self.conv1(F.relu(self.bn1(x))))))
        return torch.cat([y, x], 1)


class Transition(nn.Module):
    def __init__(self, inner: int):
        super().__init__()
        self.bn, self.conv = nn.BatchNorm2d(inner), nn.Conv2d(inner, inner // 2, 1, bias=False)

    def forward(self, x):
        return F.avg_pool2d(self.conv(F.relu(self.bn(x))), 2)


class DenseNet(nn.Module):
    def __init__(self, blocks: tuple[int, ...], growth: int = 32):
        super().__init__()
        inner = 2 * growth
        self.conv1, self.blocks = nn.Conv2d(3, inner, 3, padding=1, bias=False), len(blocks)
        for stage, count in enumerate(blocks, start=1):
            layers = [Dense(inner + i * growth, growth) for i in range(count)]
            self.add_module(f"dense{stage}", nn.Sequential(*layers))
            inner += count * growth
            if stage < len(blocks):
                self.add_module(f"trans{stage}", Transition(inner))
                inner //= 2
        self.bn, self.linear = nn.BatchNorm2d(inner), nn.Linear(inner, 10)

    def forward(self, x):
        x = self.conv1(x)
        for stage in range(1, self.blocks + 1):
            x = getattr(self, f"dense{stage}")(x)
            x = getattr(self, f"trans{stage}")(x) if stage < self.blocks else x
        return self.linear(F.relu(self.bn(x)).mean((2, 3)))


class Branches(nn.Module):
    """Side by side, concatenated; one without weights is a pooling."""

    def __init__(self, **branches: nn.Module):
        super().__init__()
        for name, branch in branches.items():
            self.add_module(name, branch)

    def forward(self, x):
        return torch.cat([branch(x) for branch in self.children()], 1)


def pooled(inner: int, features: int, kernel: int = 1) -> nn.Sequential:
    return nn.Sequential(nn.AvgPool2d(3, 1, 1), unit(inner, features, kernel, 1, kernel // 2))


def block_a(inner: int, features: int) -> Branches:
    return Branches(
        branch1x1=unit(inner, 64, 1),
        branch5x5=chain(inner, (48, 1), (64, 5, 1, 2)),
        branch3x3=chain(inner, (64, 1), (96, 3, 1, 1), (96, 3, 1, 1)),
        branchpool=pooled(inner, features, 3),
    )


def block_b(inner: int) -> Branches:
    return Branches(
        branch3x3=unit(inner, 384, 3, 2),
        branch3x3stack=chain(inner, (64, 1), (96, 3, 1, 1), (96, 3, 2)),
        branchpool=nn.MaxPool2d(3, 2),
    )


def block_c(inner: int, n: int) -> Branches:
    tall, wide = ((7, 1), 1, (3, 0)), ((1, 7), 1, (0, 3))
    deep = ((n, 1), (n, *tall), (n, *wide), (n, *tall), (192, *wide))
    return Branches(
        branch1x1=unit(inner, 192, 1),
        branch7x7=chain(inner, (n, 1), (n, *tall), (192, *wide)),
        branch7x7stack=chain(inner, *deep),
        branch_pool=pooled(inner, 192),
    )


def block_d(inner: int) -> Branches:
    tall, wide = ((7, 1), 1, (3, 0)), ((1, 7), 1, (0, 3))
    return Branches(
        branch3x3=chain(inner, (192, 1), (320, 3, 2)),
        branch7x7=chain(inner, (192, 1), (192, *wide), (192, *tall), (192, 3, 2)),
        branch_pool=nn.AvgPool2d(3, 2),
    )


class BlockE(nn.Module):
    def __init__(self, inner: int):
        super().__init__()
        self.branch1x1 = unit(inner, 320, 1)
        self.branch3x3_1, self.branch3x3stack_1 = unit(inner, 384, 1), unit(inner, 448, 1)
        self.branch3x3stack_2 = unit(448, 384, 3, 1, 1)
        for stem in ("branch3x3_2", "branch3x3stack_3"):
            self.add_module(f"{stem}a", unit(384, 384, (1, 3), 1, (0, 1)))
            self.add_module(f"{stem}b", unit(384, 384, (3, 1), 1, (1, 0)))
        self.branch_pool = pooled(inner, 192)

    def forward(self, x):
        y, z = self.branch3x3_1(x), self.branch3x3stack_2(self.branch3x3stack_1(x))
        fine = [
            self.branch3x3_2a(y),
            self.branch3x3_2b(y),
            self.branch3x3stack_3a(z),
            self.branch3x3stack_3b(z),
        ]
        return torch.cat([self.branch1x1(x), *fine, self.branch_pool(x)], 1)


class InceptionV3(nn.Sequential):
    def __init__(self):
        super().__init__()
        layers = {
            "Conv2d_1a_3x3": unit(3, 32, 3, 1, 1),
            "Conv2d_2a_3x3": unit(32, 32, 3, 1, 1),
            "Conv2d_2b_3x3": unit(32, 64, 3, 1, 1),
            "Conv2d_3b_1x1": unit(64, 80, 1),
            "Conv2d_4a_3x3": unit(80, 192, 3),
            "Mixed_5b": block_a(192, 32),
            "Mixed_5c": block_a(256, 64),
            "Mixed_5d": block_a(288, 64),
            "Mixed_6a": block_b(288),
            **{f"Mixed_6{c}": block_c(768, n) for c, n in zip("bcde", (128, 160, 160, 192), strict=True)},
            "Mixed_7a": block_d(768),
            "Mixed_7b": BlockE(1280),
            "Mixed_7c": BlockE(2048),
            "pool": nn.AdaptiveAvgPool2d(1),
            "flat": nn.Flatten(),
            "dropout": nn.Dropout(),
            "linear": nn.Linear(2048, 10),
        }
        for name, layer in layers.items():
            self.add_module(name, layer)


NETS = {
    "cifar_resnet18": lambda: ResNet((2, 2, 2, 2), False),
    "cifar_resnet50": lambda: ResNet((3, 4, 6, 3), True),
    "cifar_vgg16": lambda: VGG((2, 2, 3, 3, 3)),
    "cifar_inceptionv3": InceptionV3,
    "cifar_densenet121": lambda: DenseNet((6, 12, 24, 16)),
    "resnet50": lambda: ResNet((3, 4, 6, 3), True, large=True),
    "vgg16_bn": lambda: VGG((2, 2, 3, 3, 3), large=True),
    "vit_base_patch16_224": ViT,
}
# Where our names, timm's for the large nets, are not those above.
NAMES = {
    r"^fc\.": "linear.",
    r"\.downsample\.": ".shortcut.",
    r"^pre_logits\.fc1\.": "hidden.0.",
    r"^pre_logits\.fc2\.": "hidden.3.",
    r"^head\.fc\.": "classifier.",
}
