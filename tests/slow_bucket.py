"""An S3 server whose answers can be made to come late."""

from __future__ import annotations

import threading
from collections.abc import Iterable
from typing import Any

import boto3
from moto.server import DomainDispatcherApplication, create_backend_app
from werkzeug.serving import make_server

LATE_S = 20.0


class Bucket:
    """One bucket on a server of its own in this process. Use as a context manager."""

    def __init__(self) -> None:
        self._slow = threading.Event()
        self._pause = threading.Event()
        app = DomainDispatcherApplication(create_backend_app)

        def answer(environ: dict[str, Any], start: Any) -> Iterable[bytes]:
            if self._slow.is_set():
                self._pause.wait(LATE_S)
            return app(environ, start)  # type: ignore[no-any-return]

        self._server = make_server("127.0.0.1", 0, answer, threaded=True)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Bucket:
        """Start, and make the bucket."""
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        client = boto3.client(
            "s3", endpoint_url=self.url, region_name="us-east-1", aws_access_key_id="test", aws_secret_access_key="test"
        )
        client.create_bucket(Bucket="tsumugi")
        client.close()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of what still waits, and stop."""
        self._pause.set()
        self._server.shutdown()

    @property
    def settings(self) -> dict[str, str]:
        """Variables that make a service keep its blobs here."""
        return {
            "TSUMUGI_BLOBS__STORE": "s3",
            "TSUMUGI_BLOBS__BUCKET": "tsumugi",
            "TSUMUGI_BLOBS__ENDPOINT_URL": self.url,
            "TSUMUGI_BLOBS__ACCESS_KEY_ID": "test",
            "TSUMUGI_BLOBS__SECRET_ACCESS_KEY": "test",
        }

    def slow_for(self, seconds: float, pause: threading.Event) -> None:
        """Every answer comes `LATE_S` late, for so long."""
        self._slow.set()
        pause.wait(seconds)
        self._slow.clear()
