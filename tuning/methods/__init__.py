"""One module per way to train; each builds a trainer of TRL over rows that our renderer made and our audit passed."""

from __future__ import annotations

from core.errors import InvalidInput
from tuning.kinds import Method
from tuning.methods.work import Built, Work


def build_trainer(work: Work) -> Built:
    """The trainer of the recipe's method.

    Raises:
        DatasetRejected: the rows failed an audit.
    """
    method = work.recipe.method
    if method is Method.SFT:
        from tuning.methods import sft

        return sft.build(work)
    if method in {Method.DPO, Method.KTO, Method.ORPO, Method.REWARD}:
        from tuning.methods import preference

        return preference.build(work)
    if method.online:
        from tuning.methods import online

        return online.build(work)
    raise InvalidInput(f"no trainer for '{method}'", code="method_not_supported")
