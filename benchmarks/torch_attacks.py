"""Plain PyTorch versions of attacks that no library on PyPI has, written from the papers: the loop, no more.

They draw once for a whole batch where the published codes do, and mix with images of the same batch.
"""

import torch
from scipy import fft
from torch.nn import functional as F


def gradient(net, x, labels):
    x = x.detach().requires_grad_()
    return torch.autograd.grad(F.cross_entropy(net(x), labels, reduction="sum"), x)[0]


def unit(g):
    return g / g.abs().mean((1, 2, 3), keepdim=True)


def ascend(direction, images, eps, step, steps, decay=1.0, signs=False):
    """MI-FGSM around any direction; with `signs` the momentum is over signs, and taken as it is."""
    x, momentum = images.clone(), torch.zeros_like(images)
    for _ in range(steps):
        g = direction(x)
        momentum = decay * momentum + (g.sign() if signs else unit(g))
        x = x + step * (momentum if signs else momentum.sign())
        x = torch.clamp(images + (x - images).clamp(-eps, eps), 0, 1)
    return x


def noise(x, radius):
    return torch.empty_like(x).uniform_(-radius, radius)


def pgn(net, images, labels, eps, step, steps, neighbors, zeta=3.0, delta=0.5):
    def direction(x):
        total = torch.zeros_like(x)
        for _ in range(neighbors):
            near = x + noise(x, zeta * eps)
            first = gradient(net, near, labels)
            total += (1 - delta) * first + delta * gradient(net, near - step * unit(first), labels)
        return total / neighbors

    return ascend(direction, images, eps, step, steps)


def tpa(net, images, labels, eps, step, steps, neighbors, zeta=1.0, k=0.05, alpha=0.8):
    def direction(x):
        total = torch.zeros_like(x)
        for _ in range(neighbors):
            near = x + noise(x, zeta * eps)
            ahead = near - k * gradient(net, near, labels).sign()
            total += gradient(net, ahead, labels)
        return (1 - alpha) * gradient(net, x, labels) + alpha * total / neighbors

    return ascend(direction, images, eps, step, steps, decay=0.9, signs=True)


def admix(net, images, labels, eps, step, steps, samples=3, scales=5, ratio=0.2):
    def direction(x):
        total = torch.zeros_like(x)
        for _ in range(samples):
            mixed = x + ratio * images[torch.randperm(len(x))]
            for n in range(scales):
                total += gradient(net, mixed / 2**n, labels) / 2**n
        return total

    return ascend(direction, images, eps, step, steps)


def ssa(net, images, labels, eps, step, steps, samples, rho=0.5):
    def direction(x):
        total = torch.zeros_like(x)
        for _ in range(samples):
            noisy = (x + eps * torch.randn_like(x)).numpy()
            mask = 1 + rho * (2 * torch.rand_like(x).numpy() - 1)
            spectrum = fft.dctn(noisy, axes=(2, 3), norm="ortho") * mask
            changed = torch.tensor(fft.idctn(spectrum, axes=(2, 3), norm="ortho"), dtype=x.dtype)
            total += gradient(net, changed, labels)
        return total

    return ascend(direction, images, eps, step, steps)
