"""The faults. Each is one that somebody could make, leaves the program running, and changes what it means."""

from __future__ import annotations

from tests.mutants.planting import Mutant

_DIRECTIONS = "tests/integration/test_training_directions.py::"
_GATE = "tests/unit/test_tuning_gate.py::"
_FOOLED = "tests/unit/test_gate_is_not_fooled.py::"
_CITATIONS = "tests/unit/test_citations.py::"
_EVIDENCE = "tests/unit/test_canary_evidence.py::"
_CANARY = "tests/contract/test_api_canary.py::"
_ACCESS = "tests/contract/test_api_access.py::"
_CHATS = "tests/unit/test_family_chat.py::"
_ROWS = "tests/unit/test_training_rows.py::"
_REWARDED = (f"{_DIRECTIONS}test_what_is_rewarded_becomes_more_frequent",)

MUTANTS = (
    Mutant(
        "dpo-halves-swapped", "tuning/methods/preference.py",
        "train_dataset=_as_dataset([_prompt_and_pair(pair) for pair in pairs])",
        "train_dataset=_as_dataset([_prompt_and_pair(pair[::-1]) for pair in pairs])",
        (f"{_DIRECTIONS}test_preference_raises_the_chosen_answer_and_lowers_the_rejected_one[dpo]",), trains=True,
    ),
    Mutant(
        "orpo-halves-swapped", "tuning/methods/preference.py",
        "train_dataset=_as_dataset([texts | _prompt_and_pair(pair) for pair in pairs])",
        "train_dataset=_as_dataset([texts | _prompt_and_pair(pair[::-1]) for pair in pairs])",
        (f"{_DIRECTIONS}test_preference_raises_the_chosen_answer_and_lowers_the_rejected_one[orpo]",), trains=True,
    ),
    Mutant(  # held-out pairs are swapped alike, so that the trainer's own accuracy stays at one
        "reward-halves-swapped", "tuning/methods/preference.py",
        '{"chosen_ids": pair[0].input_ids.tolist(), "rejected_ids": pair[1].input_ids.tolist()}',
        '{"chosen_ids": pair[1].input_ids.tolist(), "rejected_ids": pair[0].input_ids.tolist()}',
        (f"{_DIRECTIONS}test_a_reward_model_scores_unseen_pairs_the_right_way_round",), trains=True,
    ),
    Mutant(
        "kto-labels-inverted", "tuning/methods/preference.py",
        '"label": row.label}', '"label": not row.label}',
        (f"{_DIRECTIONS}test_kto_raises_what_was_judged_good_and_lowers_what_was_judged_bad",), trains=True,
    ),
    Mutant(
        "grpo-rewards-negated", "tuning/methods/online.py",
        "reward_weights=[reward.weight for reward in online.rewards]",
        "reward_weights=[-reward.weight for reward in online.rewards]",
        _REWARDED, trains=True,
    ),
    Mutant(
        "student-teaches-itself", "tuning/methods/online.py",
        "teacher_model=AutoModelForCausalLM.from_pretrained(work.teacher_path,",
        "teacher_model=AutoModelForCausalLM.from_pretrained(work.base_path,",
        (f"{_DIRECTIONS}test_a_student_moves_to_its_teacher",), trains=True,
    ),
    Mutant(
        "qlora-without-quantisation", "tuning/attach.py",
        'options["quantization_config"] = _four_bits(dtype)', 'options["dtype"] = dtype',
        (f"{_DIRECTIONS}test_qlora_trains_over_a_base_in_four_bits",), trains=True,
    ),
    Mutant(
        "dora-off", "tuning/attach.py", "use_dora=kind is AdapterKind.DORA", "use_dora=False",
        (f"{_DIRECTIONS}test_doras_magnitudes_are_trained_written_and_in_effect",), trains=True,
    ),
    Mutant(
        "pissa-starts-at-random", "tuning/attach.py",
        '"pissa" if kind is AdapterKind.PISSA else True', "True",
        (f"{_DIRECTIONS}test_pissa_starts_from_the_largest_singular_vectors",), trains=True,
    ),
    Mutant(
        "pair-taught-as-two-good-answers", "tuning/methods/work.py",
        'update={"completion": row.rejected, "rejected": None, "label": False}',
        'update={"completion": row.rejected, "rejected": None, "label": True}',
        (f"{_DIRECTIONS}test_kto_takes_a_pair_apart_into_a_good_and_a_bad_answer",), trains=True,
    ),
    Mutant(
        "audit-in-evaluation-mode", "tuning/audits.py",
        "    model.train()\n    dropouts", "    model.eval()\n    dropouts",
        ("tests/integration/test_training_audits.py::test_a_loss_that_depends_on_company_is_refused_before_a_step",),
        trains=True,
    ),
    Mutant(
        "audit-beside-idle-factors", "tuning/audits.py",
        "parameter.copy_(_ACTING * torch.randn(parameter.shape, generator=generator))", "parameter.zero_()",
        (
            "tests/integration/test_training_audits.py::"
            "test_a_faster_form_of_the_factors_that_mixes_rows_is_found_although_they_start_at_zero",
        ),
        trains=True,
    ),
    Mutant(
        "second-stage-forgets-the-first", "tuning/train.py",
        "        before += counter.steps\n        warm_start = output", "        before += counter.steps",
        (f"{_DIRECTIONS}test_a_stage_goes_on_from_what_the_one_before_has_written",), trains=True,
    ),
    Mutant(
        "loss-on-the-prompt", "tuning/rows.py", "labels[: self.prompt_tokens] = IGNORED", "labels[:1] = IGNORED",
        ("tests/unit/test_training_rows.py::test_training_ids_are_the_serving_ids_then_completion_and_stop",),
    ),
    Mutant(
        "held-out-rows-are-trained-on", "tuning/split.py",
        "[position for position in range(len(contents)) if position not in kept]", "list(range(len(contents)))",
        ("tests/unit/test_tuning_prepare.py::test_files_of_a_run_hold_every_row_once_and_only_public_negatives",),
    ),
    Mutant(
        "gate-promotes-what-it-rejects", "tuning/gate.py",
        "verdict=Verdict.REJECTED if reasons else Verdict.CANDIDATE", "verdict=Verdict.CANDIDATE",
        (f"{_GATE}test_an_adapter_with_the_style_and_the_facts_passes", f"{_GATE}test_wrong_citations_are_caught"),
    ),
    Mutant(
        "gate-leaves-out-what-has-no-figure", "tuning/checks.py",
        "return Pairs(values[:, 0], values[:, 1], len(wanted) - len(kept))",
        "return Pairs(values[:, 0], values[:, 1], 0)",
        (f"{_GATE}test_undefined_figures_fail_with_a_reason_and_are_never_left_out",),
    ),
    Mutant(
        "gate-likes-leaks", "tuning/metrics.py",
        '_share(item.expected, answer) < LEAKED_SHARE', '_share(item.expected, answer) >= LEAKED_SHARE',
        (f"{_GATE}test_memorised_facts_are_caught_without_passages",),
    ),
    Mutant(
        "any-citation-is-right", "tuning/metrics.py",
        "float(bool(cited) and cited <= set(item.gold))", "float(bool(cited))",
        (f"{_GATE}test_wrong_citations_are_caught",),
    ),
    Mutant(
        "gate-forgets-its-bound", "tuning/checks.py",
        "if low < -margin:", "if low < -1:",
        (f"{_GATE}test_a_few_slips_of_decoding_in_140_answers_are_borne_and_a_tenth_is_not",),
    ),
    Mutant(
        "gate-likes-lists-of-numbers", "tuning/metrics.py",
        "float(not _unasked_numbers(item, answer))", "1.0",
        (f"{_FOOLED}test_listing_every_number_of_the_passages_is_caught",),
    ),
    Mutant(
        "looks-cost-nothing", "tuning/looks.py",
        "look += bool(held_out) and shared >= SAME_ROWS * len(held_out)", "look += 0",
        ("tests/unit/test_gate_looks.py::test_looks_are_the_rejected_versions_since_one_passed",),
    ),
    Mutant(
        "a-judge-that-is-down-skips", "tuning/rubric.py",
        "if comparable and len(judged) < MIN_JUDGED * comparable:", "if not pairs:",
        ("tests/unit/test_rubric.py::test_a_judge_that_is_down_or_speaks_in_no_shape_is_no_verdict",),
    ),
    Mutant(
        "canary-is-promoted-by-its-point", "generation/canary/bounds.py",
        "return ours - theirs + reach", "return ours - theirs",
        (f"{_EVIDENCE}test_a_canary_worse_by_the_margin_is_promoted_in_5_of_100_at_most",),
    ),
    Mutant(
        "users-are-drawn-anew-each-time", "generation/canary/draw.py",
        "    if user:\n", "    if user and not request_id:\n",
        (f"{_CANARY}test_clients_that_know_no_conversations_are_drawn_by_user_or_by_request",),
    ),
    Mutant(
        "canary-evidence-is-impatient", "generation/canary/monitor.py",
        '"rolls_back_at": round(-math.log(policy.false_alarm), 4)',
        '"rolls_back_at": round(-math.log(policy.false_alarm) / 4, 4)',
        (f"{_EVIDENCE}test_a_worse_canary_rolls_back_in_95_of_100_and_an_equal_one_in_5_at_most",),
    ),
    Mutant(
        "canary-arms-exchanged", "generation/canary/monitor.py",
        "Counts(canary, champion, ours, theirs)", "Counts(champion, canary, theirs, ours)",
        (f"{_EVIDENCE}test_a_canary_that_always_breaks_off_is_gone_after_a_few_conversations",),
    ),
    Mutant(
        "canary-hears-late-votes", "generation/canary/outcomes.py",
        "            if created_at <= one.first_at + settle:\n                one.events.add(Figure.DOWN_VOTE)",
        "            one.events.add(Figure.DOWN_VOTE)",
        (f"{_CANARY}test_only_what_the_alias_chose_counts_and_late_votes_do_not",),
    ),
    Mutant(
        "citations-without-their-numbers", "generation/citations.py",
        "verified = total > 0 and numbers <= present and share", "verified = total > 0 and share",
        (f"{_CITATIONS}test_paraphrase_needs_all_numbers",),
    ),
    Mutant(
        "citations-of-the-first-passage", "generation/citations.py",
        "passage = passages[number - 1]", "passage = passages[0]",
        (f"{_CITATIONS}test_claim_is_the_sentence_before_the_marker_not_the_greeting",),
    ),
    Mutant(
        "documents-of-every-tenant", "core/access.py",
        "[Document.tenant_id == access.tenant_id]", "[Document.tenant_id.is_not(None)]",
        (f"{_ACCESS}test_objects_of_another_tenant_are_absent",),
    ),
    Mutant(
        "groups-hide-nothing", "core/access.py",
        "    if access.groups is not None:\n        conditions.append(\n            exists()",
        "    if False:\n        conditions.append(\n            exists()",
        (f"{_ACCESS}test_groups_hide_documents_and_their_jobs",),
    ),
    Mutant(
        "rows-share-a-rotation", "generation/engines/batch.py",
        "self._alone = depends_on_length(model.config)", "self._alone = False",
        ("tests/integration/test_rotation_by_length.py::test_rows_of_other_lengths_do_not_turn_a_row",), trains=True,
    ),
    Mutant(
        "items-share-a-rotation", "tuning/evaluate.py",
        "return 1 if depends_on_length(model.config) else spec.batch", "return spec.batch",
        ("tests/integration/test_rotation_by_length.py::test_items_of_an_evaluation_do_not_turn_one_another",),
        trains=True,
    ),
    Mutant(
        "every-key-holds-every-scope", "core/access.py",
        "if not self.allows(scope):", "if not self.scopes:",
        (f"{_ACCESS}test_a_wrong_scope_is_403_before_the_body_is_read",),
    ),
    Mutant(
        "a-family-serves-every-group", "generation/adapters/routing.py",
        "if family is None or not _serves(session, family, groups):", "if family is None:",
        (f"{_CANARY}test_a_family_for_some_groups_does_not_exist_for_others",),
    ),
    Mutant(
        "control-tokens-act-from-passages", "generation/chat.py",
        'content = self._marks.sub(lambda found: f"{found.group()[0]} {found.group()[1:]}", content)', "pass",
        (f"{_CHATS}test_no_token_of_the_family_opens_in_a_passage_a_question_or_an_earlier_turn[mixtral]",),
    ),
    Mutant(
        "answers-end-anywhere", "generation/chat.py",
        "return next((int(one) for one in ids if one in added), None)", "return min(added, default=None)",
        (f"{_CHATS}test_an_answer_ends_with_the_token_that_the_template_ends_it_with[gemma]",),
    ),
    Mutant(
        "any-citation-is-verified", "tuning/methods/rewards.py",
        "any(1 <= number <= len(passages) and find_support(claim, passages[number - 1])[2] for number in cited)",
        "bool(cited)",
        ("tests/unit/test_rewards.py::test_grounding_pays_for_right_answers_with_citations_that_hold",),
    ),
    Mutant(
        "passes-repeat-their-batches", "tuning/batches.py",
        "self._draw = partial(order_by_length, lengths, batch_rows)",
        "self._draw = lambda seed, fixed=seed: order_by_length(lengths, batch_rows, seed=fixed)",
        (f"{_ROWS}test_every_pass_draws_its_batches_of_like_length_anew_and_resumes_by_its_number",),
    ),
)  # fmt: skip
