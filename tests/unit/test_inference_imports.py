"""What a process that only infers leaves out, seen from fresh interpreters: no import can be taken back in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_llama import build_tiny_llama

COSTLY = ("torch._inductor", "torch._dynamo.utils", "torch.distributed.tensor", "scipy.optimize")

LOAD = """
import json, sys
import torch
from transformers import AutoModelForCausalLM
def generated(folder):
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    ids = torch.arange(3, 40)[None]
    return model.generate(ids, max_new_tokens=12, do_sample=False)[0].tolist()
"""


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_tiny_llama(tmp_path_factory.mktemp("tiny")).path


def run(code: str) -> Any:
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def test_a_model_answers_the_same_without_what_compiles_and_shards(tiny: Path) -> None:
    slim = run(
        "from core.inference_imports import import_for_inference\n"
        "assert import_for_inference() and not import_for_inference()\n"
        f"{LOAD}\n"
        f"print(json.dumps([generated({str(tiny)!r}), [m for m in {COSTLY!r} if m in sys.modules]]))"
    )
    whole = run(f"{LOAD}\nprint(json.dumps([generated({str(tiny)!r}), [m for m in {COSTLY!r} if m in sys.modules]]))")
    assert slim == [whole[0], []]
    assert whole[1], "nothing is left out any more: the stand-ins can go"


def test_whoever_needs_the_compiler_gets_the_real_one(tiny: Path) -> None:
    first = {
        "attribute": "torch._dynamo.config.verbose",
        "module": "__import__('torch._dynamo.utils').__name__",
        "compiled": "torch.compile(lambda x: x + 1, backend='eager')(torch.ones(1)).item()",
    }
    for name, use in first.items():
        found = run(
            "from core.inference_imports import import_for_inference\n"
            f"assert import_for_inference()\n{LOAD}\n"
            f"before = generated({str(tiny)!r})\n{use}\n"
            "import torch._dynamo.eval_frame, torch._dynamo.utils as utils\n"
            f"same = generated({str(tiny)!r}) == before and utils is sys.modules['torch._dynamo.utils']\n"
            "print(json.dumps([same, bool(torch._dynamo.__file__)]))"
        )
        assert found == [True, True], name


def test_a_release_that_cannot_be_imported_so_is_imported_as_it_is(tiny: Path) -> None:
    found = run(
        "from core import inference_imports\n"
        "inference_imports.MODELS = (*inference_imports.MODELS, 'no_such.model')\n"
        f"assert not inference_imports.import_for_inference()\n{LOAD}\n"
        f"print(json.dumps([len(generated({str(tiny)!r})), bool(sys.modules['torch._dynamo'].__file__)]))"
    )
    assert found == [49, True]
