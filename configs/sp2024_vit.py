"""Table 9 of the S&P 2024 paper: vision transformers with and without SAM, from files of weights.

    transferjax study --config=configs/sp2024_vit.py --store=runs/store

What lies where (`transferjax.models.weights.convert` writes such files; PyTorch's own serve as well):

| file in `weights/` | timm's name |
|---|---|
| `vit_base_patch16_224`, `vit_base_patch32_224` | `….augreg_in21k_ft_in1k`, as the paper's surrogates |
| `vit_base_patch16_224.sam`, `vit_base_patch32_224.sam` | `….sam_in1k` |
| `resnet101`, `densenet121`, `vgg16_bn`, `inception_v3` | as timm has them |
| `inception_v3.tf_adv_in1k`, `inception_resnet_v2.tf_ens_adv_in1k` | the adversarially trained ones |

Images are the 1000 of the NIPS 2017 competition at 299 px: `data.save(data.nips2017(table, images)[0],
"data/nips2017", "test")`. Nets for 224 px see them resized. The paper's table does not say its budget:
16/255 is taken, and the 50 steps of its other images of that size.
"""

from configs import common
from configs.attacked import HALF, pretrained

NETS = {  # label: (model, file, size, normalization)
    "ViT-B/16": ("vit_base_patch16_224", "", 224, HALF),
    "ViT-B/16-SAM": ("vit_base_patch16_224", ".sam", 224, HALF),
    "ViT-B/32": ("vit_base_patch32_224", "", 224, HALF),
    "ViT-B/32-SAM": ("vit_base_patch32_224", ".sam", 224, HALF),
    "ResNet101": ("resnet101", "", 224, common.IMAGENET),
    "DenseNet121": ("densenet121", "", 224, common.IMAGENET),
    "VGG16": ("vgg16_bn", "", 224, common.IMAGENET),
    "InceptionV3": ("inception_v3", "", 299, HALF),
    "InceptionV3_AT": ("inception_v3", ".tf_adv_in1k", 299, HALF),
    "IncResV2_AT": ("inception_resnet_v2", ".tf_ens_adv_in1k", 299, HALF),
}
SURROGATES = tuple(name for name in NETS if name.startswith("ViT"))


def get_config():
    """Four surrogates, PGD and DIM, six targets."""
    attack = {"steps": 50, "step_size": 2 / 255, "random_start": False}
    images = common.data("data/nips2017")
    return common.study(
        "S&P 2024, Table 9: vision transformers",
        networks=tuple((label, {}, pretrained(*how)) for label, how in NETS.items()),
        attacks=(
            ("pgd", "pgd", attack),
            ("DIM", "dim", {**attack, "decay": 0.9, "prob": 0.7, "rate": (0.75, 1.5)}),
        ),
        blocks=(
            (
                "table9",
                {
                    "surrogates": SURROGATES,
                    "attacks": ("pgd", "DIM"),
                    "eps_255": (16,),
                    "targets": tuple(name for name in NETS if name not in SURROGATES),
                    "data": images,
                    "accuracy": images,
                },
            ),
        ),
        views=(("table9", "paper", {"block": "table9", "table": "table9"}),),
        batch_size=20,
    )
