"""Attacks of other libraries: AutoAttack as published, ART's by name, the broken ones refused."""

import numpy as np
import pytest
import torch
from torch import Tensor

from advbench import catalog, settings
from advbench.errors import BadSetting, UnknownName
from advbench.evasion import art_attacks, generator
from advbench.evasion.random_search import side
from advbench.types import ImageSet, Splits
from advbench.victim import Composed, Victim


def wrong(victim: Victim, images: Tensor, labels: Tensor) -> Tensor:
    return victim.outputs(images).predictions != labels


@pytest.mark.parametrize(("version", "second"), [("standard", "apgd-t"), ("plus", "apgd-dlr")])
def test_autoattack_is_the_authors_code_bit_for_bit(
    victims: dict[str, Victim], digits: Splits, version: str, second: str
) -> None:
    import pyautoattack

    victim, images, labels = victims["softmax"], digits.test.load_all()[:16], digits.test.labels[:16]
    seeds = torch.arange(16)
    made = catalog.load("attack", "autoattack")(eps=0.08, version=version).perturb(victim, images, labels, seeds)
    seed = generator(0, 0).initial_seed()
    plain = pyautoattack.AutoAttack(victim.model, eps=0.08, norm="Linf", seed=seed, version=version)
    plain.fab.n_target_classes = 9
    assert plain.attacks_to_run[1] == second
    with art_attacks.seeded(0):
        theirs = plain.run_standard_evaluation(images, labels, batch_size=16)[0]
    robust = ~wrong(victim, made.images, labels)
    assert torch.equal(wrong(victim, theirs, labels), ~robust)
    assert 0 < robust.sum() < 16
    torch.testing.assert_close(made.images, theirs, rtol=0, atol=1e-6)
    assert torch.equal(made.images[robust], images[robust])
    assert made.gradients[0] > 50


def test_autoattack_needs_four_classes_and_the_unit_range(victims: dict[str, Victim], few: ImageSet) -> None:
    with pytest.raises(BadSetting, match="no-clip"):
        catalog.load("attack", "autoattack")(clip=False)
    victim = Victim(Composed(victims["softmax"].network, victims["softmax"].head), shape=(1, 8, 8), classes=3,
                    device=torch.device("cpu"))  # fmt: skip
    with pytest.raises(BadSetting, match="needs four classes, this model has 3"):
        catalog.load("attack", "autoattack")().perturb(victim, few.load_all(), few.labels, torch.arange(24))


def test_the_square_halves_its_share_of_the_image_where_the_paper_says() -> None:
    marks, sides = (0, 10, 50, 200, 1000, 2000, 4000, 6000, 8000, 10_000), (29, 20, 14, 10, 7, 5, 4, 3, 2)
    for i, pixels in enumerate(sides):  # 0.8 of 32 x 32 pixels, halved after each of these queries of 10,000
        assert [side(query, 10_000, 32, 32) for query in (marks[i] + 1, marks[i + 1])] == [pixels] * 2
    assert side(50, 500, 32, 32) == side(1000, 10_000, 32, 32)


def test_square_wins_where_the_gradient_is_masked_and_pgd_does_not(victims: dict[str, Victim], few: ImageSet) -> None:
    from advbench.networks import Network

    class Masked(Network):
        """The softmax model on pixels rounded to 64 levels: right, and without a useful gradient."""

        def forward(self, images: Tensor) -> Tensor:
            flat: Tensor = victims["softmax"].network(((images * 64).round() / 64 - images).detach() + images * 1.0)
            return flat

        def stand_in(self, images: Tensor) -> Tensor:
            features: Tensor = victims["softmax"].network(images).detach() + 0 * images.flatten(1)[:, :16]
            return features

    victim = Victim(
        Composed(Masked(), victims["softmax"].head), shape=(1, 8, 8), classes=10, device=torch.device("cpu")
    )
    seeds = torch.arange(len(few))
    plain = catalog.load("attack", "pgd")(eps=0.2).perturb(victim, few.load_all(), few.labels, seeds)
    square = catalog.load("attack", "square")(eps=0.2, queries=500).perturb(victim, few.load_all(), few.labels, seeds)
    assert plain.zero_gradients is not None
    assert plain.zero_gradients.all()
    assert wrong(victim, square.images, few.labels).sum() > wrong(victim, plain.images, few.labels).sum() + 10


