"""The in-process engine on a tiny random model in float32: real transformers, real PEFT."""

from __future__ import annotations

import functools
import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from core.errors import AdapterRefused, InvalidInput, TooLarge, Unavailable
from core.settings import GenerationSettings
from core.types import AnswerFormat
from generation.adapters.fingerprint import measure_adapter
from generation.adapters.manifest import build_manifest, read_manifest, write_manifest
from generation.engines.grammar import GrammarCompiler, TokenGrammar
from generation.engines.transformers_engine import TransformersEngine
from tests.tiny_adapters import PROMPTS, ask, reference, save_random_adapter


@pytest.fixture(scope="module")
def adapters(base, tmp_path_factory):
    """Three versions; the last trains fewer modules than the others, at another rank."""
    root = tmp_path_factory.mktemp("adapters")
    made = []
    for seed, config in enumerate([{}, {"lora_alpha": 32}, {"r": 2, "target_modules": ["q_proj", "down_proj"]}], 1):
        folder = root / f"v{seed}"
        made.append(reference(folder, save_random_adapter(base, folder, seed=seed, **config), f"v{seed}"))
    return made


@pytest.fixture(params=["plain", "paged"])
def decoder(request):
    """Both decode loops are held to the same."""
    return request.param


@pytest.fixture
def engine(base, decoder):
    settings = GenerationSettings(max_adapters=2, context_tokens=1024, decoder=decoder)
    engine = TransformersEngine(base, settings, dtype=torch.float32)
    yield engine
    engine.close()


def settle(engine):
    """Return when the engine's thread has done its housekeeping: the round of the first call is over at the second."""
    engine._call(lambda: None)
    engine._call(lambda: None)


