"""The API process of the server topology must start without the libraries that only train or embed."""

from __future__ import annotations

import json
import subprocess
import sys

HEAVY = ("torch", "transformers", "peft", "trl", "datasets", "accelerate", "sentence_transformers", "llama_index")


def test_the_api_imports_none_of_the_heavy_libraries() -> None:
    roots = "api.app, cli.server.api, cli.server.beat, generation.build, retrieval.build, tuning.build"
    code = f"import json, sys, {roots}; " + "print(json.dumps(sorted({name.split('.')[0] for name in sys.modules})))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(json.loads(done.stdout))
    assert {"api", "fastapi", "ingest", "tuning"} <= loaded
    assert not loaded & set(HEAVY)
