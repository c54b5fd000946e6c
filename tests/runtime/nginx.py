"""nginx with the configuration of deploy/, where it is installed."""

from __future__ import annotations

import re
import shutil
import socket
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

from examples.local_server import ROOT, free_port
from tests.runtime.servers import wait_for

NGINX = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
CONFIG = ROOT / "deploy" / "nginx" / "caikit_pt.conf"


def config_of(port: int, servers: Sequence[int]) -> str:
    """The configuration, whose addresses are those of tests."""
    text, listens = re.subn(r"listen 8085 http2;", f"listen 127.0.0.1:{port} http2;", CONFIG.read_text())
    lines = re.findall(r"^ *server caikit-pt-\d+:8085 .*\n", text, re.MULTILINE)
    assert (listens, len(lines)) == (1, 2)
    text = text.replace(lines[1], "")
    own = (re.sub(r"caikit-pt-\d+:8085", f"127.0.0.1:{server}", lines[0]) for server in servers)
    return text.replace(lines[0], "".join(own))


@contextmanager
def nginx(directory: Path, servers: Sequence[int]) -> Iterator[int]:
    """nginx in front of the servers at these ports; its own port."""
    port = free_port()
    places = "".join(
        f"{kind}_temp_path {directory}/{kind};\n"
        for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    config = directory / "nginx.conf"
    config.write_text(
        f"daemon off;\nworker_processes 1;\npid {directory}/nginx.pid;\nerror_log {directory}/nginx.log;\n"
        f"events {{ worker_connections 4096; }}\n"
        f"http {{\naccess_log off;\n{places}{config_of(port, servers)}\n}}\n"
    )
    assert NGINX is not None
    process = subprocess.Popen([NGINX, "-e", f"{directory}/nginx.log", "-c", str(config)])
    try:
        wait_for(lambda: _listens(port, process), 10)
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _listens(port: int, process: subprocess.Popen[bytes]) -> bool:
    assert process.poll() is None, "nginx has ended"
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=5):
        return True
    return False
