"""A client of a server of caikit_pt: tune, watch, ask.

from caikit_pt.client import TuningClient

with TuningClient("localhost:8085") as client:
    id = client.tune("mood", base_model="tiny-t5", records=[{"input": "...", "output": "..."}, ...])
    for event in client.watch(id):
        print(event)
    print(client.generate("mood", "The lamp is a delight!"))
"""

from caikit_pt.client.prompt import Prompt
from caikit_pt.client.request import GivenRecords, request_of
from caikit_pt.client.security import Security
from caikit_pt.client.server_error import ServerError
from caikit_pt.client.source import Source
from caikit_pt.client.tuning_client import DEFAULT_ADDRESS, TuningClient
from caikit_pt.training import (
    CANCELED,
    COMPLETED,
    ENDED,
    ERRORED,
    PAUSED,
    QUEUED,
    RUNNING,
    Event,
    Progress,
    Training,
)

__all__ = [
    "CANCELED",
    "COMPLETED",
    "DEFAULT_ADDRESS",
    "ENDED",
    "ERRORED",
    "PAUSED",
    "QUEUED",
    "RUNNING",
    "Event",
    "GivenRecords",
    "Progress",
    "Prompt",
    "Security",
    "ServerError",
    "Source",
    "Training",
    "TuningClient",
    "request_of",
]
