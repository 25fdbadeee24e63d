"""What Wan et al. 2018 (arXiv:1803.02988) print about MNIST; rates as fractions."""

LABELS = {
    "softmax": "softmax",
    "center": "center",
    "l-softmax": "L-Softmax",
    "lgm0.0": "L-GM, alpha 0",
    "lgm0.3": "L-GM, alpha 0.3",
    "lgm1.0": "L-GM, alpha 1",
    "softmax-adv": "softmax, adversarially trained",
    "lgm1.0-adv": "L-GM, alpha 1, adversarially trained",
}
# Table 1: mean and standard deviation of three tries, (loss, feature dimension)
TABLE1: dict[tuple[str, int], tuple[float, float]] = {
    ("center", 2): (0.0145, 0.0001), ("center", 100): (0.0047, 0.0001),
    ("l-softmax", 2): (0.0130, 0.0002), ("l-softmax", 100): (0.0043, 0.0001),
    ("softmax", 2): (0.0182, 0.0001), ("softmax", 100): (0.0068, 0.0001),
    ("lgm0.0", 2): (0.0144, 0.0001), ("lgm0.0", 100): (0.0049, 0.0001),
    ("lgm0.3", 2): (0.0132, 0.0001), ("lgm0.3", 100): (0.0042, 0.0002),
    ("lgm1.0", 2): (0.0117, 0.0001), ("lgm1.0", 100): (0.0039, 0.0001),
}  # fmt: skip
# Table 6: error under FGSM, (loss, eps)
TABLE6: dict[tuple[str, float], float] = {
    ("softmax", 0.0): 0.0068, ("softmax", 0.1): 0.2408, ("softmax", 0.2): 0.7556, ("softmax", 0.3): 0.8487,
    ("center", 0.0): 0.0047, ("center", 0.1): 0.4313, ("center", 0.2): 0.6717, ("center", 0.3): 0.8549,
    ("lgm1.0", 0.0): 0.0039, ("lgm1.0", 0.1): 0.2363, ("lgm1.0", 0.2): 0.6440, ("lgm1.0", 0.3): 0.8162,
}  # fmt: skip
# Fig. 5: EER of the likelihood under FGSM at eps 0.3
EER = {"softmax": 0.377, "center": 0.102, "lgm1.0": 0.031}
# Sec. 4.3: targeted FGSM at eps 0.3 on L-GM
TARGETED_ERROR = {"lgm1.0": 0.8137}
TARGETED_EER = {"lgm1.0": 0.043}
# Sec. 4.3: "p_max > 0.98 for over 95 % of the samples for all the three losses"
SURE_SHARE = {"softmax": 0.95, "center": 0.95, "lgm1.0": 0.95}
LICENCE = (
    "MNIST: Yann LeCun (Courant Institute, NYU) and Corinna Cortes (Google Labs, New York) hold the copyright of "
    "the MNIST data set, a derivative work from original NIST data sets, made available under the terms of the "
    "Creative Commons Attribution-Share Alike 3.0 licence (CC BY-SA 3.0)."
)
