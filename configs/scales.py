"""Scales: on which data, nets and trainings a paper's study is run; papers that share one share its networks.

| scale | surrogate | targets | data |
|---|---|---|---|
| `cifar10` | ResNet-18, 200 epochs | ResNet-50, VGG-16, Inception-V3, DenseNet-121 | all test images |
| `imagenette` | ResNet-50, 50 epochs | VGG-16, DenseNet-121, MobileNetV2, Xception; all from files | 500 |
| `cpu` | a narrow VGG-11, 3 epochs | `cifar10`'s families, narrow, 4 epochs | real CIFAR-10, 1000 |
| `imagenette_cpu` | a narrow ResNet-18 at 96 px | two narrow nets | ImageNette at 160 px, 300 |
| `smoke` | tiny | tiny | digits; for tests |
"""

from configs import common
from configs.digits import INK

CIFAR10 = {
    "mean": (0.4914, 0.4822, 0.4465),
    "std": (0.2471, 0.2435, 0.2616),
}  # the S&P paper's official code's


class Scale:
    """What a study is run on: `where`, data, training, surrogate, targets, and what a paper adds."""

    def __init__(self, where, **fields):
        usual = {
            "dataset": "cifar10",
            "weights": False,
            "clean": None,
            "batch_size": 128,
            "checkpoint_epochs": 10,
            "nets": {},
        }
        usual |= {"seeds": 3, "count": 0, "target_epochs": 0}  # 0: as long as the surrogates
        for name, value in {**usual, "where": where, **fields}.items():
            setattr(self, name, value)

    def but(self, **changes):
        """The scale with other fields."""
        return Scale(**{**vars(self), **changes})

    def shared(self, model):
        """What all trainings of an architecture have in common."""
        start = {"start": _file(model)} if self.weights else {}
        return {"data": self.train, "training": self.training, "dataset": self.dataset, **self.stats, **start}

    def target(self, label, mechanism="ST", seed=100):
        """One training of the target's architecture; seed 100, so that it is none of the surrogates'."""
        model, options = self.targets[label]
        lasting = self.lasting(self.target_epochs) if self.target_epochs else self
        return common.surrogates((mechanism,), (seed,), model, options, **lasting.shared(model))[0][2]

    def images(self, count):
        """So many test images."""
        return {**self.test, "count": count}

    def lasting(self, epochs):
        """Trainings of so many epochs; the warm-up keeps its share."""
        schedule = self.training["schedule"]
        warmup = schedule["options"]["warmup_epochs"] * epochs / self.training["epochs"]
        options = {**schedule["options"], "warmup_epochs": warmup}
        return self.but(
            training={**self.training, "epochs": epochs, "schedule": {**schedule, "options": options}}
        )

    def wide(self, width):
        """Surrogates of that width; and the same net where it serves as another, too."""
        model, options = self.surrogate
        wide = (model, {**options, "width": width})
        return self.but(**{name: wide for name, value in vars(self).items() if value == self.surrogate})


def _file(model):
    return {"kind": "Pretrained", "model": common.call(model), "file": f"weights/{model}.safetensors"}


def chosen(scales, variant, refused=None, **more):
    """The scale that a variant begins with, changed by what follows, seeds, and what it says of `more`.

    `cpu,seeds=1,epochs=5,width=12,count=500`: `seeds` is how many, `seed=2` that one alone.

    Args:
        scales: name -> function that makes it.
        variant: of a config.
        refused: keys that say nothing to a paper, and what to do instead.
        more: other keys that a paper knows, with their defaults.

    Raises:
        ValueError: no such scale, no such key, or one that would change nothing.
    """
    name, _, rest = variant.partition(",")
    if name not in scales:
        raise ValueError(f"unknown variant {variant!r}: begin with {', '.join(scales)}")
    s = scales[name]()
    usual = {"seeds": s.seeds, "seed": -1, "count": s.count, "epochs": 0.0, "width": 0}
    said = common.variant(rest, **usual, **more)
    refused = dict.fromkeys(usual, f"{name} trains nothing: its nets are files") if s.nets else refused or {}
    for key in refused.keys() - {"count"}:
        if said[key] != usual[key]:
            raise ValueError(f"{key}={said[key]:g}: {refused[key]}")
    if said["seed"] >= 0 and said["seeds"] != s.seeds:
        raise ValueError("seeds and seed: give one, how many or which")
    s = s.but(count=said["count"])
    s = s.wide(said["width"]) if said["width"] else s
    s = s.lasting(said["epochs"]) if said["epochs"] else s
    seeds = (said["seed"],) if said["seed"] >= 0 else tuple(range(said["seeds"]))
    return s, seeds, {key: said[key] for key in more}


