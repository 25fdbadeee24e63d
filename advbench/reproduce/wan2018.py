"""The recipe `wan2018`: the paper's MNIST models in the setting of the authors' own published example.

Written before the first of these models was trained; the criterion below is not changed after that.

**From the example** (`examples/` of the authors' repository, `train_test.prototxt` and `lenet_solver.prototxt`): the
network with its two commented convolutions, six in all (`lenet-plus`); pixels / 256; Caffe's "xavier" initial values;
SGD with momentum 0.9 (not Nesterov's), batch 64, 20,000 steps, learning rate 0.03 times 0.7 every 3,000 steps, weight
decay 0.001; biases at twice the rate without decay; L-GM's means at 0.3 of the rate; linear heads without bias at 3
times the rate; center loss weight 0.01, its centres moved by the optimiser; L-GM's alpha from 0.001 tenfold every
1,500 steps. All 60,000 training images.

**Where the paper speaks, it leads**: six convolutions, lambda 0.1, alpha 1, no additive margin, identity covariance,
100-D features, perturbations added without clipping.

**Left open by both, and chosen here**: the order of images (shuffled each epoch; Caffe reads them in the order of its
database); PReLU's slopes learn like weights; L-GM's means and the centres have no weight decay, and the centres learn
at the rate of the linear layer beside them; the 100-D features of the example have no ReLU, those of the paper have
one: the example leads, since it is the network that was run; L-Softmax (m = 4) keeps our annealing (1,000 to 0.5 over
half of the training); eps is in units of pixels in [0, 1] (the example's pixels / 256 differ by 0.4 %).

**Added to both**: a gradient longer than 10 is shortened to 10, for all losses alike. Without a limit 2 of 3 seeds of
softmax, 1 of 3 of center and at least 1 of 3 of L-Softmax diverged within 250 steps, at 1 as at 3 times the rate for
their heads; with it none of these did. (Tried on the training loss alone, before the first model was trained.) What
happens without the limit at seed 0 is a row for each loss.

**Criterion**: over seeds 0, 1, 2, the EER of `likelihood` under untargeted FGSM at eps 0.3 of [0, 1], not clipped,
population `all`, gradients in float32, on the 10,000 test images: L-GM below center below softmax in 3 of 3 seeds,
the paired 95 % interval of each difference (resampled images) excluding 0. Each figure of the paper (Tables 1 and 6,
EERs, targeted FGSM, share of p_max > 0.98) stands beside ours with its interval over seeds and the distance. The
other readings (clipped; `successful`; exact gradients; exp(-d) in float32) are description.
"""

from typing import Any

SEEDS = (0, 1, 2)
SOLVER: dict[str, Any] = {
    "epochs": 22,
    "max_steps": 20_000,
    "batch_size": 64,
    "learning_rate": 0.03,
    "momentum": 0.9,
    "nesterov": False,
    "weight_decay": 0.001,
    "warmup": 0.0,
    "decay_every": 3_000,
    "decay_factor": 0.7,
    "max_gradient_norm": 10.0,
    "bias_rate": 2.0,
    "bias_decay": False,
    "precision": "fp32",
    "all_parts": True,
}
LGM: dict[str, Any] = {"name": "lgm", "alpha": 1.0, "lam": 0.1, "rising": True}
# a loss's entry in a study, and the rate of its own parameters
LOSSES: dict[str, tuple[dict[str, Any], float]] = {
    "lgm": (LGM, 0.3),
    "center": ({"name": "center", "weight": 0.01, "solver": True, "bias": False}, 3.0),
    "softmax": ({"name": "softmax", "bias": False}, 3.0),
    "l-softmax": ({"name": "l-softmax", "margin": 4}, 3.0),
}
# what the example has otherwise, on L-GM at seed 0: (loss, changes of the training, network)
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "additive": ({**LGM, "lam": 0.03, "additive_margin": 1.0}, {}, "lenet-plus"),
    "five": (LGM, {}, "lenet-plus-five"),
    "rate0.01": (LGM, {"learning_rate": 0.01}, "lenet-plus"),
    "sigma": ({**LGM, "covariance": "isotropic"}, {}, "lenet-plus"),
}
UNLIMITED = {"max_gradient_norm": 0.0}  # as the example is published
UNSEEN = {"all_parts": False, "full_train": True}  # 55,000 images: 5,000 are left to fix thresholds on
# the tuned recipe's network and schedule at lower rates, seed 0
LOWER_RATES = (0.01, 0.02)


def table(
    loss: dict[str, Any], head_rate: float, seed: int, network: str = "lenet-plus", **more: Any
) -> dict[str, Any]:
    """The spec of one model."""
    training = {**SOLVER, "head_rate": head_rate, **more}
    own = {"losses": [loss], "seeds": [seed], "network": network, "training": training}
    return {"dataset": "mnist", "feature_dim": 100, "attacks": ["fgsm"], "detectors": ["likelihood"], **own}