@functools.cache
def generate_alone(base, adapter, text, max_tokens):
    """What plain transformers and PEFT say: the truth that the engine must reproduce."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = AutoModelForCausalLM.from_pretrained(base.path, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter.path)
    chat = tokenizer.apply_chat_template(
        [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
    )
    inputs = tokenizer(chat, add_special_tokens=False, return_tensors="pt")
    output = model.eval().generate(**inputs, max_new_tokens=max_tokens, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return tokenizer.decode(new, skip_special_tokens=True).rstrip("\ufffd")


def shown(text):
    """Random models end in broken characters; how many of them are shown is not what is compared."""
    return text.rstrip("\ufffd")


def test_mixed_batch_says_what_each_request_gets_alone(base, adapters, engine, monkeypatch):
    """Prompts of very different lengths, four kinds of rows, joining while others decode, prefilled in pieces."""
    monkeypatch.setattr(engine._batch, "_piece", 16)
    cases = [
        (text * (1 + 9 * (number % 3)), adapter, 8 + 13 * (number % 4))
        for number, (text, adapter) in enumerate(zip(PROMPTS * 3, [None, *adapters] * 3, strict=True))
    ]
    steps_with_company = 0
    step = engine._batch.step

    def counting_step():
        nonlocal steps_with_company
        steps_with_company += len({row.key for row in engine._batch.rows}) > 1
        step()

    monkeypatch.setattr(engine._batch, "step", counting_step)
    handles = []
    for text, adapter, max_tokens in cases:
        handles.append(engine.submit(ask(text, adapter, max_tokens)))
        next(iter(handles[-1]), None)  # the next one joins when this one is under way
    together = [handle.result() for handle in handles]
    for (text, adapter, max_tokens), result in zip(cases, together, strict=True):
        assert shown(result.text) == generate_alone(base, adapter, text, max_tokens)
        assert result.adapter == adapter
    together = [engine.submit(ask(*case)) for case in cases]
    assert [shown(handle.result().text) for handle in together] == [generate_alone(base, a, t, n) for t, a, n in cases]
    assert steps_with_company > 5


def test_pieces_add_up_to_the_result_and_end_at_a_stop_string(engine):
    whole = engine.submit(ask("hello", max_tokens=40)).result()
    assert whole.finish_reason == "length" and whole.completion_tokens == 40 and len(whole.text) > 4
    stop = whole.text[2:4]
    handle = engine.submit(ask("hello", max_tokens=40, stop=(stop,)))
    pieces = list(handle)
    assert "".join(pieces) == handle.result().text == whole.text[: whole.text.index(stop)]
    assert handle.result().finish_reason == "stop"
    assert list(handle) == [], "a second iteration ends at once"


def test_sampling_follows_the_seed(engine):
    def draw(seed):
        return engine.submit(ask("hello", max_tokens=24, temperature=1.5, top_p=0.95, seed=seed)).result().text

    company = [engine.submit(ask("noise", max_tokens=60, temperature=1.0)) for _ in range(3)]
    first = draw(7)
    assert [handle.result().completion_tokens for handle in company]
    assert first == draw(7)
    assert len({draw(seed) for seed in range(4)}) > 1
    assert engine.submit(ask("x", max_tokens=9, temperature=0.7, top_p=1e-9)).result().text == (
        engine.submit(ask("x", max_tokens=9)).result().text
    ), "a tiny top_p leaves only the best token"


def test_cancel_frees_the_row_for_those_who_wait(base):
    engine = TransformersEngine(base, GenerationSettings(max_batch=1, max_queue=2), dtype=torch.float32)
    try:
        running = engine.submit(ask("hello", max_tokens=3000))
        next(iter(running))
        waiting, dropped = engine.submit(ask("x", max_tokens=3)), engine.submit(ask("x", max_tokens=3))
        with pytest.raises(Unavailable) as refused:
            engine.submit(ask("one too many"))
        assert refused.value.code == "queue_full"
        dropped.cancel()
        running.cancel()
        running.cancel()
        assert waiting.result().completion_tokens == 3
        assert running.result().finish_reason == "cancelled" and 0 < running.result().completion_tokens < 3000
        assert dropped.result().finish_reason == "cancelled" and dropped.result().completion_tokens == 0
    finally:
        engine.close()


def test_what_does_not_fit_the_context_is_refused(engine):
    with pytest.raises(TooLarge) as refused:
        engine.submit(ask("x" * 1000, max_tokens=100))
    assert refused.value.code == "context_length_exceeded" and refused.value.extra["limit"] == 1024
    assert engine.submit(ask("x" * 900, max_tokens=100)).result().completion_tokens > 0


def test_a_failing_step_ends_its_rows_and_the_engine_goes_on(engine, decoder, monkeypatch):
    handle = engine.submit(ask("hello", max_tokens=900))
    next(iter(handle))
    with monkeypatch.context() as patched:
        patched.setattr(engine._batch, "_decode" if decoder == "plain" else "_start_decode", lambda *_: 1 / 0)
        with pytest.raises(Unavailable, match="division"):
            handle.result()
    assert engine.submit(ask("hello", max_tokens=5)).result().completion_tokens == 5


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_nobody_waits_for_ever_when_the_thread_itself_dies(base, monkeypatch):
    engine = TransformersEngine(base, GenerationSettings(), dtype=torch.float32)
    assert engine.ping() == base.stamp
    monkeypatch.setattr(engine, "_trim", lambda: 1 / 0)
    handle = engine.submit(ask("hello", max_tokens=3000))
    with pytest.raises(Unavailable):
        handle.result()
    engine._thread.join()
    with pytest.raises(Unavailable) as stopped:
        engine.submit(ask("hello"))
    assert stopped.value.code == "engine_stopped"
    with pytest.raises(Unavailable):
        engine.ping()


def test_close_ends_what_runs_and_refuses_what_comes(base):
    engine = TransformersEngine(base, GenerationSettings(max_batch=1), dtype=torch.float32)
    running, waiting = engine.submit(ask("hello", max_tokens=3000)), engine.submit(ask("hello"))
    next(iter(running))
    engine.close()
    for handle in (running, waiting):
        with pytest.raises(Unavailable) as stopped:
            handle.result()
        assert stopped.value.code == "engine_stopped"
    with pytest.raises(Unavailable):
        engine.submit(ask("hello"))


def test_memory_stays_bounded_and_running_adapters_are_never_evicted(adapters, engine):
    first, second, third = adapters
    long = engine.submit(ask("hello", first, max_tokens=700))
    next(iter(long))
    for adapter in (second, third, second, third):
        engine.submit(ask("x", adapter, max_tokens=2)).result()
        assert first.serving_name in engine.loaded_adapters()
    long.cancel()
    long.result()
    engine.ensure_adapter(second)
    settle(engine)
    assert len(engine.loaded_adapters()) == 2
    engine.retire_adapter(second)
    settle(engine)
    assert second.serving_name not in engine.loaded_adapters()
    assert engine.submit(ask("x", second, max_tokens=2)).result().adapter == second


def test_held_adapters_outlive_idle_ones(adapters, engine):
    first, second, third = adapters
    engine.hold_adapters([first])
    for adapter in (first, second, third):
        engine.ensure_adapter(adapter)
        settle(engine)
    assert engine.loaded_adapters() == [first.serving_name, third.serving_name]


def test_many_threads_loading_one_adapter_share_the_load(adapters, engine, monkeypatch):
    inserted = []
    insert = engine._bank.insert
    monkeypatch.setattr(engine._bank, "insert", lambda prepared: (inserted.append(prepared.ref), insert(prepared)))
    threads = [threading.Thread(target=engine.ensure_adapter, args=(adapters[0],)) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert inserted == [adapters[0]]


def damaged(tmp_path: Path, adapter, change) -> Path:
    folder = tmp_path / "damaged"
    shutil.copytree(adapter.path, folder)
    change(folder)
    return folder


def test_an_adapter_that_changed_on_disk_is_refused_and_the_request_told(adapters, engine, tmp_path):
    def flip(folder):
        data = bytearray((folder / "adapter_model.safetensors").read_bytes())
        data[-1] ^= 1
        (folder / "adapter_model.safetensors").write_bytes(data)

    folder = damaged(tmp_path, adapters[0], flip)
    handle = engine.submit(ask("x", reference(folder, read_manifest(folder), "v9")))
    with pytest.raises(AdapterRefused) as refused:
        handle.result()
    assert refused.value.code == "adapter_digest_mismatch"
    with pytest.raises(AdapterRefused):
        list(handle)


def test_an_adapter_without_effect_is_refused_and_leaves_nothing_behind(base, engine, tmp_path):
    from safetensors.torch import load_file, save_file

    save_random_adapter(base, tmp_path / "a", seed=1)
    weights = load_file(tmp_path / "a" / "adapter_model.safetensors")
    save_file({name: t * 0 if "lora_B" in name else t for name, t in weights.items()}, tmp_path / "a" / "x")
    (tmp_path / "a" / "x").replace(tmp_path / "a" / "adapter_model.safetensors")
    manifest = build_manifest(tmp_path / "a", base)
    write_manifest(tmp_path / "a", manifest)
    before = engine.submit(ask("hello")).result().text
    with pytest.raises(AdapterRefused) as refused:
        engine.ensure_adapter(reference(tmp_path / "a", manifest, "v1"))
    assert refused.value.code == "adapter_no_effect"
    assert engine.loaded_adapters() == []
    assert engine.submit(ask("hello")).result().text == before


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_fingerprint_tells_adapters_apart_in_every_dtype(base, adapters, dtype, tmp_path):
    """Recorded in float32 by another process, checked here in the engine's own dtype."""
    engine = TransformersEngine(base, GenerationSettings(), dtype=dtype)
    try:
        right = measure_adapter(base.path, Path(adapters[0].path))
        wrong = measure_adapter(base.path, Path(adapters[1].path))
        for name, fingerprint, accepted in (("right", right, True), ("wrong", wrong, False)):
            folder = tmp_path / name
            shutil.copytree(adapters[0].path, folder)
            manifest = read_manifest(folder).model_copy(update={"fingerprint": fingerprint})
            write_manifest(folder, manifest)
            adapter = reference(folder, manifest, "v1")
            if accepted:
                engine.ensure_adapter(adapter)
                engine.retire_adapter(adapter)
                settle(engine)
                assert engine.loaded_adapters() == []
            else:
                with pytest.raises(AdapterRefused) as refused:
                    engine.ensure_adapter(adapter)
                assert refused.value.code == "adapter_fingerprint_mismatch"
        dtypes = {parameter.dtype for parameter in engine._model.parameters()}
        assert dtypes == {dtype}, "the measurement put every weight back"
    finally:
        engine.close()


