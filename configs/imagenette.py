"""ImageNette: the S&P 2024 paper's second data set, ten classes of ImageNet.

    python -m transferjax.data.prepare imagenette/320px-v2
    python -m transferjax.models.weights.convert resnet50.pth weights/resnet50.safetensors --model=resnet50
    python -m experiments.study --config=configs/imagenette.py --store=runs/store

ResNet-50 surrogates and four targets at 224 px, fine-tuned from ImageNet weights, one file per network in
`weights/` (PyTorch's own files serve as well): `resnet50`, `vgg16_bn`, `densenet121`, `mobilenetv2_100` and
`legacy_xception`, as timm names them. Magnitudes are Table 11's; the rest of the training is what the paper's
code does when nothing else is asked for. It wants an accelerator: 52 networks, 200 epochs each.

Variant `:cpu` trains one small ResNet from scratch on the 160 px images, cropped to 96 px: 77.7 % test
accuracy after 20 minutes of processor time, 60 % after a quarter of them (`docs/results/imagenette_cpu`).
"""

from configs import common

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
PGD = ("PGD", "pgd", {"steps": 50, "step_size": 2 / 255, "random_start": False})


def fine_tuned(model):
    """A training of that net that begins with its file of weights."""
    return {"kind": "Pretrained", "model": common.call(model), "file": f"weights/{model}.safetensors"}


def get_config(variant=""):
    """Table 3's mechanisms and targets; `cpu`: one network, trained from scratch."""
    if variant == "cpu":
        return cpu()
    if variant:
        raise ValueError(f"unknown variant {variant!r}: use cpu, or none")
    shared = {
        "data": common.data("imagenette/320px-v2", "train", size=224, scale=(0.08, 1.0)),
        "training": common.training(weight_decay=1e-4, padding=0, flip=False),
        **common.IMAGENET,
    }
    images = common.data("imagenette/320px-v2", count=500, size=224)
    surrogate = {"start": fine_tuned("resnet50"), **shared}
    return common.study(
        "ImageNette",
        networks=(
            *common.surrogates(MECHANISMS, range(3), "resnet50", {}, dataset="imagenette", **surrogate),
            *(
                (name, {}, common.network(model, {}, seed=100, start=fine_tuned(model), **shared))
                for name, model in TARGETS.items()
            ),
        ),
        attacks=(PGD,),
        blocks=(
            common.main_block(
                MECHANISMS,
                TARGETS,
                eps_255=(4, 8, 16),
                data=images,
                accuracy=common.data("imagenette/320px-v2", size=224),
                smoothness={**images, "count": 100},
                similarity={**images, "count": 1000},
            ),
        ),
        batch_size=50,
    )


def cpu():
    """One small network from scratch: how far two cores go."""
    training = common.training(
        12, batch_size=64, peak=0.05, warmup_epochs=1.0, nesterov=True, padding=0, flip=False
    )
    source = common.data("imagenette/160px-v2", "train", size=96, scale=(0.35, 1.0))
    net = common.network("resnet18", {"width": 24}, data=source, training=training, **common.IMAGENET)
    return common.study(
        "ImageNette on two CPU cores",
        networks=(("ST", {"mechanism": "ST", "seed": 0}, net),),
        blocks=(("main", {"surrogates": ("ST",), "accuracy": common.data("imagenette/160px-v2", size=96)}),),
        attacks=(),
        views=(("training", "training", {"block": "main"}), ("accuracy", "accuracy", {"block": "main"})),
        batch_size=50,
        checkpoint_epochs=1,
    )
