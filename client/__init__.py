"""The REST API for other programs: typed, sync and async, with retrievers for LlamaIndex and LangChain.

    from client import Tsumugi
    with Tsumugi("http://127.0.0.1:8080", key) as tsumugi:
        for passage in tsumugi.search("出張の日当はいくらですか。"):
            print(passage.filename, passage.text)

It imports nothing else of this project, needs only httpx, and ignores fields that a newer service adds.
"""

from client.aio import AsyncTsumugi
from client.errors import ClientError, Refused, Unreachable
from client.models import (
    Answer,
    Citation,
    Document,
    Erasure,
    Evaluation,
    EvaluationOutcome,
    Job,
    Passage,
    StreamEvent,
    Uploaded,
)
from client.sync import Tsumugi

__all__ = [
    "Answer",
    "AsyncTsumugi",
    "Citation",
    "ClientError",
    "Document",
    "Erasure",
    "Evaluation",
    "EvaluationOutcome",
    "Job",
    "Passage",
    "Refused",
    "StreamEvent",
    "Tsumugi",
    "Unreachable",
    "Uploaded",
]
