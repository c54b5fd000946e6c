"""What gRPC does for a client on its own: over which servers it spreads, and which answers it asks for again.
Streams are asked for again by whoever reads them.

https://github.com/grpc/grpc-proto/blob/master/grpc/service_config/service_config.proto
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

from caikit_pt.client.server_error import ServerError

# In all, and as many as gRPC allows: some three seconds of a server that restarts, or another one at once.
_ATTEMPTS = 5
_FIRST_PAUSE, _LONGEST_PAUSE = 0.2, 2.0  # seconds; each is twice the one before
# The same, of streams, and where several servers are asked in turns.
PAUSES = tuple(min(_FIRST_PAUSE * 2**attempt, _LONGEST_PAUSE) for attempt in range(_ATTEMPTS - 1))
# For a connection to come about where another server can be asked instead; and after which it is tried again.
_CONNECT_MS, _FIRST_CONNECT_MS = 5000, 500
# The latter is what gRPC makes of a request that meets the message that its connection ends, and of one that
# comes when thousands haven't been looked at yet. One that its client cancels isn't asked again.
LOST = ("UNAVAILABLE", "CANCELLED")
# Each may be sent twice: it changes nothing, or the second one finds it done. A training has an id.
_SERVICES = (
    "caikit.runtime.Nlp.NlpService",
    "caikit.runtime.Nlp.NlpTrainingService",
    "caikit.runtime.training.TrainingManagement",
    "caikit_pt.TuningService",
)
# With a policy of their own, which is none: where gRPC's core (1.85.1) may ask again for one of these, it
# doesn't tell at times that a server has ended it, and whoever reads it waits for ever (docs/log.md).
_STREAMS = (
    ("caikit.runtime.Nlp.NlpService", "ServerStreamingTextGenerationTaskPredict"),
    *(("caikit_pt.TuningService", name) for name in ("WatchTraining", "Evaluate", "DownloadPrompt")),
)


def pauses() -> Iterator[float]:
    """Seconds to wait between the tries of one request, not quite the same for all."""
    return (pause * random.uniform(0.8, 1.2) for pause in PAUSES)


class Tries:
    """Of one stream, as long as nothing has come of it: `again`, or once."""

    def __init__(self, again: bool = True) -> None:
        self._pauses = pauses() if again else iter(())
        self._told: ServerError | None = None

    def pause_after(self, error: ServerError, begun: bool) -> float:
        """Seconds until it is asked for again. Raises ServerError where it isn't: `error`, but of a server
        that has said why, and is gone then, what it has said."""
        is_lost = error.status in LOST
        pause = next(self._pauses, None) if is_lost and not begun else None
        if pause is None:
            raise self._told if self._told and is_lost and not error.reason else error
        self._told = error if error.reason else self._told
        return pause


def options(message_bytes: int) -> list[tuple[str, Any]]:
    """Of a channel, whose messages have up to `message_bytes`."""
    return [
        *_of_messages(message_bytes),
        # A message is kept until it can't be asked again: training records, too.
        ("grpc.per_rpc_retry_buffer_size", message_bytes),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps({**_SPREAD, **_RETRIED})),
    ]


def options_of_several(message_bytes: int) -> list[tuple[str, Any]]:
    """Of a channel to one of several servers: another one is asked where it doesn't answer."""
    return [
        *_of_messages(message_bytes),
        ("grpc.enable_retries", 0),
        ("grpc.service_config", json.dumps(_SPREAD)),
        ("grpc.min_reconnect_backoff_ms", _CONNECT_MS),
        ("grpc.initial_reconnect_backoff_ms", _FIRST_CONNECT_MS),
        ("grpc.max_reconnect_backoff_ms", _CONNECT_MS),
    ]


def _of_messages(message_bytes: int) -> list[tuple[str, Any]]:
    return [(f"grpc.max_{way}_message_length", message_bytes) for way in ("send", "receive")]


# An address may be that of several servers: ipv4:10.0.0.1:8085,10.0.0.2:8085, or a name with several.
_SPREAD: dict[str, Any] = {"loadBalancingConfig": [{"round_robin": {}}]}
_RETRIED: dict[str, Any] = {
    "methodConfig": [
        {
            "name": [{"service": service} for service in _SERVICES],
            "retryPolicy": {
                "maxAttempts": _ATTEMPTS,
                "initialBackoff": f"{_FIRST_PAUSE}s",
                "maxBackoff": f"{_LONGEST_PAUSE:g}s",
                "backoffMultiplier": 2,
                "retryableStatusCodes": list(LOST),
            },
        },
        {"name": [{"service": service, "method": method} for service, method in _STREAMS]},
    ],
}
