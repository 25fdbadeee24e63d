"""Losses against the papers' equations, SciPy's densities, and each other."""

import math
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from scipy.special import log_softmax
from scipy.stats import multivariate_normal
from torch import Tensor

from advbench import catalog
from advbench.errors import BadSetting
from advbench.losses import Head
from advbench.losses.center import Center
from advbench.losses.lgm import LGM
from advbench.losses.softmax import Softmax
from tests.helpers.memory import Largest

Array = NDArray[np.float64]
COVARIANCES = ("identity", "diagonal")
HEADS: list[tuple[str, dict[str, Any]]] = [
    ("softmax", {}),
    ("center", {"weight": 0.3}),
    ("l-softmax", {"margin": 3, "floor": 0.2}),
    ("lgm", {"alpha": 0.7, "lam": 0.2}),
    ("lgm", {"alpha": 0.7, "lam": 0.2, "covariance": "diagonal"}),
]
N, D, K = 12, 3, 4


class Batch:
    """Features of a few classes near their means, and a head with parameters that are not its initial ones."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.mu = rng.normal(size=(K, D))
        self.var = np.exp(rng.uniform(-1, 1, size=(K, D)))
        self.z = np.arange(N) % K
        self.x = self.mu[self.z] + rng.normal(size=(N, D))

    @property
    def features(self) -> Tensor:
        return torch.from_numpy(self.x)

    @property
    def labels(self) -> Tensor:
        return torch.from_numpy(self.z)

    def lgm(self, covariance: str, **settings: Any) -> LGM:
        head = LGM(D, K, covariance=covariance, **settings).double()  # type: ignore[arg-type]
        head.mu.data = torch.from_numpy(self.mu.copy())
        if head.log_var is not None:
            head.log_var.data = torch.from_numpy(np.log(self.var))
        return head

    def variances(self, covariance: str) -> Array:
        return self.var if covariance == "diagonal" else np.ones_like(self.var)


@pytest.fixture
def batch(rng: np.random.Generator) -> Batch:
    return Batch(rng)


def make(name: str, settings: dict[str, Any], d: int = D, k: int = K) -> Head:
    torch.manual_seed(3)
    head: Head = catalog.load("loss", name)(d, k, **settings)
    with torch.no_grad():
        for tensor in (*head.parameters(), *head.buffers()):
            if tensor.is_floating_point():
                tensor.add_(torch.randn_like(tensor) / 2)
        if name == "lgm":
            head.log_prior.zero_()  # type: ignore[operator]
    return head.double()


def gradient(of: Tensor) -> Tensor:
    assert isinstance(of.grad, Tensor)
    return of.grad


def eq18(x: Array, mu: Array, var: Array) -> list[float]:
    """d_k for every k, one coordinate at a time."""
    return [sum((x[j] - m[j]) ** 2 / v[j] for j in range(D)) / 2 for m, v in zip(mu, var, strict=True)]


def eq17(x: Array, z: int, mu: Array, var: Array, alpha: float, lam: float) -> float:
    d = eq18(x, mu, var)
    det = [math.prod(v) for v in var]
    own = det[z] ** -0.5 * math.exp(-d[z] * (1 + alpha))
    everyone = sum(det[k] ** -0.5 * math.exp(-d[k] * (1 + (k == z) * alpha)) for k in range(K))
    return -math.log(own / everyone) + lam * (d[z] + math.log(det[z]) / 2)


def posterior_with_margin(x: Array, z: int, mu: Array, var: Array, alpha: float) -> Array:
    d = np.array(eq18(x, mu, var))
    d[z] *= 1 + alpha
    weights = np.prod(var, axis=1) ** -0.5 * np.exp(-d)
    p: Array = weights / weights.sum()
    return p


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize(("alpha", "lam"), [(0.0, 0.0), (1.0, 0.0), (0.0, 0.1), (0.3, 0.7)])
def test_lgm_is_equation_17_averaged_over_the_batch(batch: Batch, covariance: str, alpha: float, lam: float) -> None:
    var = batch.variances(covariance)
    slow = [eq17(x, int(z), batch.mu, var, alpha, lam) for x, z in zip(batch.x, batch.z, strict=True)]
    head = batch.lgm(covariance, alpha=alpha, lam=lam)
    assert head.loss(batch.features, batch.labels).item() == pytest.approx(np.mean(slow), rel=1e-12)


def test_lgm_without_margin_and_likelihood_is_a_linear_softmax_of_the_means(batch: Batch) -> None:
    head = batch.lgm("identity", alpha=0.0, lam=0.0)
    affinities = batch.x @ batch.mu.T - (batch.mu**2).sum(axis=1) / 2
    posteriors = log_softmax(affinities, axis=1)
    np.testing.assert_allclose(head(batch.features).log_softmax(1).detach(), posteriors, rtol=1e-11)
    expected = -posteriors[np.arange(N), batch.z].mean()
    assert head.loss(batch.features, batch.labels).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_lgm_logits_are_log_densities_up_to_one_constant(batch: Batch, covariance: str) -> None:
    var = batch.variances(covariance)
    density = np.stack(
        [multivariate_normal.logpdf(batch.x, m, np.diag(v)) for m, v in zip(batch.mu, var, strict=True)], axis=1
    )
    logits = batch.lgm(covariance, alpha=5.0, lam=5.0)(batch.features).detach().numpy()
    np.testing.assert_allclose(logits, density + D / 2 * math.log(2 * math.pi), rtol=1e-11)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_lgm_log_likelihood_is_the_log_density_of_the_given_class(batch: Batch, covariance: str) -> None:
    var = batch.variances(covariance)
    density = [
        multivariate_normal.logpdf(x, batch.mu[z], np.diag(var[z])) for x, z in zip(batch.x, batch.z, strict=True)
    ]
    got = batch.lgm(covariance).log_likelihood(batch.features, batch.labels).detach()
    np.testing.assert_allclose(got, np.array(density) + D / 2 * math.log(2 * math.pi), rtol=1e-11)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_the_margin_lowers_the_true_logit_by_alpha_times_its_distance(batch: Batch, covariance: str) -> None:
    var = batch.variances(covariance)
    head = batch.lgm(covariance, alpha=0.6)
    lowered = (head(batch.features) - head.margin_logits(batch.features, batch.labels)).detach().numpy()
    expected = np.zeros((N, K))
    for i, (x, z) in enumerate(zip(batch.x, batch.z, strict=True)):
        expected[i, z] = 0.6 * eq18(x, batch.mu, var)[z]
    np.testing.assert_allclose(lowered, expected, atol=1e-12)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_lgm_gradients_are_equations_19_to_23(batch: Batch, covariance: str) -> None:
    alpha, lam = 0.4, 0.25
    var = batch.variances(covariance)
    d_mu, d_var, d_x = np.zeros((K, D)), np.zeros((K, D)), np.zeros((N, D))
    for i, (x, z) in enumerate(zip(batch.x, batch.z, strict=True)):
        p = posterior_with_margin(x, int(z), batch.mu, var, alpha)
        pull = (1 - p[z]) * (1 + alpha) + lam
        for k in range(K):
            away = (x - batch.mu[k]) / var[k]
            c = (x - batch.mu[k]) ** 2  # diagonal of C_k; Eq. 21's C_k is C_z
            if k == z:
                d_mu[k] += -pull * away
                d_var[k] += -0.5 * (pull * c / var[k] - (1 - p[z] + lam)) / var[k]
                d_x[i] += pull * away
            else:
                d_mu[k] += p[k] * away
                d_var[k] += -0.5 * p[k] * (1 - c / var[k]) / var[k]
                d_x[i] -= p[k] * away
    head = batch.lgm(covariance, alpha=alpha, lam=lam)
    features = batch.features.requires_grad_()
    (head.loss(features, batch.labels) * N).backward()  # type: ignore[no-untyped-call]
    np.testing.assert_allclose(gradient(features), d_x, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(gradient(head.mu), d_mu, rtol=1e-9, atol=1e-12)
    if head.log_var is not None:
        np.testing.assert_allclose(gradient(head.log_var), d_var * var, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("name", "settings"), HEADS)
def test_loss_gradients_agree_with_finite_differences(batch: Batch, name: str, settings: dict[str, Any]) -> None:
    head = make(name, settings)
    features = batch.features.requires_grad_()
    # gradcheck nudges its inputs in place, so that the loss may close over them
    inputs = (features, *head.parameters())
    assert torch.autograd.gradcheck(lambda *_: head.loss(features, batch.labels), inputs)


def test_a_log_variance_below_the_floor_counts_as_the_floor_and_gets_no_gradient(batch: Batch) -> None:
    head = batch.lgm("diagonal", log_var_floor=-0.5)
    assert isinstance(head.log_var, torch.nn.Parameter)
    head.log_var.data[1] = -3.0
    floored = batch.lgm("diagonal", log_var_floor=-9.0)
    assert isinstance(floored.log_var, torch.nn.Parameter)
    floored.log_var.data = head.log_var.data.clamp(min=-0.5)
    loss = head.loss(batch.features, batch.labels)
    assert loss.item() == pytest.approx(floored.loss(batch.features, batch.labels).item(), rel=1e-14)
    own = head.log_likelihood(batch.features, batch.labels)
    torch.testing.assert_close(own, floored.log_likelihood(batch.features, batch.labels))
    loss.backward()  # type: ignore[no-untyped-call]
    below = head.log_var.data < -0.5
    assert below.any()
    assert not below.all()
    assert (gradient(head.log_var)[below] == 0).all()
    assert (gradient(head.log_var)[~below] != 0).all()


@pytest.mark.parametrize("covariance", COVARIANCES)
@pytest.mark.parametrize("scale", [1.0, 7.0])
def test_priors_enter_the_posterior_as_in_bayes_rule(batch: Batch, covariance: str, scale: float) -> None:
    priors = np.array([0.1, 0.2, 0.3, 0.4])
    var = batch.variances(covariance)
    joint = np.stack(
        [p * multivariate_normal.pdf(batch.x, m, np.diag(v)) for p, m, v in zip(priors, batch.mu, var, strict=True)],
        1,
    )
    head = batch.lgm(covariance, priors=torch.from_numpy(priors * scale), alpha=0.0, lam=0.0)
    posterior = head(batch.features).softmax(1).detach()
    np.testing.assert_allclose(posterior, joint / joint.sum(axis=1, keepdims=True), rtol=1e-6)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_priors_leave_the_margin_and_the_likelihood_term_alone(batch: Batch, covariance: str) -> None:
    plain = batch.lgm(covariance, alpha=0.5, lam=0.3)
    weighted = batch.lgm(covariance, alpha=0.5, lam=0.3, priors=torch.tensor([0.1, 0.2, 0.3, 0.4]))
    x, z = batch.features, batch.labels
    margin = plain(x) - plain.margin_logits(x, z)
    torch.testing.assert_close(weighted(x) - weighted.margin_logits(x, z), margin)
    torch.testing.assert_close(weighted.regularizer(x, z), plain.regularizer(x, z))
    split = F.cross_entropy(weighted.margin_logits(x, z), z) + weighted.regularizer(x, z).mean()
    torch.testing.assert_close(weighted.loss(x, z), split)


def test_equal_priors_are_the_default_and_others_need_not_add_up_to_one(batch: Batch) -> None:
    priors = torch.tensor([0.1, 0.2, 0.3, 0.4])
    for one, same in ((torch.full((K,), 0.25), None), (priors * 7, priors)):
        scaled, plain = (batch.lgm("identity", priors=each) for each in (one, same))
        torch.testing.assert_close(scaled(batch.features), plain(batch.features))


def test_priors_are_kept_with_the_weights() -> None:
    priors = torch.tensor([0.7, 0.2, 0.1])
    assert "log_prior" in LGM(2, 3, priors).state_dict()
    assert "log_prior" not in LGM(2, 3).state_dict()


def test_lemma_1_the_likelihood_term_is_the_center_loss_plus_a_constant(batch: Batch) -> None:
    l_lkd = -sum(multivariate_normal.logpdf(x, batch.mu[z]) for x, z in zip(batch.x, batch.z, strict=True))
    constant = N / 2 * D * math.log(2 * math.pi)
    lgm = batch.lgm("identity", lam=1.0)
    assert lgm.regularizer(batch.features, batch.labels).sum().item() + constant == pytest.approx(l_lkd, rel=1e-12)
    center = Center(D, K, weight=1.0).double()
    center.centres = torch.from_numpy(batch.mu)
    assert center.regularizer(batch.features, batch.labels).sum().item() + constant == pytest.approx(l_lkd, rel=1e-12)


@pytest.mark.parametrize(("name", "settings"), HEADS)
def test_loss_is_cross_entropy_of_margin_logits_plus_mean_regularizer(
    batch: Batch, name: str, settings: dict[str, Any]
) -> None:
    head = make(name, settings)
    x, z = batch.features, batch.labels
    logits = log_softmax(head.margin_logits(x, z).detach().numpy(), axis=1)
    expected = -logits[np.arange(N), batch.z].mean() + head.regularizer(x, z).mean().item()
    assert head.loss(x, z).item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize(("name", "settings"), HEADS)
def test_regularizer_has_one_value_per_sample(batch: Batch, name: str, settings: dict[str, Any]) -> None:
    head = make(name, settings)
    together = head.regularizer(batch.features, batch.labels)
    alone = torch.cat([head.regularizer(batch.features[[i]], batch.labels[[i]]) for i in range(N)])
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize(("name", "settings"), HEADS)
def test_log_likelihood_of_a_far_feature_is_finite_and_very_low(
    batch: Batch, name: str, settings: dict[str, Any]
) -> None:
    head = make(name, settings)
    values = head.log_likelihood(batch.features * 1e4, batch.labels)
    assert torch.isfinite(values).all()
    if head.is_density:
        assert (values < -1e6).all()


def test_only_losses_with_a_density_claim_one() -> None:
    assert {name for name in catalog.names("loss") if catalog.load("loss", name).is_density} == {"center", "lgm"}


@pytest.mark.parametrize(("name", "settings"), HEADS)
def test_every_parameter_is_in_exactly_one_group(name: str, settings: dict[str, Any]) -> None:
    head = make(name, settings)
    grouped = [id(p) for group in head.parameter_groups() for p in group.parameters]
    assert sorted(grouped) == sorted(id(p) for p in head.parameters())


@pytest.mark.parametrize("name", ["softmax", "center", "l-softmax"])
def test_linear_heads_decay_at_the_common_rate(name: str) -> None:
    (group,) = make(name, {}).parameter_groups()
    assert (group.lr_scale, group.decay) == (1.0, True)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_a_thousand_classes_need_no_tensor_over_batch_classes_and_features(covariance: str) -> None:
    n, d, k = 256, 512, 1000
    torch.manual_seed(0)
    head = LGM(d, k, covariance=covariance)  # type: ignore[arg-type]
    features, labels = torch.randn(n, d, requires_grad=True), torch.arange(n)
    with Largest() as largest:
        loss = head.loss(features, labels)
        loss.backward()  # type: ignore[no-untyped-call]
    assert 0 < largest.bytes <= 4 * max(n * k, k * d, n * d)
    distances = torch.cdist(features.detach().double(), head.mu.detach().double()).square() / 2
    torch.testing.assert_close(head(features).detach().double(), -distances, rtol=1e-4, atol=1e-2)
    lowered = -distances
    lowered[labels, labels] *= 2
    own = distances[labels, labels].mean()
    assert loss.item() == pytest.approx((F.cross_entropy(lowered, labels) + 0.1 * own).item(), rel=1e-4)


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_lgm_means_start_apart_and_variances_at_one(covariance: str) -> None:
    head = LGM(100, 10, covariance=covariance)  # type: ignore[arg-type]
    assert torch.pdist(head.mu).min() > 0.5
    assert (head.log_var is None) == (covariance == "identity")
    assert head.log_var is None or not head.log_var.any()


@pytest.mark.parametrize(
    ("name", "settings", "word"),
    [
        ("lgm", {"alpha": -0.1}, "alpha"),
        ("lgm", {"lam": -0.1}, "lam"),
        ("lgm", {"alpha": math.nan}, "alpha"),
        ("lgm", {"covariance": "full"}, "covariance"),
        ("lgm", {"log_var_floor": 1e300}, "log_var_floor"),
        ("lgm", {"log_var_floor": -math.inf}, "log_var_floor"),
        ("lgm", {"log_var_floor": math.nan}, "log_var_floor"),
        ("center", {"weight": -0.1}, "weight"),
        ("center", {"centre_step": -0.1}, "centre_step"),
        ("l-softmax", {"margin": 0}, "margin"),
        ("l-softmax", {"anneal": -1.0}, "anneal"),
        ("l-softmax", {"floor": -0.5}, "floor"),
        ("l-softmax", {"floor": 2.0, "start": 1.0}, "start"),
        ("l-softmax", {"start": math.inf}, "start"),
    ],
)
def test_a_setting_outside_its_range_is_refused_by_name(name: str, settings: dict[str, Any], word: str) -> None:
    with pytest.raises(BadSetting, match=word):
        catalog.load("loss", name)(D, K, **settings)


def test_softmax_is_equation_1_and_2(batch: Batch) -> None:
    head = make("softmax", {})
    assert isinstance(head, Softmax)
    weight, bias = head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy()
    losses = []
    for x, z in zip(batch.x, batch.z, strict=True):
        f = [sum(w * v for w, v in zip(weight[k], x, strict=True)) + bias[k] for k in range(K)]
        losses.append(-math.log(math.exp(f[z]) / sum(math.exp(v) for v in f)))
    assert head.loss(batch.features, batch.labels).item() == pytest.approx(np.mean(losses), rel=1e-12)


def test_softmax_likelihood_is_the_affinity_of_the_given_class(batch: Batch) -> None:
    head = make("softmax", {})
    assert isinstance(head, Softmax)
    weight, bias = head.linear.weight.detach().numpy(), head.linear.bias.detach().numpy()
    affinity = [weight[z] @ x + bias[z] for x, z in zip(batch.x, batch.z, strict=True)]
    np.testing.assert_allclose(head.log_likelihood(batch.features, batch.labels).detach(), affinity, rtol=1e-12)


def test_center_adds_half_the_weighted_squared_distance_to_the_own_centre(batch: Batch) -> None:
    head = make("center", {"weight": 0.3})
    centres = head.centres.numpy()  # type: ignore[operator]
    slow = [
        0.3 / 2 * sum((x[j] - centres[z][j]) ** 2 for j in range(D)) for x, z in zip(batch.x, batch.z, strict=True)
    ]
    np.testing.assert_allclose(head.regularizer(batch.features, batch.labels), slow, rtol=1e-12)
    np.testing.assert_allclose(head.log_likelihood(batch.features, batch.labels), -np.array(slow) / 0.3, rtol=1e-12)


def test_centres_move_as_in_wen_et_al_equation_4(batch: Batch) -> None:
    head = make("center", {"centre_step": 0.4})
    before = head.centres.numpy().copy()  # type: ignore[operator]
    z = np.array([0, 0, 0, 2, 2, 0, 3, 3, 3, 3, 0, 2])  # class 1 is not in the batch
    expected = before.copy()
    for j in range(K):
        numerator, count = np.zeros(D), 0
        for x, label in zip(batch.x, z, strict=True):
            if label == j:
                numerator += before[j] - x
                count += 1
        expected[j] = before[j] - 0.4 * numerator / (1 + count)
    head.after_step(batch.features, torch.from_numpy(z))
    np.testing.assert_allclose(head.centres, expected, rtol=1e-12)  # type: ignore[arg-type]
    assert np.array_equal(head.centres[1], before[1])  # type: ignore[index]


def test_centres_start_at_zero_are_saved_and_are_out_of_the_optimisers_reach(batch: Batch) -> None:
    head = Center(D, K)
    assert torch.equal(head.state_dict()["centres"], torch.zeros(K, D))
    assert "centres" not in dict(head.named_parameters())
    head.double().loss(batch.features, batch.labels).backward()  # type: ignore[no-untyped-call]
    assert head.centres.grad is None
    assert not head.centres.requires_grad


@pytest.mark.parametrize(("name", "settings"), [h for h in HEADS if h[0] != "center"])
def test_no_other_head_moves_a_weight_by_itself_after_a_step(
    batch: Batch, name: str, settings: dict[str, Any]
) -> None:
    head = make(name, settings)
    before = {k: v.clone() for k, v in head.state_dict().items()}
    head.after_step(batch.features, batch.labels)
    assert all(torch.equal(v, before[k]) for k, v in head.state_dict().items() if k != "step")
