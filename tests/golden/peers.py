"""Which attacks of ours the golden arrays of torchattacks and TransferAttack belong to."""

from transferjax import attacks

EPS, STEP = 8 / 255, 2 / 255
BUDGET = {"eps": EPS, "steps": 10, "step_size": STEP}
PLAIN = BUDGET | {"random_start": False}

PEERS = {
    "torchattacks__FGSM": attacks.fgsm(EPS),
    "torchattacks__BIM": attacks.bim(**BUDGET),
    "torchattacks__PGD": attacks.pgd(**PLAIN),
    "torchattacks__PGD__targeted": attacks.pgd(**PLAIN, targeted=True),
    "torchattacks__PGDL2": attacks.pgd(1.0, 10, step_size=0.2, norm="l2", random_start=False),
    "torchattacks__MIFGSM": attacks.mi_fgsm(**BUDGET),
    "torchattacks__MIFGSM__targeted": attacks.mi_fgsm(**BUDGET, targeted=True),
    "torchattacks__NIFGSM": attacks.ni_fgsm(**BUDGET),
    "torchattacks__SINIFGSM": attacks.si_ni_fgsm(**BUDGET, scales=5),
    "torchattacks__TIFGSM": attacks.tim(**BUDGET, decay=0.0, kernel_size=15),
    "transferattack__MIFGSM": attacks.mi_fgsm(**BUDGET),
    "transferattack__NIFGSM": attacks.ni_fgsm(**BUDGET),
    "transferattack__EMIFGSM": attacks.emi_fgsm(**BUDGET, samples=11, radius=7.0),
    "transferattack__TIM": attacks.tim(**BUDGET, kernel_size=7),
    "transferattack__SIM": attacks.sim(**BUDGET, scales=5),
    "transferattack__GNP": attacks.gnp(**BUDGET, radius=0.01, beta=0.8, variant="transferattack"),
    "transferattack__PGN_no_noise": attacks.pgn(EPS, 10, step_size=EPS / 10, neighbors=1, zeta=0, delta=0.5),
}
