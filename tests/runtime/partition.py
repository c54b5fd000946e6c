"""What stands between a server and its database, and can be cut."""

from __future__ import annotations

import socket
import threading
from contextlib import suppress


class Partition:
    """Passes on what comes to `port`, until it is cut: then nothing comes through, and nobody is told."""

    def __init__(self, to: int) -> None:
        self._to, self._open = to, threading.Event()
        self._open.set()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        """Nothing comes through any more."""
        self._open.clear()

    def heal(self) -> None:
        """Everything comes through again, what was under way too."""
        self._open.set()

    def close(self) -> None:
        """Nobody is listened to any more."""
        self._open.set()
        self._listener.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                one, _ = self._listener.accept()
                threading.Thread(target=self._connect, args=(one,), daemon=True).start()

    def _connect(self, one: socket.socket) -> None:
        with one, suppress(OSError), socket.create_connection(("127.0.0.1", self._to)) as other:
            back = threading.Thread(target=self._pass_on, args=(other, one), daemon=True)
            back.start()
            self._pass_on(one, other)
            back.join()

    def _pass_on(self, one: socket.socket, other: socket.socket) -> None:
        with suppress(OSError):
            while data := one.recv(65536):
                self._open.wait()
                other.sendall(data)
        self._open.wait()
        for end in (one, other):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