def test_square_spends_queries_only_on_what_withstands_it(victims: dict[str, Victim], digits: Splits) -> None:
    victim, images, labels = victims["softmax"], digits.test.load_all()[:60], digits.test.labels[:60]
    made = catalog.load("attack", "square")(eps=0.082, queries=300).perturb(victim, images, labels, torch.arange(60))
    lost = wrong(victim, made.images, labels)
    assert 0 < lost.sum() < 60
    assert torch.equal(made.first_success >= 0, lost)
    assert torch.equal(made.forwards[lost], made.first_success[lost] + 1)
    assert (made.forwards[~lost] == 300).all()
    assert (made.gradients == 0).all()


# ART by name


@pytest.mark.parametrize(
    ("name", "options", "eps"),
    [
        ("CarliniL2Method", {"max_iter": 15, "binary_search_steps": 4, "learning_rate": 0.1}, 3.0),
        ("DeepFool", {"max_iter": 20}, 3.0),
        ("BasicIterativeMethod", {"max_iter": 10, "eps_step": 0.05}, 0.3),
        ("HopSkipJump", {"max_iter": 1, "max_eval": 50, "init_eval": 10, "init_size": 10}, 3.0),
    ],
)
def test_an_attack_of_art_runs_by_name_in_its_ball_and_leaves_the_global_streams_alone(
    name: str, options: dict[str, object], eps: float, victims: dict[str, Victim], few: ImageSet
) -> None:
    victim, images, labels = victims["softmax"], few.load_all()[:6], few.labels[:6]
    cls = catalog.load("attack", f"art:{name}")
    which = cls(**settings.fill(cls, {"eps": eps, **options}, name))
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    expected = torch.rand(2).tolist(), np.random.rand(2).tolist()  # noqa: NPY002
    torch.manual_seed(3)
    np.random.seed(3)  # noqa: NPY002
    made = which.perturb(victim, images, labels, torch.arange(6))
    assert (torch.rand(2).tolist(), np.random.rand(2).tolist()) == expected  # noqa: NPY002
    delta = (made.images - images).double().flatten(1)
    size = delta.abs().amax(dim=1) if which.norm == "linf" else delta.norm(dim=1)
    assert (size <= eps + 1e-6).all()
    assert wrong(victim, made.images, labels).sum() >= 3
    assert (made.forwards > 0).all()
    alone = which.perturb(victim, images[3:4], labels[3:4], torch.tensor([3]))
    assert torch.equal(alone.images, made.images[3:4])
    assert alone.gradients.item() == made.gradients[3]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DeepFool", {"max_iter": 20}),
        ("HopSkipJump", {"max_iter": 1, "max_eval": 50, "init_eval": 10, "init_size": 10}),
    ],
)
def test_an_attack_of_art_that_leads_away_from_the_prediction_rights_no_image_that_is_wrong(
    name: str, options: dict[str, object], victims: dict[str, Victim], few: ImageSet
) -> None:
    victim, images = victims["softmax"], few.load_all()[:8]
    labels = victim.outputs(images).logits.topk(2, dim=1).indices[:, 1]  # the nearest class to go to
    cls = catalog.load("attack", f"art:{name}")
    which = cls(**settings.fill(cls, {"eps": 3.0, "norm": "l2", **options}, name))
    made = which.perturb(victim, images, labels, torch.arange(8))
    assert wrong(victim, made.images, labels).all()


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_decision_based_attack_ends_in_the_ball_and_finds_what_lies_in_it(
    norm: str, victims: dict[str, Victim], few: ImageSet
) -> None:
    victim, images, labels = victims["softmax"], few.load_all()[:4], few.labels[:4]
    cls = catalog.load("attack", "art:HopSkipJump")
    options = {"norm": norm, "max_iter": 5, "max_eval": 200, "init_eval": 50, "init_size": 20}
    found = []
    for eps in (0.01, 0.3) if norm == "linf" else (0.05, 2.5):
        which = cls(**settings.fill(cls, {"eps": eps, **options}, "x"))
        made = which.perturb(victim, images, labels, torch.arange(4))
        delta = (made.images - images).double().flatten(1)
        assert ((delta.abs().amax(dim=1) if norm == "linf" else delta.norm(dim=1)) <= eps + 1e-6).all()
        assert made.images.min() >= 0
        assert made.images.max() <= 1
        assert (made.gradients == 0).all()
        assert (made.forwards > 200).all()
        found.append(int(wrong(victim, made.images, labels).sum()))
    assert found == [0, 4]  # what it finds outside a small ball counts for nothing


