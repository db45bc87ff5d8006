"""Merging adapters: what each combination does to their changes, against plain arithmetic."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from core.errors import InvalidInput
from tuning.merge import Factors, load_factors, merge_adapters
from tuning.recipe_parts import MergeRecipe


def adapter(seed: int, rank: int = 3, modules: tuple[str, ...] = ("a.q_proj", "a.v_proj")) -> Factors:
    generator = torch.Generator().manual_seed(seed)
    made = {
        name: (torch.randn(rank, 10, generator=generator), torch.randn(12, rank, generator=generator))
        for name in modules
    }
    return Factors(rank, made)


def change(found: Factors, name: str) -> torch.Tensor:
    down, up = found.modules[name]
    return up @ down


def merged_change(state: dict[str, torch.Tensor], name: str) -> torch.Tensor:
    return state[f"base_model.model.{name}.lora_B.weight"] @ state[f"base_model.model.{name}.lora_A.weight"]


@pytest.mark.parametrize(("combination", "rank"), [("cat", None), ("svd", 8)])
def test_changes_are_added_exactly_also_where_one_adapter_leaves_a_layer_alone(
    combination: str, rank: int | None
) -> None:
    one, two = adapter(1), adapter(2, rank=5, modules=("a.q_proj",))
    how = MergeRecipe.model_validate({"combination": combination, "rank": rank})
    merged = merge_adapters([one, two], [0.7, -0.5], how, seed=1)
    assert merged.rank == 8 and merged.targets == ["q_proj", "v_proj"]
    expected = 0.7 * change(one, "a.q_proj") - 0.5 * change(two, "a.q_proj")
    torch.testing.assert_close(merged_change(merged.state, "a.q_proj"), expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(
        merged_change(merged.state, "a.v_proj"), 0.7 * change(one, "a.v_proj"), rtol=1e-4, atol=1e-4
    )
    assert merged.kept == pytest.approx(1.0, abs=1e-5)


def test_a_cut_to_a_rank_is_the_best_one_and_says_what_it_lost() -> None:
    one, two = adapter(1), adapter(2)
    merged = merge_adapters([one, two], [1.0, 1.0], MergeRecipe(combination="svd", rank=2), seed=1)
    whole = change(one, "a.q_proj") + change(two, "a.q_proj")
    sizes = torch.linalg.svdvals(whole)
    error = (whole - merged_change(merged.state, "a.q_proj")).norm() ** 2
    assert float(error) == pytest.approx(float((sizes[2:] ** 2).sum()), rel=1e-3)
    assert 0.3 < merged.kept < 1.0


def test_linear_of_adapters_that_share_their_down_projection_is_the_sum() -> None:
    one = adapter(1)
    two = Factors(3, {name: (down, -2 * up) for name, (down, up) in one.modules.items()})
    merged = merge_adapters([one, two], [0.5, 0.5], MergeRecipe(combination="linear"), seed=1)
    torch.testing.assert_close(
        merged_change(merged.state, "a.q_proj"), -1.0 * change(one, "a.q_proj"), rtol=1e-4, atol=1e-4
    )
    with pytest.raises(InvalidInput, match="one rank"):
        merge_adapters([one, adapter(2, rank=4)], [1, 1], MergeRecipe(combination="linear"), seed=1)


def test_ties_settles_a_dispute_over_a_sign_by_majority() -> None:
    down, up = torch.eye(2), torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    agreeing = Factors(2, {"m": (down, up)})
    against = Factors(2, {"m": (down, -0.1 * up)})
    how = MergeRecipe(combination="ties", rank=2, density=1.0)
    merged = merge_adapters([agreeing, agreeing, against], [1.0, 1.0, 1.0], how, seed=1)
    found = merged_change(merged.state, "m")
    assert float(found[0, 0]) == pytest.approx(3.0, rel=1e-3)  # the dissenter is left out of the mean, not averaged in


def test_dare_drops_by_seed_and_keeps_the_expectation() -> None:
    one, two = adapter(1), adapter(2)
    how = MergeRecipe(combination="dare", rank=10, density=0.5)
    again = [merge_adapters([one, two], [1.0, 1.0], how, seed=seed) for seed in (1, 1, 2)]
    first, same, other = (merged_change(one.state, "a.q_proj") for one in again)
    torch.testing.assert_close(first, same)
    assert (first - other).abs().max() > 0.1
    many = [merge_adapters([one, two], [1.0, 1.0], how, seed=seed) for seed in range(200)]
    mean = torch.stack([merged_change(one.state, "a.q_proj") for one in many]).mean(0)
    expected = change(one, "a.q_proj") + change(two, "a.q_proj")
    assert float((mean - expected).norm() / expected.norm()) < 0.2


def test_layers_of_another_size_are_refused(tmp_path: Path) -> None:
    other = Factors(3, {"a.q_proj": (torch.randn(3, 11), torch.randn(12, 3))})
    with pytest.raises(InvalidInput, match="another size") as refused:
        merge_adapters([adapter(1), other], [1, 1], MergeRecipe(combination="cat"), seed=1)
    assert refused.value.code == "cannot_merge"
    (tmp_path / "adapter_config.json").write_text('{"peft_type": "LORA", "use_dora": true, "r": 2, "lora_alpha": 2}')
    with pytest.raises(InvalidInput, match="DoRA"):
        load_factors(tmp_path)
