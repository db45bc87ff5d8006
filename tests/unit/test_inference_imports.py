"""What a process that only infers leaves out, seen from fresh interpreters: no import can be taken back in this one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.tiny_llama import build_tiny_llama

COSTLY = (
    "torch._inductor",
    "torch._dynamo.utils",
    "torch.distributed.tensor",
    "scipy.optimize",
    "sympy",
    "torch._refs",
)

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


LACKS = """
def lacks():
    makes = (torch.linalg.cholesky, lambda a: torch.cdist(a, a), lambda a: a.median(0), torch.linalg.eigh)
    for make in makes:
        try:
            make(torch.ones(4, 4, device="meta"))
        except NotImplementedError:
            return make
"""


def test_a_model_that_needs_more_of_torch_while_it_is_built_gets_it() -> None:
    found = run(
        "import json\nfrom core.inference_imports import import_for_inference, load, take_whole_torch\n"
        f"assert import_for_inference()\nimport torch\n{LACKS}\n"
        "make = lacks()\n"
        "assert make, 'torch has all of them in C++ now: nothing is left out any more'\n"
        "shape = list(load(lambda: make(torch.ones(4, 4, device='meta'))).shape)\n"
        "made = torch.linalg.cholesky(torch.eye(3, device='meta')).shape\n"
        "print(json.dumps([len(shape) > 0, list(made), take_whole_torch(), torch._meta_registrations.__file__ != '']))"
    )
    assert found == [True, [3, 3], False, True]


def test_an_error_that_is_no_lack_of_torch_is_told_as_it_is() -> None:
    code = (
        "import json\nfrom core.inference_imports import import_for_inference, load\nassert import_for_inference()\n"
        "tried = []\n"
        "def model():\n    tried.append(1)\n    raise NotImplementedError('no such layer')\n"
        "told = []\n"
        "for _ in range(2):\n"
        "    try:\n        load(model)\n    except NotImplementedError as error:\n        told.append(str(error))\n"
        "print(json.dumps([told, len(tried)]))"
    )
    assert run(code) == [["no such layer"] * 2, 3]


def test_random_numbers_of_ones_own_wait_for_what_they_need() -> None:
    draw = "torch.Generator().manual_seed(3)\nprint(json.dumps(torch.rand(3, generator=source).tolist()))"
    draw = draw.replace("torch.Generator()", "source = torch.Generator()", 1)
    slim = run(
        "import json\nfrom core.inference_imports import import_for_inference, take_whole_torch\n"
        f"assert import_for_inference()\nimport torch\ntake_whole_torch()\n{draw}"
    )
    assert slim == run(f"import json, torch\n{draw}")


def test_a_release_that_cannot_be_imported_so_is_imported_as_it_is(tiny: Path) -> None:
    found = run(
        "from core import inference_imports\n"
        "inference_imports.MODELS = (*inference_imports.MODELS, 'no_such.model')\n"
        f"assert not inference_imports.import_for_inference()\n{LOAD}\n"
        f"print(json.dumps([len(generated({str(tiny)!r})), bool(sys.modules['torch._dynamo'].__file__)]))"
    )
    assert found == [49, True]
