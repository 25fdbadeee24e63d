"""The model on which a transfer attack is made in the place of the one under attack."""

from __future__ import annotations

from dataclasses import replace

from advbench.errors import BadSetting
from advbench.parsing import loss_choice
from advbench.spec import Model, SuppliedModel

NO_SURROGATE = (
    "transfer makes its attack on another model trained here on the victim's training part, and a supplied model has "
    "parts of its own; take square or art:HopSkipJump for a black box"
)


def surrogate_of(model: Model | SuppliedModel, source: str) -> Model:
    """A model of loss `source` to attack in the place of `model`; raises BadSetting where it is `model` itself."""
    if isinstance(model, SuppliedModel):
        raise BadSetting(NO_SURROGATE)
    other = replace(model, loss=loss_choice(source), training=model.standard_training, seed=0, adversarial=None)
    if other == model:
        raise BadSetting(
            f"source = {source!r} is the very model under attack, which makes no transfer attack; take another loss, "
            f"for example: --set source={'lgm' if source == 'softmax' else 'softmax'}"
        )
    return other
