"""The application on a port of its own, in a thread of this process."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import uvicorn

from caikit_pt.client.security import Security
from caikit_pt.settings import Web
from caikit_pt.web.app import Door, app
from caikit_pt.web.serving import routes
from examples.local_server import free_port


@contextmanager
def site(server: str, asks_who: bool = False, **settings: Any) -> Iterator[str]:
    """The address of the application, of which `server` is behind; `settings` are those of `web`."""
    port = free_port()
    now = replace(Web(server=server, port=port), **settings)
    config = uvicorn.Config(
        app(Door(now, Security(), asks_who), routes()),
        host="localhost",
        port=port,
        lifespan="on",
        log_level="warning",
        timeout_graceful_shutdown=1,
    )
    running = uvicorn.Server(config)
    thread = threading.Thread(target=running.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not running.started:
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.02)
    try:
        yield f"http://localhost:{port}"
    finally:
        running.should_exit = True
        thread.join(20)
