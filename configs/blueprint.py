"""What every blueprint config starts from: the settings of the S&P 2024 paper's CIFAR-10 experiments.

    python -m experiments.blueprint --config=configs/<file>.py[:variant] --workdir=runs/<name> --config.x.y=z

Order-bearing fields are tuples, because a ConfigDict sorts its keys. `mechanisms` picks rows of `methods`.
"""

from ml_collections import ConfigDict

from configs.methods import methods


def blueprint(*mechanisms, dataset="cifar10"):
    """A config without networks and data: fill in `data`, `surrogate` and `targets`."""
    c = ConfigDict()
    c.title = "Transferability blueprint"
    c.seed = 0
    c.seeds = (0, 1, 2)  # one surrogate each
    c.mechanisms = mechanisms
    c.methods = methods(*mechanisms, dataset=dataset)

    c.data = ConfigDict()
    c.data.name = "cifar10"
    c.data.options = ConfigDict()  # `size`, …
    c.data.crops = ConfigDict()  # of training images that are decoded on the way: `scale`
    c.data.train = 0  # how many training images; 0 for all
    c.data.test = 0

    c.network = ConfigDict()  # pixels are normalized inside predict
    c.network.mean = (0.4914, 0.4822, 0.4465)
    c.network.std = (0.2023, 0.1994, 0.2010)

    c.surrogate = ConfigDict({"model": "cifar_resnet18", "options": {}, "weights": ""})
    c.targets = ConfigDict()  # name -> model, options, weights (a file to fine-tune from)
    c.target_seed = 100
    c.surrogate_epochs = ()  # of `keep_epochs`: surrogates stopped early, besides the finished ones

    c.training = ConfigDict()
    c.training.epochs = 200
    c.training.warmup_epochs = 10.0
    c.training.schedule = "cosine"  # after the warm-up; or "step", or "constant" without one
    c.training.decay_epochs = (100, 150)  # where "step" divides by ten
    c.training.batch_size = 128
    c.training.accumulate = 1  # batches per update
    c.training.dtype = "float32"  # of the computation; "bfloat16" on accelerators, parameters stay float32
    c.training.remat = False  # compute what lies between convolutions again in the backward pass
    c.training.seeds_at_once = 0  # of one mechanism; 0 for all on one accelerator, one by one elsewhere
    c.training.learning_rate = 0.1
    c.training.momentum = 0.9
    c.training.nesterov = False
    c.training.weight_decay = 5e-4
    c.training.augment = ConfigDict({"padding": 4, "flip": True})  # none for data that come as crops
    c.training.checkpoint_every = 10  # epochs
    c.training.keep_epochs = ()  # checkpoints that stay; the newest and the best stay anyway
    c.training.tensorboard = False

    c.attack = ConfigDict()
    c.attack.name = "pgd"
    c.attack.options = ConfigDict(
        {"steps": 20, "step_size": 2 / 255, "random_start": False, "quantize": True}
    )
    c.attack.eps_255 = (4, 8, 16)
    c.attack.goals = ("untargeted", "targeted")
    c.attack.images = 0  # of the test set; 0 for all
    c.attack.batch_size = 128

    c.measure = ConfigDict()
    c.measure.smoothness_images = 100  # of the test set; 0 for all
    c.measure.similarity_images = 1000
    c.measure.sharpness_images = 0  # of the training set, for the weight-space Hessian; 0 leaves it out
    c.measure.batch_size = 50

    c.collect = ConfigDict()  # LGV snapshots, `experiments.collect`
    c.collect.mechanism = "ST"
    c.collect.learning_rate = 0.05
    c.collect.epochs = 10
    c.collect.per_epoch = 4

    c.features = ConfigDict()  # Ilyas et al.'s data sets, `experiments.feature_data`
    c.features.kind = "robust"
    c.features.mechanism = "AT"
    c.features.steps = 100
    c.features.step_size = 0.1
    c.features.eps = 0.5
    return c.lock()
