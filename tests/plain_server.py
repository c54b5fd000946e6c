"""The rendered protos served by plain grpcio: `python -m tests.plain_server STUBS MODELS BASE_MODELS`.

STUBS holds what protoc makes of protos/, MODELS the tuned prompts. In a process of its own, in which
caikit can't be imported, so that only the rooms of the package answer. Prints its port.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import yaml

CAIKIT = ("caikit", "aconfig", "alog", "py_to_proto")


def serve(models: Path, base_models: Path) -> None:
    """Answers until the process is ended."""
    import caikit_data_model_caikit_nlp_pb2 as own  # type: ignore[import-not-found]
    import caikit_pt_pb2 as tuning  # type: ignore[import-not-found]
    import caikit_pt_pb2_grpc as tuning_grpc  # type: ignore[import-not-found]
    import caikit_runtime_Nlp_pb2_grpc as nlp_grpc  # type: ignore[import-not-found]

    from caikit_pt.base_model.language_model import LanguageModel
    from caikit_pt.base_model.loading.checkpoint import locate
    from caikit_pt.parameters.generation import GenerationParameters
    from caikit_pt.serving.backend import Backend
    from caikit_pt.serving.backends import backend_for, base_for
    from caikit_pt.serving.generation import Generation
    from caikit_pt.serving.labels import labels_of
    from caikit_pt.serving.request import Request, text_ids
    from caikit_pt.settings import Settings
    from caikit_pt.soft_prompt import artifact
    from caikit_pt.tuning.verbalizer import Verbalizer

    settings = Settings(base_models_dir=str(base_models), device="cpu")

    @cache
    def loaded(name: str) -> tuple[LanguageModel, Backend]:
        """A base model and its engine, which are freed when nobody holds them."""
        base = base_for(locate(name, settings), settings)
        return base, backend_for(base, settings)

    def submit(request: Any, context: grpc.ServicerContext) -> Generation:
        directory = models / str(dict(context.invocation_metadata())["mm-model-id"])
        tuned = artifact.read(yaml.safe_load((directory / "config.yml").read_text()), directory)
        base, engine = loaded(tuned.base_model_name)
        fields = {field.name: value for field, value in request.ListFields() if field.name != "text"}
        parameters = GenerationParameters.from_request(fields, None, {})
        ids = text_ids(
            base.text, Verbalizer(tuned.verbalizer, tuned.separator).render(request.text), parameters
        )
        front = request.text + tuned.separator.rstrip(" ") if parameters.preserve_input_text else ""
        labels = labels_of(tuned, base.text) if parameters.labels_only else None
        behind_space = tuned.separator.endswith(" ")
        return engine.submit(Request(base.text, tuned.prompt, ids, parameters, front, behind_space, labels))

    class Nlp(nlp_grpc.NlpServiceServicer):  # type: ignore[misc]
        def TextGenerationTaskPredict(self, request: Any, context: grpc.ServicerContext) -> Any:
            answered = submit(request, context).result()
            return own.LabelledTextResult(
                generated_text=answered.text, finish_reason=answered.finish_reason.name
            )

        def ServerStreamingTextGenerationTaskPredict(
            self, request: Any, context: grpc.ServicerContext
        ) -> Iterator[Any]:
            for step in submit(request, context).steps():
                yield own.LabelledTextStreamResult(generated_text=step.text)

    class Tuning(tuning_grpc.TuningServiceServicer):  # type: ignore[misc]
        def ListTrainings(self, request: Any, context: grpc.ServicerContext) -> Any:
            names = sorted(directory.name for directory in models.iterdir())
            trainings = [
                tuning.Training(training_id=name, model_name=name, state="COMPLETED") for name in names
            ]
            return tuning.ListTrainingsResponse(trainings=trainings)

    server = grpc.server(ThreadPoolExecutor(4))
    nlp_grpc.add_NlpServiceServicer_to_server(Nlp(), server)
    tuning_grpc.add_TuningServiceServicer_to_server(Tuning(), server)
    print(server.add_insecure_port("localhost:0"), flush=True)
    server.start()
    server.wait_for_termination()


def without_caikit() -> None:
    """Makes imports of caikit fail."""
    sys.modules.update(dict.fromkeys(CAIKIT))  # type: ignore[arg-type]


if __name__ == "__main__":
    stubs, models, base_models = map(Path, sys.argv[1:])
    without_caikit()
    sys.path.append(str(stubs))
    serve(models, base_models)
