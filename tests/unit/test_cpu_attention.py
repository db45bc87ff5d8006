"""Attention over packed sequences on the CPU, against PyTorch's own in fp32."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F

from retrieval.embedders.cpu_attention import attend, groups_of
from retrieval.embedders.packed import PackedEncoder, pack

HEADS, SIZE = 4, 32


def borders_of(*lengths: int) -> list[int]:
    return [0, *itertools.accumulate(lengths)]


def reference(projected: torch.Tensor, borders: list[int]) -> torch.Tensor:
    parts = []
    for start, end in itertools.pairwise(borders):
        query, key, value = projected[start:end].float().permute(1, 2, 0, 3)
        parts.append(F.scaled_dot_product_attention(query, key, value).transpose(0, 1))
    return torch.cat(parts)


@pytest.mark.parametrize("lengths", [(1,), (16, 16), (3, 5, 64, 65, 200), (90, 2, 130, 129, 1, 1), (512, 7)])
@pytest.mark.parametrize("spread", [0.5, 1.5])
def test_every_sequence_attends_to_itself_alone(lengths: tuple[int, ...], spread: float) -> None:
    borders = borders_of(*lengths)
    generator = torch.Generator().manual_seed(len(lengths))
    projected = (torch.randn(borders[-1], 3, HEADS, SIZE, generator=generator) * spread).bfloat16()
    got = attend(projected, groups_of(borders)).float()
    expected = reference(projected, borders)
    scale = expected.abs().max()
    assert got.shape == expected.shape
    assert float((got - expected).abs().max() / scale) < 0.03
    assert float(F.cosine_similarity(got.flatten(1), expected.flatten(1)).min()) > 0.999


@pytest.mark.parametrize("key", [40.0, -40.0])
def test_scores_beyond_the_exponentials_range_give_numbers(key: float) -> None:
    borders = borders_of(40, 41)
    projected = torch.full((81, 3, HEADS, SIZE), 40.0).bfloat16()
    projected[:, 1] = key
    got = attend(projected, groups_of(borders))
    assert torch.isfinite(got).all() and torch.allclose(got.float(), torch.tensor(40.0), rtol=0.02)


def test_sequences_of_like_length_go_together() -> None:
    groups = groups_of(borders_of(100, 110, 128, 20, 10, 120))
    assert [(group.first, group.last, group.count) for group in groups] == [(0, 338, 3), (338, 368, 2), (368, 488, 1)]
    assert [group.width for group in groups] == [128, 32, 128]
    assert groups[1].place.tolist() == [*range(20), *range(32, 42)]


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 0.03)])
def test_a_packed_bert_computes_what_transformers_does(dtype: torch.dtype, tolerance: float) -> None:
    from transformers import BertConfig, BertModel

    torch.manual_seed(3)
    config = BertConfig(
        vocab_size=50, hidden_size=64, num_hidden_layers=3, num_attention_heads=4, intermediate_size=96,
        max_position_embeddings=80,
    )  # fmt: skip
    model = BertModel(config).eval()
    rows = [[1, *range(5, 5 + length), 2] for length in (3, 40, 0, 17, 17)]
    with torch.inference_mode():
        expected = torch.cat([model(torch.tensor([row])).last_hidden_state[0] for row in rows])
    encoder = PackedEncoder(model.to(dtype))
    assert encoder.max_length == 80 and len(encoder.matrices()) == 3 * 4
    got = encoder.forward(pack(rows, encoder.device)).float()
    assert float((got - expected).abs().max()) < tolerance * float(expected.abs().max())


def test_other_architectures_are_refused() -> None:
    from transformers import DistilBertConfig, DistilBertModel

    model = DistilBertModel(DistilBertConfig(vocab_size=50, dim=16, n_layers=1, n_heads=2, hidden_dim=16))
    with pytest.raises(ValueError, match="neither a BERT nor an XLM-RoBERTa"):
        PackedEncoder(model)
