"""Large-margin Gaussian mixture loss: logits are log-densities, the margin grows with the distance."""

import math
from collections.abc import Iterable
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from advbench.errors import BadSetting
from advbench.losses import Head, ParameterGroup, half_squared_distance
from advbench.settings import at_least


class LGM(Head):
    """The L-GM loss of Wan et al. 2018 (arXiv:1803.02988), Eq. 17-18; batch mean of the per-sample form.

    alpha       margin: in training, the distance to the true class counts (1 + alpha)-fold
    lam         weight of the likelihood term `d_z + log|L_z| / 2`
    covariance  "identity", or learned: "diagonal" = one log-variance per class and feature, "isotropic" = one per
                class; never below `log_var_floor`, at a tenth of the learning rate and without weight decay,
                because log|L| otherwise drifts to minus infinity
    additive_margin  m: in training, the true class's logit stands lower by it too (the authors' published example)
    rising      both margins rise as in that example: alpha from 0.001 tenfold every 1,500 steps up to `alpha`, m
                from 0.001 fivefold every 1,000 steps up to `additive_margin`
    priors      p(k), positive [k]; equal where None (Eq. 12)

    `mu` is [k d], `log_var` [k d] or [k 1].
    """

    is_density: ClassVar[bool] = True
    younger: ClassVar[frozenset[str]] = frozenset({"additive_margin", "rising"})
    log_prior: Tensor
    step: Tensor
    log_var: nn.Parameter | None

    def __init__(
        self,
        feature_dim: int,
        classes: int,
        priors: Tensor | None = None,
        *,
        alpha: float = 1.0,
        lam: float = 0.1,
        covariance: Literal["identity", "diagonal", "isotropic"] = "identity",
        log_var_floor: float = -4.0,
        additive_margin: float = 0.0,
        rising: bool = False,
    ) -> None:
        super().__init__()
        at_least("alpha", alpha, 0)
        at_least("lambda (lam)", lam, 0)
        at_least("additive_margin", additive_margin, 0)
        if covariance not in ("identity", "diagonal", "isotropic"):
            raise BadSetting(f"covariance = {covariance!r} is not known; write identity, diagonal or isotropic")
        if not -math.inf < log_var_floor <= 0:
            raise BadSetting(
                f"log_var_floor = {log_var_floor:g} is out of range; it must be finite and at most 0, where the "
                "log-variances start"
            )
        self.alpha = alpha
        self.lam = lam
        self.log_var_floor = log_var_floor
        self.additive_margin = additive_margin
        self.rising = rising
        if rising:
            self.register_buffer("step", torch.zeros((), dtype=torch.long))
        self.mu = nn.Parameter(nn.init.xavier_normal_(torch.empty(classes, feature_dim)))
        shape = {"diagonal": (classes, feature_dim), "isotropic": (classes, 1)}.get(covariance)
        self.register_parameter("log_var", None if shape is None else nn.Parameter(torch.zeros(shape)))
        log_prior = torch.zeros(classes) if priors is None else (priors / priors.sum() * classes).log()
        self.register_buffer("log_prior", log_prior, persistent=priors is not None)

    def bounded_log_var(self) -> Tensor | None:
        """Log-variances [k d], no lower than the floor; None for identity covariance."""
        return None if self.log_var is None else self.log_var.expand_as(self.mu).clamp(min=self.log_var_floor)

    def forward(self, features: Tensor) -> Tensor:
        """`-d_k - log|L_k| / 2 (+ log p(k) + log K)` [b k], by matrix products; never [b k d]."""
        return self._scores(features)[0]

    def _scores(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluation logits [b k], and what they hold beyond `-d_k` [k]."""
        log_var = self.bounded_log_var()
        if log_var is None:
            constant = self.log_prior - torch.linalg.vecdot(self.mu, self.mu) / 2
            return torch.addmm(constant, x, self.mu.T) - torch.linalg.vecdot(x, x)[:, None] / 2, self.log_prior
        offset = self.log_prior - log_var.sum(dim=1) / 2
        precision = (-log_var).exp()
        scaled_mu = self.mu * precision
        constant = offset - torch.linalg.vecdot(self.mu, scaled_mu) / 2
        linear = torch.addmm(constant, x, scaled_mu.T)
        return linear.addmm(x.square(), precision.T, alpha=-0.5), offset

    def margin_logits(self, features: Tensor, labels: Tensor) -> Tensor:
        """Logits in which the true class stands `alpha * d_z + additive_margin` lower (Eq. 17)."""
        return self._with_margin(features, labels)[0]

    def _with_margin(self, features: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Training logits [b k], `d_z` [b], and what the logits hold beyond `-d_k` [k]."""
        logits, offset = self._scores(features)
        d_z = offset[labels] - logits.gather(1, labels[:, None]).squeeze(1)
        alpha, additive = self.margins()
        return logits.scatter_add(1, labels[:, None], (-alpha * d_z - additive)[:, None]), d_z, offset

    def margins(self) -> tuple[float, float]:
        """Alpha and the additive margin at the present step."""
        if not self.rising:
            return self.alpha, self.additive_margin
        step = int(self.step)
        return min(self.alpha, 0.001 * 10 ** (step // 1500)), min(self.additive_margin, 0.001 * 5 ** (step // 1000))

    def after_step(self, features: Tensor, labels: Tensor) -> None:  # noqa: ARG002
        """Count the step, where the margins rise."""
        if self.rising:
            self.step += 1

    def regularizer(self, features: Tensor, labels: Tensor) -> Tensor:
        """`lam * (d_z + log|L_z| / 2)` [b] (the second term of Eq. 17)."""
        return -self.lam * self.log_likelihood(features, labels)

    def loss(self, features: Tensor, labels: Tensor) -> Tensor:
        """Eq. 17, batch mean; the distances are computed once for both terms."""
        logits, d_z, offset = self._with_margin(features, labels)
        return F.cross_entropy(logits, labels) + self.lam * (d_z + (self.log_prior - offset)[labels]).mean()

    def log_likelihood(self, features: Tensor, classes: Tensor) -> Tensor:
        """`-d - log|L| / 2` of class `classes` [b], the constant `D/2 log 2 pi` left out (Eq. 10)."""
        log_var = self.bounded_log_var()
        if log_var is None:
            return -half_squared_distance(features, self.mu[classes])
        own = log_var[classes]
        d = ((features - self.mu[classes]).square() * torch.exp(-own)).sum(dim=1) / 2
        return -d - own.sum(dim=1) / 2

    def parameter_groups(self) -> Iterable[ParameterGroup]:
        """The means and log-variances are kept from weight decay; the latter learn at a tenth of the rate."""
        yield ParameterGroup([self.mu], decay=False)
        if self.log_var is not None:
            yield ParameterGroup([self.log_var], lr_scale=0.1, decay=False)
