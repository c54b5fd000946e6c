"""`serve`, and `health`: whether one is there."""

from __future__ import annotations

import argparse
from typing import Any

from caikit_pt.client import Security, ServerError
from caikit_pt.commands.connecting import security
from caikit_pt.commands.options import Commands
from caikit_pt.commands.outcome import DONE, FAILED, WrongCommand
from caikit_pt.errors import InvalidParameter


def add_to(commands: Commands) -> None:
    """Both."""
    commands.add("serve", _serve, "run the server, with the settings of CONFIG_FILES")
    health = commands.ask("health", _health, "whether the server is ready for work", server=None)
    health.add_argument("--live", action="store_true", help="whether it is there, be it ready or not")


def _serve(_: argparse.Namespace) -> int:
    from caikit_pt.runtime.launcher import serve

    serve()
    return DONE


def _health(options: argparse.Namespace) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    server, channel = _reached(options)
    with channel:
        try:
            asked = health_pb2.HealthCheckRequest(service="live" if options.live else "")
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
        except grpc.RpcError as error:
            raise ServerError("UNAVAILABLE", f"{server} doesn't answer ({error.code().name})") from error
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return DONE if answer.status == health_pb2.HealthCheckResponse.SERVING else FAILED


def _reached(options: argparse.Namespace) -> tuple[str, Any]:
    """The address of the server that is asked, and a channel to it. Raises WrongCommand."""
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
        return server, asked.channel(server, names)
    except InvalidParameter as error:
        raise WrongCommand(str(error)) from None
