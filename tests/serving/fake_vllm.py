"""A vLLM server that says what it is told to."""

from __future__ import annotations

import base64
import io
import json
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import torch

from caikit_pt.base_model.loading.checkpoint import locate
from caikit_pt.serving.vllm_text import VllmText
from caikit_pt.settings import Settings
from tests.conftest import BASE_MODELS, LLAMA


class Fake(ThreadingHTTPServer):
    """A vLLM server without a model."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("localhost", 0), _Handler)
        self._thread: threading.Thread | None = None
        self.requests: list[dict[str, Any]] = []
        self.says: list[int] = [300, 301, 302]
        self.reason = "length"
        self.reads: list[int] | None = None
        self.refuses: tuple[int, str] | None = None
        self.fails: Any = None
        self.pause = 0.0
        self.models = {"served": 1024}
        self.left_alone = threading.Event()
        # So many tokens are sent of an answer before the connection ends.
        self.breaks_after: int | None = None
        self.health, self.checks = 200, 0

    def begin(self) -> None:
        """From now on it listens."""
        self._thread = threading.Thread(target=self.serve_forever, kwargs={"poll_interval": 0.01})
        self._thread.start()

    def end(self) -> None:
        """From now on it refuses connections."""
        if self._thread:
            self.shutdown()
            self._thread.join()
            self._thread = None
            self.server_close()

    def begin_again(self) -> None:
        """At the same address."""
        self.socket = socket.socket(self.address_family, self.socket_type)
        self.server_bind()
        self.server_activate()
        self.begin()

    @property
    def address(self) -> str:
        return f"http://localhost:{self.server_port}"


class _Handler(BaseHTTPRequestHandler):
    server: Fake

    def log_message(self, *_: Any) -> None:
        """Says nothing."""

    def do_GET(self) -> None:
        if self.path == "/health":
            self.server.checks += 1
            self._send(self.server.health, {})
            return
        models = [{"id": name, "max_model_len": length} for name, length in self.server.models.items()]
        self._send(200, {"data": models})

    def do_POST(self) -> None:
        request = json.loads(self.rfile.read(int(self.headers["content-length"])))
        self.server.requests.append({"path": self.path, **request})
        if self.server.refuses:
            status, message = self.server.refuses
            self._send(status, {"error": {"message": message, "code": status}})
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream; charset=utf-8")
        self.end_headers()
        try:
            self._stream(request)
        except OSError:
            self.server.left_alone.set()

    def _stream(self, request: dict[str, Any]) -> None:
        first = {"index": 0, "delta": {"role": "user", "content": ""}, "logprobs": None}
        reads = self.server.reads if self.server.reads is not None else self._reads(request)
        self._event({"choices": [first], "prompt_token_ids": reads})
        if self.server.fails:
            self._event({"error": self.server.fails})
            return
        for number, token in enumerate(self.server.says):
            if number == self.server.breaks_after:
                return
            time.sleep(self.server.pause)
            last = number == len(self.server.says) - 1
            choice: dict[str, Any] = {"index": 0, "delta": {"content": "not looked at"}, "token_ids": [token]}
            choice["finish_reason"] = self.server.reason if last else None
            if request["logprobs"]:
                choice["logprobs"] = {"content": [{"token": "", "logprob": -0.5 * number}]}
            self._event({"choices": [choice]})
        self.wfile.write(b"data: [DONE]\n\n")

    def _reads(self, request: dict[str, Any]) -> list[int]:
        """The tokens that a real server would read."""
        content = request["messages"][0]["content"]
        rows = len(tensor_of(content[0]["data"]))
        ids: list[int] = _text().tokenizer(content[1]["text"], add_special_tokens=False)["input_ids"]
        return [2048] * rows + ids

    def _event(self, event: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
        self.wfile.flush()

    def _send(self, status: int, body: dict[str, Any]) -> None:
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)


def tensor_of(data: str) -> torch.Tensor:
    tensor: torch.Tensor = torch.load(io.BytesIO(base64.b64decode(data)), weights_only=True)
    return tensor


@cache
def _text() -> VllmText:
    return VllmText(locate(LLAMA, Settings(base_models_dir=str(BASE_MODELS))), servers=None)  # type: ignore[arg-type]


@contextmanager
def running() -> Iterator[Fake]:
    """One that listens."""
    server = Fake()
    server.begin()
    try:
        yield server
    finally:
        server.end()