def test_every_attack_of_art_has_the_norm_that_it_works_in() -> None:
    own = {name: catalog.load("attack", f"art:{name}") for name in art_attacks.names()}
    some = ("CarliniLInfMethod", "ThresholdAttack", "DeepFool")
    assert [own[name]().norm for name in some] == ["linf", "linf", "l2"]
    assert {name for name in own if not {"norm", "eps"} & set(own[name].accepted)} == set(art_attacks.NORMS)


@pytest.mark.parametrize("name", ["AutoProjectedGradientDescent", "BoundaryAttack", "SaliencyMapMethod"])
def test_the_label_is_what_an_attack_of_art_leads_from(name: str, victims: dict[str, Victim], few: ImageSet) -> None:
    cls, images = catalog.load("attack", f"art:{name}"), few.load_all()[:2]
    options = {"eps": 8.0 if cls().norm == "l2" else 0.5, "max_iter": 20, "theta": 1.0}
    which = cls(**{key: value for key, value in options.items() if key in settings.defaults(cls)})
    made = which.perturb(victims["softmax"], images, few.labels[:2], torch.arange(2))
    assert ((made.images - images).flatten(1).abs().amax(dim=1) > 0.05).all()
    assert made.zero_gradients is None


def test_the_settings_of_an_art_attack_are_its_own_with_their_defaults() -> None:
    cls = catalog.load("attack", "art:CarliniL2Method")
    known = settings.defaults(cls)
    assert known["max_iter"] == 10
    assert known["norm"] == "l2"
    assert not {"batch_size", "verbose", "classifier", "targeted"} & set(known)
    assert settings.fill(cls, {"max_iter": 50}, "x")["max_iter"] == 50
    with pytest.raises(UnknownName, match="max_iter"):
        settings.fill(cls, {"max_itr": 50}, "attack art:CarliniL2Method")


@pytest.mark.parametrize("name", sorted(art_attacks.BROKEN))
def test_what_is_known_to_be_broken_is_refused_by_name_and_reason(name: str) -> None:
    with pytest.raises(BadSetting) as caught:
        catalog.load("attack", f"art:{name}")
    assert f"art:{name} is not offered: {art_attacks.BROKEN[name]}" in str(caught.value)


def test_an_unknown_attack_of_art_is_refused_with_the_nearest_name() -> None:
    with pytest.raises(UnknownName, match="Did you mean 'DeepFool'"):
        catalog.load("attack", "art:DeepFol")


def test_settings_that_art_refuses_are_the_users(victims: dict[str, Victim], few: ImageSet) -> None:
    which = catalog.load("attack", "art:CarliniL2Method")(max_iter=-1)
    with pytest.raises(BadSetting, match="ART's CarliniL2Method refuses"):
        which.perturb(victims["softmax"], few.load_all()[:1], few.labels[:1], torch.arange(1))