def test_an_adapter_of_another_base_is_refused(base, adapters, engine, tmp_path):
    def rebind(folder):
        manifest = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**manifest, "base_digest": "0" * 64}))

    folder = damaged(tmp_path, adapters[0], rebind)
    with pytest.raises(AdapterRefused) as refused:
        engine.ensure_adapter(reference(folder, read_manifest(folder), "v1"))
    assert refused.value.code == "adapter_wrong_base"


def shaped(properties, **more):
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    return AnswerFormat(schema=json.dumps({**schema, **more}))


def test_a_random_model_writes_what_the_schema_allows_beside_free_rows(base, adapters, engine):
    """Half of the rows of one batch follow grammars, drawn at random; the others say what they say alone."""
    answer_format = shaped(
        {
            "名前": {"type": "string", "enum": ["山田太郎", "佐藤"]},
            "days": {"type": "integer", "minimum": 1, "maximum": 40},
            "ok": {"type": "boolean"},
        }
    )
    constrained = [
        engine.submit(replace(ask("何日？", adapter, 120), answer_format=answer_format, temperature=1.0, seed=seed))
        for seed, adapter in enumerate([None, adapters[0], None, adapters[1]])
    ]
    free = [engine.submit(ask(PROMPTS[0], adapters[0], 24)), engine.submit(ask(PROMPTS[1], None, 24))]
    for handle in constrained:
        result = handle.result()
        assert "".join(handle) == result.text and result.finish_reason == "stop"
        answer = json.loads(result.text)
        assert answer["名前"] in {"山田太郎", "佐藤"} and 1 <= answer["days"] <= 40 and isinstance(answer["ok"], bool)
    assert shown(free[0].result().text) == generate_alone(base, adapters[0], PROMPTS[0], 24)
    assert shown(free[1].result().text) == generate_alone(base, None, PROMPTS[1], 24)


