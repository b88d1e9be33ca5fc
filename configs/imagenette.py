"""The blueprint on ImageNette: the S&P 2024 paper's second data set, ten classes of ImageNet.

    python -m transferjax.data.prepare imagenette/320px-v2
    python -m transferjax.models.convert resnet50.pth weights/resnet50.safetensors --model=resnet50
    python -m experiments.blueprint --config=configs/imagenette.py --workdir=runs/imagenette

ResNet-50 surrogates and four targets at 224 px, fine-tuned from ImageNet weights, one file per network in
`weights/` (PyTorch's own files serve as well): `resnet50`, `vgg16_bn`, `densenet121`, `mobilenetv2_100` and
`legacy_xception`, as timm names them. Magnitudes are Table 11's; the rest of the training is what the paper's
code does when nothing else is asked for. It wants an accelerator: 52 networks, 200 epochs each.

    TFDS_DATA_DIR=<where ImageNette is> python -m experiments.train --config=configs/imagenette.py:cpu \
        --workdir=runs/imagenette_cpu

Variant `:cpu` trains one small ResNet from scratch on the 160 px images, cropped to 96 px: 77.7 % test
accuracy after 20 minutes of processor time, 60 % after a quarter of them (`docs/results/imagenette_cpu`).
Name `targets` and more `mechanisms` for the rest of the path.
"""

from configs.blueprint import blueprint

MECHANISMS = (
    *("ST", "MU_1", "MU_5", "CM_1", "CM_5", "CO_1", "CO_5", "LS_1", "LS_5"),
    *("AT", "IR", "JR", "ER", "SAM", "SAM&IR", "SAM&JR"),
)
TARGETS = {
    "VGG16": "vgg16_bn",
    "DenseNet121": "densenet121",
    "MobileNetV2": "mobilenetv2_100",
    "Xception": "legacy_xception",
}


def _network(model, **options):
    return {"model": model, "options": options, "weights": f"weights/{model}.safetensors"}


def get_config(variant=""):
    """Table 3's mechanisms and targets; `cpu`: one network, trained from scratch."""
    c = blueprint(*(MECHANISMS if not variant else ("ST",)), dataset="imagenette")
    with c.unlocked():
        c.title = "ImageNette"
        c.data.name = "imagenette/320px-v2"
        c.data.options = {"size": 224}
        c.data.crops = {"scale": (0.08, 1.0)}
        c.network.mean, c.network.std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
        c.training.augment = {"padding": 0, "flip": False}
        c.surrogate = _network("resnet50")
        c.targets = {name: _network(model) for name, model in TARGETS.items()}
        c.training.weight_decay = 1e-4
        c.attack.options.steps = 50
        c.attack.images = 500
        c.attack.batch_size = 50
        c.measure.batch_size = 20
        if variant == "cpu":
            c.title = "ImageNette on two CPU cores"
            c.seeds = (0,)
            c.data.name = "imagenette/160px-v2"
            c.data.options = {"size": 96}
            c.data.crops = {"scale": (0.35, 1.0)}
            c.surrogate = {"model": "resnet18", "options": {"width": 24}, "weights": ""}
            c.targets = {}
            c.training.epochs = 12
            c.training.warmup_epochs = 1.0
            c.training.batch_size = 64
            c.training.learning_rate = 0.05
            c.training.weight_decay = 5e-4
            c.training.nesterov = True
            c.training.checkpoint_every = 1
        elif variant:
            raise ValueError(f"unknown variant {variant!r}: use cpu, or none")
    return c
