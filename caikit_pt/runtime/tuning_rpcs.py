"""The RPCs of caikit_pt.TuningService, for its server and its clients."""

from __future__ import annotations

from functools import cache
from typing import Any

from caikit_pt.runtime.tuning_messages import PACKAGE

NAME = "TuningService"


@cache
def service() -> Any:
    """What json_to_service makes of it: registration_function, client_stub_class, descriptor ..."""
    from caikit.runtime.service_factory import ServicePackageFactory
    from py_to_proto.json_to_service import json_to_service

    training = ServicePackageFactory.get_service_package(ServicePackageFactory.ServiceType.TRAINING)
    (train,) = training.descriptor.methods
    rpcs = [
        {
            "name": "WatchTraining",
            "input_type": f"{PACKAGE}.WatchTrainingRequest",
            "output_type": f"{PACKAGE}.TrainingEvent",
            "server_streaming": True,
        },
        {
            "name": "ListTrainings",
            "input_type": f"{PACKAGE}.ListTrainingsRequest",
            "output_type": f"{PACKAGE}.ListTrainingsResponse",
        },
        {
            "name": "GetTraining",
            "input_type": f"{PACKAGE}.GetTrainingRequest",
            "output_type": f"{PACKAGE}.Training",
        },
        {
            # The request of the train RPC, which isn't carried out.
            "name": "CheckTraining",
            "input_type": train.input_type.full_name,
            "output_type": f"{PACKAGE}.TrainingCheck",
        },
        {
            "name": "ListSources",
            "input_type": f"{PACKAGE}.ListSourcesRequest",
            "output_type": f"{PACKAGE}.ListSourcesResponse",
        },
        {
            "name": "GetSource",
            "input_type": f"{PACKAGE}.GetSourceRequest",
            "output_type": f"{PACKAGE}.Source",
        },
        {
            "name": "Evaluate",
            "input_type": f"{PACKAGE}.EvaluateRequest",
            "output_type": f"{PACKAGE}.EvaluationEvent",
            "server_streaming": True,
        },
        {
            # What is answered is what the train RPC answers.
            "name": "TrainSource",
            "input_type": f"{PACKAGE}.TrainSourceRequest",
            "output_type": train.output_type.full_name,
        },
    ]
    return json_to_service(name=NAME, package=PACKAGE, json_service_def={"service": {"rpcs": rpcs}})