def test_a_model_that_wants_to_end_closes_what_is_open(base):
    """Where the grammar forbids the end, the wish for it closes the string or the object."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base.path)
    end = tokenizer.eos_token_id
    compiler = GrammarCompiler(tokenizer, len(tokenizer), frozenset({end}))
    grammar = compiler.compile(shaped({"a": {"type": "string"}}))
    said = []
    for wished in [*tokenizer.encode('{"a": "日本', add_special_tokens=False), end, end]:
        logits = torch.zeros(len(tokenizer))
        logits[wished] = 1.0
        grammar.mask(logits)
        said.append(int(logits.argmax()))
        ended = grammar.accept(said[-1])
    assert tokenizer.decode(said) == '{"a": "日本"}' and ended


def test_schemas_that_cannot_be_followed_are_refused_and_cost_nobody_else(engine):
    for properties in ({"a": {"not": {"type": "string"}}}, {"a": {"type": "string", "pattern": "(?=x)y"}}):
        with pytest.raises(InvalidInput) as refused:
            engine.submit(replace(ask("hello"), answer_format=shaped(properties)))
        assert refused.value.code == "schema_unsupported"


def test_a_grammar_that_becomes_too_costly_ends_its_own_row(engine, monkeypatch):
    """llguidance gives up by fuel, on vocabularies larger than this one; what it then says is raised here."""
    mask, seen = TokenGrammar.mask, []

    def tiring(grammar, logits):
        seen.append(1)
        if len(seen) == 5:
            raise InvalidInput("the schema cannot be followed", code="schema_too_complex")
        mask(grammar, logits)

    monkeypatch.setattr(TokenGrammar, "mask", tiring)
    beside = engine.submit(ask("hello", max_tokens=20))
    tired = engine.submit(replace(ask("hello", max_tokens=90), answer_format=shaped({"a": {"type": "string"}})))
    with pytest.raises(InvalidInput) as refused:
        tired.result()
    assert refused.value.code == "schema_too_complex"
    assert beside.result().completion_tokens == 20
