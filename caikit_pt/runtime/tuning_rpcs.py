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
        _rpc("WatchTraining", "WatchTrainingRequest", "TrainingEvent", streams=True),
        _rpc("ListTrainings", "ListTrainingsRequest", "ListTrainingsResponse"),
        _rpc("GetTraining", "GetTrainingRequest", "Training"),
        # The request of the train RPC, which isn't carried out.
        {**_rpc("CheckTraining", "", "TrainingCheck"), "input_type": train.input_type.full_name},
        _rpc("ListSources", "ListSourcesRequest", "ListSourcesResponse"),
        _rpc("GetSource", "GetSourceRequest", "Source"),
        _rpc("Evaluate", "EvaluateRequest", "EvaluationEvent", streams=True),
        # What is answered is what the train RPC answers.
        {**_rpc("TrainSource", "TrainSourceRequest", ""), "output_type": train.output_type.full_name},
        _rpc("PauseTraining", "PauseTrainingRequest", "Training"),
        _rpc("ResumeTraining", "ResumeTrainingRequest", "Training"),
        _rpc("ListPrompts", "ListPromptsRequest", "ListPromptsResponse"),
        _rpc("GetPrompt", "GetPromptRequest", "Prompt"),
        _rpc("DownloadPrompt", "DownloadPromptRequest", "Chunk", streams=True),
        _rpc("Tokenize", "TokenizeRequest", "TokenizeResponse"),
        _rpc("Detokenize", "DetokenizeRequest", "DetokenizeResponse"),
        _rpc("Describe", "DescribeRequest", "Description"),
        _rpc("RemovePrompt", "RemovePromptRequest", "RemovePromptResponse"),
        _rpc("ListNodes", "ListNodesRequest", "ListNodesResponse"),
        # The same request as TrainSource, which isn't carried out.
        _rpc("CheckSourceTraining", "TrainSourceRequest", "TrainingCheck"),
    ]
    return json_to_service(name=NAME, package=PACKAGE, json_service_def={"service": {"rpcs": rpcs}})


def _rpc(name: str, request: str, answer: str, streams: bool = False) -> dict[str, Any]:
    """One of messages of this package; it `streams` its answers."""
    types = {"input_type": f"{PACKAGE}.{request}", "output_type": f"{PACKAGE}.{answer}"}
    return {"name": name, **types, **({"server_streaming": True} if streams else {})}
