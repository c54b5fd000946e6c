"""`serve`, and `health`: whether one is there."""

from __future__ import annotations

import argparse

from caikit_pt.client import ServerError
from caikit_pt.commands.options import Commands
from caikit_pt.commands.outcome import DONE, FAILED


def add_to(commands: Commands) -> None:
    """Both."""
    commands.add("serve", _serve, "run the server, with the settings of CONFIG_FILES")
    health = commands.ask("health", _health, "whether the server is ready for work")
    health.add_argument("--live", action="store_true", help="whether it is there, be it ready or not")


def _serve(_: argparse.Namespace) -> int:
    from caikit_pt.runtime.launcher import serve

    serve()
    return DONE


def _health(options: argparse.Namespace) -> int:
    import grpc
    from grpc_health.v1 import health_pb2, health_pb2_grpc

    with grpc.insecure_channel(options.server) as channel:
        try:
            asked = health_pb2.HealthCheckRequest(service="live" if options.live else "")
            answer = health_pb2_grpc.HealthStub(channel).Check(asked, timeout=5)
        except grpc.RpcError as error:
            raise ServerError(
                "UNAVAILABLE", f"{options.server} doesn't answer ({error.code().name})"
            ) from error
    print(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
    return DONE if answer.status == health_pb2.HealthCheckResponse.SERVING else FAILED
