"""The models of a server topology under test, in one process: MiniLM behind `/v1/embeddings`, vLLM's routes beside it.

python -m tests.model_server --port 8000 [--base FOLDER | --extract]
"""

from __future__ import annotations

import argparse
import threading
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict

from tests.vllm_standin import ExtractBackend, PeftBackend, Replica, routes

EMBEDDER = "all-MiniLM-L6-v2"


class _Embed(BaseModel):
    model_config = ConfigDict(extra="forbid")

    model: str
    input: list[str]
    encoding_format: str = "float"


def create_app(replica: Replica) -> FastAPI:
    """Both APIs."""
    from retrieval.embedders.minilm import MiniLmEmbedder

    app = FastAPI()
    embedder = MiniLmEmbedder()
    lock = threading.Lock()
    app.include_router(routes(replica))

    @app.post("/v1/embeddings")
    def embeddings(body: _Embed) -> dict[str, Any]:
        with lock:
            vectors = embedder.encode_passages(body.input)
        rows = [{"object": "embedding", "index": at, "embedding": row.tolist()} for at, row in enumerate(vectors)]
        return {"object": "list", "model": body.model, "data": rows, "usage": {"prompt_tokens": 0, "total_tokens": 0}}

    return app


def main() -> None:
    """Run in the foreground until interrupted."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--base", type=Path)
    parser.add_argument("--model", default="base")
    arguments = parser.parse_args()
    backend = PeftBackend(arguments.base) if arguments.base else ExtractBackend()
    app = create_app(Replica(backend, base=arguments.model))
    uvicorn.run(app, host="127.0.0.1", port=arguments.port, log_level="warning")


if __name__ == "__main__":
    main()
