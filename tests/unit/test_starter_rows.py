"""The starter's rows: what is held out, what is cited, what is refused."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

from generation.prompt import is_not_found
from tuning.starter.rendering import Mixture, cut_text, render_pass, render_served
from tuning.starter.sources import (
    Corpus,
    SourcePassage,
    SourceQuestion,
    is_held_out,
    load_corpus,
    read_candidates,
    write_candidates,
)


def corpus_of(count: int) -> tuple[Corpus, list[list[int]]]:
    passages = [SourcePassage(f"Town {n}", f"Town {n} was founded in {1000 + n}. It lies inland.") for n in range(9)]
    questions = [SourceQuestion(f"When was town {n % 9} founded?", n % 9, (str(1000 + n % 9),)) for n in range(count)]
    ranked = [[q.own, *(m for m in range(9) if m != q.own)][:8] for q in questions]
    return Corpus(passages, questions), ranked


def test_citation_numbers_the_passage_that_holds_the_answer() -> None:
    corpus, ranked = corpus_of(300)
    rows = list(render_pass(corpus, ranked, Mixture(), Random(1)))
    refused = [row for row in rows if is_not_found(row.completion)]
    assert 0.1 <= len(refused) / len(rows) <= 0.2
    for row in rows:
        shown = row.prompt[-1].content
        question = shown.rpartition("Question: ")[2]
        year = str(1000 + int("".join(c for c in question if c.isdigit())))
        if row in refused:
            assert year not in shown
        else:
            answer, _, mark = row.completion.partition(" [")
            assert answer == year
            assert year in shown.partition(f"[{mark}")[2].partition("\n\n")[0]


def test_unanswerable_questions_are_refused_over_their_own_passage() -> None:
    corpus, ranked = corpus_of(40)
    open_ones = [SourceQuestion(q.text.replace("founded", "burnt"), q.own, ()) for q in corpus.questions]
    rows = list(render_pass(Corpus(corpus.passages, open_ones), ranked, Mixture(unanswerable=1.0), Random(2)))
    assert len(rows) == 40
    assert all(is_not_found(row.completion) for row in rows)
    assert all(f"Town {q.own} was founded" in row.prompt[-1].content for row, q in zip(rows, open_ones, strict=True))


def test_served_rows_keep_rank_order_and_refuse_without_the_passage() -> None:
    corpus, _ = corpus_of(1)
    assert render_served(corpus.questions[0], corpus.passages, [4, 0, 2]).completion == "1000 [2]"
    assert is_not_found(render_served(corpus.questions[0], corpus.passages, [4, 3, 2]).completion)


def test_cut_text_keeps_whole_sentences_and_the_answer() -> None:
    text = "。".join(f"文{n}は長い文です" for n in range(40)) + "。"
    for seed in range(20):
        piece = cut_text(text, 60, "文23は", Random(seed))
        assert "文23は" in piece
        assert len(piece) <= 60
        assert piece in text
        assert piece.endswith("。")
    assert cut_text("短い。", 60, None, Random(0)) == "短い。"


def test_an_article_held_out_of_one_file_is_held_out_of_all(tmp_path: Path) -> None:
    titles = [f"Article {n}" for n in range(60)]
    share = 0.2
    out = {title for title in titles if is_held_out(title, share)}
    assert 4 <= len(out) <= 24
    for name, kept in (("a.json", titles), ("b.json", titles[:30])):
        data = [
            {
                "title": t,
                "paragraphs": [
                    {
                        "context": f"{t} has {name}.",
                        "qas": [
                            {"question": f"What has {t}?", "answers": [{"text": name}]},
                            {"question": f"Why {t}?", "is_impossible": True, "answers": []},
                        ],
                    }
                ],
            }
            for t in kept
        ]
        (tmp_path / name).write_text(json.dumps({"data": data}), encoding="utf-8")
    files = {tmp_path / "a.json": share, tmp_path / "b.json": 0.0}
    train, dev = load_corpus(files, held_out=False), load_corpus(files, held_out=True)
    assert {p.title for p in dev.passages} == out
    assert {p.title for p in train.passages} == set(titles) - out
    assert sum(not q.answers for q in train.questions) == len(train.questions) / 2

    write_candidates(tmp_path / "c.xz", [(train, [[0]] * len(train.questions))])
    assert read_candidates(tmp_path / "c.xz") == [(train, [[0]] * len(train.questions))]
