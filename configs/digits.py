"""The quickstart: the whole blueprint on scikit-learn's handwritten digits, no download.

    python -m experiments.blueprint --config=configs/digits.py --workdir=runs/quickstart

Cost: about a minute and a half on 2 CPU cores, half of it compilation. Variant `:smoke` is a run for tests.
"""

from configs.blueprint import blueprint


def get_config(variant=""):
    """ST, SAM, IR and SAM&IR surrogates in two seeds, three targets of other architectures."""
    c = blueprint("ST", "SAM", "IR", "SAM&IR")
    with c.unlocked():
        c.title = "Quickstart: transferability on handwritten digits"
        c.seeds = (0, 1)
        c.data.name = "digits"
        c.network.mean, c.network.std = (0.31,), (0.38,)
        c.surrogate.options = {"width": 8, "blocks": (1, 1, 1)}
        c.targets.ResNet = {"model": "cifar_resnet18", "options": {"width": 12, "blocks": (1, 1)}}
        c.targets.VGG = {"model": "cifar_vgg11", "options": {"width": 8, "blocks": (1, 1, 2)}}
        c.targets.DenseNet = {"model": "cifar_densenet121", "options": {"blocks": (2, 2), "growth": 6}}
        c.training.epochs = 8
        c.training.warmup_epochs = 1.0
        c.training.batch_size = 32
        c.training.augment = {"padding": 1, "flip": False}
        c.training.checkpoint_every = 4
        # Black ink on white paper takes larger budgets than photographs; steps of 2.5 eps / steps.
        c.attack.options = {"steps": 10, "random_start": False, "quantize": True}
        c.attack.eps_255 = (16, 32, 48)
        c.measure.smoothness_images = 100
        c.measure.similarity_images = 0
        if variant == "smoke":
            c.mechanisms, c.seeds = ("ST", "SAM&IR"), (0,)
            c.surrogate.options = {"width": 4, "blocks": (1,)}
            c.targets = {"VGG": {"model": "cifar_vgg11", "options": {"width": 4, "blocks": (1, 1)}}}
            c.data.train, c.data.test = 256, 64
            c.training.epochs, c.training.checkpoint_every = 2, 1
            c.attack.eps_255 = (32,)
            c.measure.smoothness_images = c.measure.similarity_images = 16
        elif variant:
            raise ValueError(f"unknown variant {variant!r}: use smoke, or none")
    return c
