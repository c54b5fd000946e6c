"""A connection to a server: its RPCs by name, whose errors are ServerErrors."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from caikit_pt.client.message import plain
from caikit_pt.client.request import MESSAGE_BYTES
from caikit_pt.client.retries import Tries, options, options_of_several
from caikit_pt.client.security import Security
from caikit_pt.client.server_error import ServerError, server_error
from caikit_pt.client.servers import Server, addresses
from caikit_pt.replicas import Replicas

if TYPE_CHECKING:
    import grpc

_PRINTABLE = re.compile(r"[ -~]+")


class Connection:
    """Whatever asks the server asks here."""

    def __init__(
        self,
        address: str | Sequence[str],
        channel: grpc.Channel | None,
        security: Security | None = None,
    ) -> None:
        """A `channel` of one's own is closed with the connection. Raises InvalidParameter."""
        security = security or Security()
        servers = addresses(address) if channel is None else []
        self._channel = channel or _channel(servers, security)
        # A channel of one's own does as it likes, and one to several servers has its own tries.
        self._tries_again = len(servers) == 1
        self._who = security.metadata

    def close(self) -> None:
        """Lets go of it."""
        self._channel.close()

    @cached_property
    def stubs(self) -> Stubs:
        """Made when they are first needed."""
        return Stubs(self._channel)

    def answer(self, rpc: Any, request: Any, model_name: str = "") -> Any:
        """The answer to `request`. Raises ServerError."""
        import grpc

        try:
            return rpc(request, metadata=self._metadata(model_name))
        except grpc.RpcError as error:
            raise server_error(error) from error

    def stream(self, rpc: Any, request: Any, model_name: str = "") -> Iterator[Any]:
        """The answers to `request`, as they come; asked for again only as long as none has come. Raises
        ServerError."""
        import grpc

        tries = Tries(self._tries_again)
        while True:
            call, begun = rpc(request, metadata=self._metadata(model_name)), False
            try:
                for part in call:
                    begun = True
                    yield part
                return
            except grpc.RpcError as error:
                pause = tries.pause_after(server_error(error), begun)
            finally:
                call.cancel()
            time.sleep(pause)

    def call(self, rpc: Any, request: Any, model_name: str = "") -> Call:
        """The answer to `request` is under way."""
        return Call(rpc.future(request, metadata=self._metadata(model_name)))

    def _metadata(self, model_name: str) -> list[tuple[str, str]]:
        # What no metadata can hold is no model's name, as the server says.
        return [*self._who, *([("mm-model-id", model_name)] if _PRINTABLE.fullmatch(model_name) else [])]


def _channel(addresses: Sequence[str], security: Security) -> Any:
    for address in addresses:
        security.check(address)
    if len(addresses) == 1:
        return security.channel(addresses[0], options(MESSAGE_BYTES))
    from caikit_pt.client.replicated_channel import ReplicatedChannel

    several = options_of_several(MESSAGE_BYTES)
    return ReplicatedChannel(Replicas([Server(one, security.channel(one, several)) for one in addresses]))


class Call:
    """A request under way, whose errors are ServerErrors."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self.add_done_callback, self.cancel = call.add_done_callback, call.cancel

    def result(self) -> dict[str, Any]:
        """The answer as plain values. Raises ServerError."""
        import grpc

        try:
            return plain(self._call.result())
        except grpc.FutureCancelledError as error:
            raise ServerError("CANCELLED", "The request was cancelled") from error
        except grpc.RpcError as error:
            raise server_error(error) from error


class Stubs:
    """caikit makes messages and stubs of the installed module; it takes a second or two."""

    def __init__(self, channel: Any) -> None:
        from caikit.runtime.service_factory import ServicePackageFactory as Factory

        import caikit_pt  # noqa: F401
        from caikit_pt.runtime.tuning_rpcs import service

        kinds = Factory.ServiceType
        training, inference = (
            Factory.get_service_package(kind) for kind in (kinds.TRAINING, kinds.INFERENCE)
        )
        self.training_messages, self.messages = training.messages, inference.messages
        self.train = training.stub_class(channel).TextGenerationTaskPeftPromptTuningTrain
        asked = inference.stub_class(channel)
        self.predict = asked.TextGenerationTaskPredict
        self.answer = inference.descriptor.methods_by_name["TextGenerationTaskPredict"].output_type
        self.stream = asked.ServerStreamingTextGenerationTaskPredict
        self.management = Factory.get_service_package(kinds.TRAINING_MANAGEMENT).stub_class(channel)
        self.tuning = service().client_stub_class(channel)