def several(text, offered, key, name):
    """What `tables=table2+table12` names, all of it where it says nothing.

    Raises:
        ValueError: something that is not offered.
    """
    asked = tuple(text.split("+")) if text else ()
    if unknown := set(asked) - set(offered):
        raise ValueError(f"{key}={'+'.join(sorted(unknown))}: {name} has {', '.join(offered)}")
    return asked


def looked_at(asked, offered):
    """What claims look at: the tables that are asked, or all where claims are asked alone."""
    return offered if asked == ("claims",) else asked


def cifar10():
    """The S&P paper's."""
    return Scale(
        "CIFAR-10",
        train=common.data("cifar10", "train"),
        test=common.data("cifar10"),
        training=common.training(weight_decay=1e-4),
        stats=CIFAR10,
        surrogate=("cifar_resnet18", {}),
        targets={
            "ResNet50": ("cifar_resnet50", {}),
            "VGG16": ("cifar_vgg16", {}),
            "InceptionV3": ("cifar_inceptionv3", {}),
            "DenseNet121": ("cifar_densenet121", {}),
        },
    )


def cpu():
    """Narrow nets; as surrogate the one that is the most accurate after a minute of training."""
    return cifar10().but(
        where="real CIFAR-10, two CPU cores",
        training=common.training(
            3, batch_size=64, warmup_epochs=0.5, nesterov=True, weight_decay=1e-4, padding=2
        ),
        surrogate=("cifar_vgg11", {"width": 24, "blocks": (1, 1, 1, 1)}),
        targets={
            "ResNet50": ("cifar_resnet50", {"width": 8, "blocks": (1, 2, 2)}),
            "VGG16": ("cifar_vgg16", {"width": 24, "blocks": (1, 1, 2, 2)}),
            "InceptionV3": ("cifar_inceptionv3", {"width": 0.125, "blocks": (1, 1, 1)}),
            "DenseNet121": ("cifar_densenet121", {"blocks": (2, 2, 2), "growth": 8}),
        },
        target_epochs=4,
        batch_size=32,  # in a core's cache; at 128 the ViT's gradients take 1.4 times as long
        count=1000,
        checkpoint_epochs=1,
    )


def imagenette():
    """The S&P paper's, from files of ImageNet weights."""
    names = ("vgg16_bn", "densenet121", "mobilenetv2_100", "legacy_xception")
    source = "imagenette/320px-v2"
    return Scale(
        "ImageNette",
        dataset="imagenette",
        train=common.data(source, "train", size=224, scale=(0.08, 1.0)),
        clean=common.data(source, "train", size=224),
        test=common.data(source, size=224),
        training=common.training(50, peak=1.0, warmup_epochs=5, weight_decay=1e-4, padding=0, flip=False),
        stats=common.IMAGENET,
        surrogate=("resnet50", {}),
        targets={
            label: (name, {})
            for label, name in zip(("VGG16", "DenseNet121", "MobileNetV2", "Xception"), names, strict=True)
        },
        weights=True,
        count=500,
        batch_size=50,
    )


def imagenette_cpu():
    """Narrow nets from random weights."""
    source = "imagenette/160px-v2"
    return imagenette().but(
        where="ImageNette at 96 px, two CPU cores",
        train=common.data(source, "train", size=96, scale=(0.35, 1.0)),
        clean=common.data(source, "train", size=96),
        test=common.data(source, size=96),
        training=common.training(
            12,
            batch_size=64,
            peak=0.05,
            warmup_epochs=1.0,
            nesterov=True,
            weight_decay=1e-4,
            padding=0,
            flip=False,
        ),
        surrogate=("resnet18", {"width": 24}),
        targets={
            "DenseNet121": ("densenet121", {"blocks": (2, 4, 4, 2), "growth": 12}),
            "VGG16": ("cifar_vgg16", {"width": 16, "blocks": (1, 1, 1, 2, 2)}),
        },
        weights=False,
        seeds=1,
        count=300,
        checkpoint_epochs=1,
    )


def smoke():
    """Tiny nets on digits."""
    return Scale(
        "digits, a smoke test",
        train=common.data("digits", "train", 256, order_seed=0),
        test=common.data("digits", count=48),
        training=common.training(
            2, batch_size=32, warmup_epochs=1.0, padding=1, flip=False, weight_decay=1e-4
        ),
        stats=INK,
        surrogate=("cifar_resnet18", {"width": 4, "blocks": (1,)}),
        targets={"VGG16": ("cifar_vgg16", {"width": 4, "blocks": (1, 1)})},
        seeds=2,
        count=32,
        checkpoint_epochs=1,
    )
