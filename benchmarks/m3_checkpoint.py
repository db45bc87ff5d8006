"""A checkpoint of bge-m3's architecture with random weights and a tokenizer trained on the spot.

The tokenizer is what XLM-R has: a unigram model over NFKC text with `▁` for spaces, and `<s> ... </s>` around a text.
"""

from __future__ import annotations

import json
import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
_SYLLABLES = [
    "ka",
    "ta",
    "re",
    "mi",
    "no",
    "sen",
    "du",
    "pra",
    "lo",
    "vi",
    "est",
    "an",
    "tor",
    "bel",
    "qui",
    "os",
    "ter",
    "in",
    "de",
    "sa",
]
_JAPANESE = (
    "の日月年社員規程経費申請休暇出張精算期限承認部署会議室予約保証製品価格検査報告書式契約取引先お客様ですます"
    "あいうえかきくけこさしすせそたちつてとなにはひふへほまみむめもらりるれろわをんアイウエオカキクケコサシスセソ"
)


def words(count: int, seed: int) -> list[str]:
    """Invented words, drawn by Zipf's law, one in four Japanese: text to train and to measure with, offline."""
    rng = random.Random(seed)
    lexicon = ["".join(rng.choices(_SYLLABLES, k=rng.randint(1, 4))) for _ in range(3_000)]
    lexicon += ["".join(rng.choices(_JAPANESE, k=rng.randint(1, 6))) for _ in range(1_000)]
    rng.shuffle(lexicon)
    weights = [1 / (rank + 10) for rank in range(len(lexicon))]
    return rng.choices(lexicon, weights=weights, k=count)


def make_tokenizer(folder: Path, corpus: Sequence[str], vocabulary: int) -> None:
    """Train a unigram tokenizer and write it as `tokenizer.json` with its configuration."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer: Any = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(" {2,}", " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.decoder = decoders.Metaspace()
    trainer = trainers.UnigramTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL], unk_token=SPECIAL[3], show_progress=False
    )
    tokenizer.train_from_iterator(corpus, trainer)
    tokenizer.add_special_tokens([AddedToken("<mask>", lstrip=True)])
    start, end = (tokenizer.token_to_id(token) for token in ("<s>", "</s>"))
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", pair="<s> $A </s> </s> $B </s>", special_tokens=[("<s>", start), ("</s>", end)]
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    roles = {"bos": "<s>", "cls": "<s>", "eos": "</s>", "sep": "</s>", "pad": "<pad>", "unk": "<unk>", "mask": "<mask>"}
    config: dict[str, object] = {f"{role}_token": token for role, token in roles.items()}
    config |= {"tokenizer_class": "PreTrainedTokenizerFast", "model_max_length": 8192}
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")


def make_checkpoint(
    folder: Path,
    *,
    hidden: int,
    layers: int,
    heads: int,
    vocabulary: int,
    corpus: Sequence[str],
    tokens: int = 2_000,
    positions: int = 8_194,
    seed: int = 0,
) -> Path:
    """Write a checkpoint as `BAAI/bge-m3` is laid out, and return its folder.

    vocabulary: rows of the embedding matrix. tokens: pieces that the tokenizer learns, at most as many.
    """
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaModel

    folder.mkdir(parents=True, exist_ok=True)
    make_tokenizer(folder, corpus, min(tokens, vocabulary - 1))
    torch.manual_seed(seed)
    config = XLMRobertaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        intermediate_size=4 * hidden,
        max_position_embeddings=positions,
        type_vocab_size=1,
        layer_norm_eps=1e-5,
        bos_token_id=0,
        pad_token_id=1,
        eos_token_id=2,
        # wider than a fresh model's 0.02, so that attention and heads say something and an error would show
        initializer_range=0.02 if hidden >= 512 else 0.15,
    )
    model = XLMRobertaModel(config, add_pooling_layer=False)
    model.save_pretrained(folder)
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    described = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for n, (kind, path) in enumerate(modules)
    ]
    pooling = {"word_embedding_dimension": hidden, "pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}
    for path, content in (
        ("modules.json", described),
        ("sentence_bert_config.json", {"max_seq_length": positions - 2, "do_lower_case": False}),
        ("1_Pooling/config.json", pooling),
    ):
        (folder / path).parent.mkdir(exist_ok=True)
        (folder / path).write_text(json.dumps(content), encoding="utf-8")
    (folder / "2_Normalize").mkdir(exist_ok=True)
    for name, width in (("sparse_linear.pt", 1), ("colbert_linear.pt", hidden)):
        head = {"weight": torch.randn(width, hidden) * hidden**-0.5, "bias": torch.full((width,), 0.3)}
        torch.save(head, folder / name)
    return folder
