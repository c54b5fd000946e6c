"""What gRPC does for a client on its own: over which servers it spreads, and what it asks again.

https://github.com/grpc/grpc-proto/blob/master/grpc/service_config/service_config.proto
"""

from __future__ import annotations

import json
from typing import Any

# In all, and as many as gRPC allows: some three seconds of a server that restarts, or another one at once.
_ATTEMPTS = 5
# The latter is what gRPC makes of a request that meets the message that its connection ends, and of one that
# comes when thousands haven't been looked at yet. One that its client cancels isn't asked again.
LOST = ("UNAVAILABLE", "CANCELLED")
# Each may be sent twice: it changes nothing, or the second one finds it done. A training has an id, and a
# stream is asked again only as long as nothing has come of it.
_SERVICES = (
    "caikit.runtime.Nlp.NlpService",
    "caikit.runtime.Nlp.NlpTrainingService",
    "caikit.runtime.training.TrainingManagement",
    "caikit_pt.TuningService",
)


def options(message_bytes: int) -> list[tuple[str, Any]]:
    """Of a channel, whose messages have up to `message_bytes`."""
    return [
        *((f"grpc.max_{way}_message_length", message_bytes) for way in ("send", "receive")),
        # A message is kept until it can't be asked again: training records, too.
        ("grpc.per_rpc_retry_buffer_size", message_bytes),
        ("grpc.enable_retries", 1),
        ("grpc.service_config", json.dumps(_service_config())),
    ]


def _service_config() -> dict[str, Any]:
    return {
        # An address may be that of several servers: ipv4:10.0.0.1:8085,10.0.0.2:8085, or a name with several.
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": service} for service in _SERVICES],
                "retryPolicy": {
                    "maxAttempts": _ATTEMPTS,
                    "initialBackoff": "0.2s",
                    "maxBackoff": "2s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": list(LOST),
                },
            }
        ],
    }
