"""`serve`, `web`, and `health`: whether a server is there."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from caikit_pt import settings
from caikit_pt.client import Security, ServerError
from caikit_pt.commands.connecting import add_security, security
from caikit_pt.commands.options import Commands, address
from caikit_pt.commands.outcome import DONE, FAILED, WrongCommand
from caikit_pt.errors import InvalidParameter


def add_to(commands: Commands) -> None:
    """All three."""
    commands.add("serve", _serve, "run the server, with the settings of CONFIG_FILES")
    web = commands.add(
        "web", _web, "run OpenAI's API and the studio page for a server, as `web` in CONFIG_FILES says"
    )
    web.add_argument("--server", type=address, metavar="HOST:PORT", help="the server; web.server by default")
    web.add_argument("--host", help="to listen on; web.host by default")
    web.add_argument("--port", type=int, help="to listen on; web.port by default")
    add_security(web, token=False)
    health = commands.ask("health", _health, "whether the server is ready for work", server=None)
    health.add_argument("--live", action="store_true", help="whether it is there, be it ready or not")


def _serve(_: argparse.Namespace) -> int:
    from caikit_pt.runtime.launcher import serve

    serve()
    return DONE


def _web(options: argparse.Namespace) -> int:
    try:
        from caikit_pt.web.serving import serve
    except ImportError as error:
        raise WrongCommand(f"the page needs pip install 'caikit-pt[web]' ({error})") from None

    now = settings.current()
    given = {name: getattr(options, name) for name in ("server", "host", "port")}
    told = {name: value for name, value in given.items() if value is not None}
    try:
        serve(replace(now.web, **told), security(options), now.allow_insecure)
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
    return DONE


def _health(options: argparse.Namespace) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    found = []
    for server, channel in _reached(options):
        with channel:
            try:
                asked = health_pb2.HealthCheckRequest(service="live" if options.live else "")
                answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
            except grpc.RpcError as error:
                raise ServerError("UNAVAILABLE", f"{server} doesn't answer ({error.code().name})") from error
        found.append(answer.status)
        print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return DONE if set(found) == {health_pb2.HealthCheckResponse.SERVING} else FAILED


def _reached(options: argparse.Namespace) -> Iterator[tuple[str, Any]]:
    """The address of each server that is asked, and a channel to it. Raises WrongCommand."""
    asked, server = security(options), options.server
    names: list[tuple[str, object]] = []
    if server is None:
        from caikit_pt.runtime.own_server import own_server

        try:
            own = own_server()
        except (InvalidParameter, OSError, ValueError) as error:
            raise WrongCommand(f"the settings of this machine's server can't be used: {error}") from None
        server = own.address
        if own.certificate and asked == Security():
            names = [("grpc.ssl_target_name_override", own.name)] if own.name else []
            certificate = own.certificate if own.key else None
            asked = Security(ca=own.certificate, cert=certificate, key=own.key)
    try:
        for one in server.split(","):
            yield one, asked.channel(one, names)
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
