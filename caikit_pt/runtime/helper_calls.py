"""How helpers of a training find who leads it from other machines: where they call is in a file of its run.

Each shows the other that it has read that file (HMAC of what the other has drawn), and is believed then.
What is told isn't encrypted, like what gloo sends.
"""

from __future__ import annotations

import hashlib
import hmac
import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil

from caikit_pt.runtime.json_file import read_json, write_json

_LOG = logging.getLogger(__name__)
_SECONDS_TO_GREET, _SECONDS_TO_CONNECT, _SECONDS_TO_REST = 5.0, 3.0, 1.0
# Without power, or cut off, a machine says nothing: who is silent for so long is gone.
_SECONDS_TO_A_PROBE, _PROBES = 10, 3
_LONGEST_LINE, _MOST_AT_ONCE = 200, 32
_HELPS, _LEADS = b"helps", b"leads"
_V4_AS_V6 = "::ffff:"


class Refused(OSError):
    """Who is there isn't whom the file speaks of."""


class Line:
    """Between who leads and a helper, who have greeted each other. `host`: this end's address."""

    def __init__(self, connection: socket.socket) -> None:
        self.host = str(connection.getsockname()[0]).removeprefix(_V4_AS_V6)
        self._connection = connection
        self.reads: IO[str] = connection.makefile("r", encoding="utf-8")
        self.writes: IO[str] = connection.makefile("w", encoding="utf-8")

    def close(self) -> None:
        """Neither end reads any more; whoever does closes `reads`."""
        with suppress(OSError):
            self._connection.shutdown(socket.SHUT_RDWR)
        self._connection.close()
        with suppress(OSError):
            self.writes.close()


class HelperCalls:
    """Of who leads: `answered` has the line of each helper that calls, in a thread of its own. Where, is in
    `file`."""

    def __init__(self, file: Path, answered: Callable[[Line], None]) -> None:
        """Raises OSError."""
        self._token, self._answered = secrets.token_bytes(32), answered
        self._is_closed, self._greeted = threading.Event(), threading.Semaphore(_MOST_AT_ONCE)
        dual = socket.has_dualstack_ipv6()
        family = socket.AF_INET6 if dual else socket.AF_INET
        self._socket = socket.create_server(("", 0), family=family, dualstack_ipv6=dual)
        port = self._socket.getsockname()[1]
        write_json(file, {"hosts": list(_own_hosts()), "port": port, "token": self._token.hex()})
        threading.Thread(target=self._answer, name="calls", daemon=True).start()

    def close(self) -> None:
        """Nobody is answered any more."""
        self._is_closed.set()
        # Whoever is in accept() would stay there.
        with suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()

    def _answer(self) -> None:
        while not self._is_closed.is_set():
            try:
                connection, (address, *_) = self._socket.accept()
            except OSError:
                # As where all file descriptors are taken.
                self._is_closed.wait(_SECONDS_TO_REST)
                continue
            # One that says nothing holds up no other.
            self._greeted.acquire()
            greets = threading.Thread(target=self._welcome, args=(connection, address), daemon=True)
            greets.start()

    def _welcome(self, connection: socket.socket, address: str) -> None:
        try:
            _greet(connection, self._token, _LEADS, _HELPS)
            self._answered(Line(connection))
        except OSError as error:
            _LOG.warning("a call from %s isn't a helper's: %s", address, error)
            connection.close()
        finally:
            self._greeted.release()


def call(file: Path) -> Line:
    """Who leads, as `file` says. Raises OSError where it can't be reached, ValueError for a file that isn't
    whole yet."""
    told = read_json(file)
    token, failed = bytes.fromhex(told["token"]), OSError("it tells of no address")
    for host in told["hosts"]:
        try:
            connection = socket.create_connection((host, told["port"]), timeout=_SECONDS_TO_CONNECT)
        except OSError as error:
            failed = error
            continue
        try:
            _greet(connection, token, _HELPS, _LEADS)
            return Line(connection)
        except OSError as error:
            # As where the address is that of another machine for this one.
            failed = error
            connection.close()
    raise failed


def _greet(connection: socket.socket, token: bytes, own: bytes, other: bytes) -> None:
    """Each draws a number, and the other shows that it has the token. Raises OSError."""
    deadline = time.monotonic() + _SECONDS_TO_GREET
    drawn = secrets.token_hex(32)
    connection.sendall(drawn.encode() + b"\n")
    connection.sendall(_proof(token, own, _line(connection, deadline)) + b"\n")
    if not hmac.compare_digest(_line(connection, deadline), _proof(token, other, drawn.encode())):
        raise Refused("it doesn't have the token")
    connection.settimeout(None)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", _SECONDS_TO_A_PROBE),
        ("TCP_KEEPINTVL", _SECONDS_TO_A_PROBE),
        ("TCP_KEEPCNT", _PROBES),
        ("TCP_USER_TIMEOUT", 1000 * _SECONDS_TO_A_PROBE * (_PROBES + 1)),
        ("TCP_NODELAY", 1),
    ):
        if option := getattr(socket, name, None):
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _proof(token: bytes, whose: bytes, drawn: bytes) -> bytes:
    return hmac.new(token, whose + b" " + drawn, hashlib.sha256).hexdigest().encode()


def _line(connection: socket.socket, deadline: float) -> bytes:
    """Byte by byte: what comes behind it is for others to read."""
    line = b""
    while True:
        connection.settimeout(max(0.001, deadline - time.monotonic()))
        byte = connection.recv(1)
        if byte == b"\n":
            return line
        line += byte
        if not byte or len(line) > _LONGEST_LINE:
            raise Refused("it says something else")


def _own_hosts() -> Iterator[str]:
    """All addresses of this machine; first that by which it reaches others, and last those that only itself
    can reach."""
    others = list[str]()
    for host, far in (("192.0.2.1", socket.AF_INET), ("2001:db8::1", socket.AF_INET6)):
        # Nothing is sent: the kernel says by which address it would be (RFC 5737, RFC 3849).
        with suppress(OSError), socket.socket(far, socket.SOCK_DGRAM) as probe:
            probe.connect((host, 9))
            others.append(str(probe.getsockname()[0]))
    found = [
        one.address
        for addresses in psutil.net_if_addrs().values()
        for one in addresses
        if one.family in (socket.AF_INET, socket.AF_INET6) and "%" not in one.address
    ]
    last = [one for one in found if one.startswith("127.") or one == "::1"]
    yield from dict.fromkeys([*others, *(one for one in found if one not in last), *last])
