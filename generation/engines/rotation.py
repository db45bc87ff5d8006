"""Models whose rotary positions depend on how long the sequence is: `dynamic` and `longrope`.

transformers takes one rotation for all rows of a forward pass, that of the longest, and a dynamic one remembers the
longest sequence that it ever saw. So rows of such models are read one at a time, each prompt in one piece, and each
from a rotation that has forgotten the one before.
"""

from __future__ import annotations

from typing import Any

_BY_LENGTH = frozenset({"dynamic", "longrope"})


def depends_on_length(config: Any) -> bool:
    """Whether one row's rotation would be another's."""
    parameters = getattr(config.get_text_config(), "rope_parameters", None) or {}
    kinds = {parameters.get("rope_type")} | {
        one.get("rope_type") for one in parameters.values() if isinstance(one, dict)
    }  # one set of parameters, or one for each type of layer
    return bool(kinds & _BY_LENGTH)


def forget_lengths(model: Any) -> None:
    """Bring the rotations of a model back to what they are for a short sequence."""
    for module in model.modules():
        for name in [name for name in vars(module) if name.endswith("max_seq_len_cached")]:
            prefix = name.removesuffix("max_seq_len_cached")
            original = getattr(module, f"{prefix}original_inv_freq", None)
            if original is not None:
                setattr(module, name, module.original_max_seq_len)
                module.register_buffer(f"{prefix}inv_freq", original.clone(), persistent=False)
