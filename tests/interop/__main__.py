"""Clients of caikit-nlp work against this server: proves it, and exits with 1 where they don't.

    python -m tests.interop

Makes the peer's environment, renders its protos, has a client generated from them work against a
server of ours, and compares them with protos/ and with what that server says of itself. See
README.md.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from safetensors.numpy import save_file

from examples.local_server import ROOT, server

from . import environment, protos
from .comparison import compare

if TYPE_CHECKING:
    from collections.abc import Callable

    from .comparison import Comparison

Result = TypeVar("Result")

CAUSAL, SEQ2SEQ = "tiny-llama", "tiny-t5"
BASE_MODELS = ROOT / "examples" / "base_models"
TRAINING_FILE, SOURCE_PROMPT = "records.jsonl", "average"
# Messages of caikit's that have more fields here; caikit takes no second message of the same name.
EXTENDED = {
    f"caikit_data_model.nlp.Generated{name}": f"caikit_data_model.caikit_nlp.Labelled{name}"
    for name in ("TextResult", "TextStreamResult")
}
# Tasks of caikit-nlp other than prompt tuning; nothing of ours stands in their place.
LEFT_OUT = (
    "*/BidiStreamingTokenClassificationTask*",
    "*/Embedding*",
    "*/Rerank*",
    "*/SentenceSimilarity*",
    "*/TextClassificationTask*",
    "*/TokenClassificationTask*",
    "*/TextGenerationTaskTextGenerationTrain",
)


class Run:
    """One run of everything; `work` is removed afterwards."""

    def __init__(self, directory: Path, work: Path) -> None:
        self.work = work
        self.peer = _timed("environment of the peer", lambda: environment.prepare(directory))
        self.log = work / "models.log"
        self.wanted = FileDescriptorSet()
        self.passed = False
        self.width = int(json.loads((BASE_MODELS / CAUSAL / "config.json").read_text())["hidden_size"])

    def everything(self) -> bool:
        """True where nothing differs and every step of the client went well."""
        self.versions()
        self.render()
        good = [self.compare_published(), self.work_as_client(), self.compare_reflected()]
        self.passed = all(good)
        return self.passed

    def show_log(self) -> None:
        """The end of the server's log, unless everything went well."""
        if not self.passed and self.log.is_file():
            print("The end of the server's log:")
            print(self.log.read_text(errors="replace")[-4000:])

    def versions(self) -> None:
        found = self.peer.versions("caikit-nlp", "caikit", "transformers", "torch", "protobuf")
        print("  " + ", ".join(f"{name} {version}" for name, version in found.items()))

    def render(self) -> None:
        """The peer's protos, and the client generated from them."""
        rendered = self.work / "peer"
        _timed("protos of caikit-nlp", lambda: protos.render(self.peer, environment.PEER, rendered))
        self.wanted = protos.descriptors(self.peer, rendered, self.work / "peer.binpb")
        protos.generate_stubs(self.peer, rendered, self.work / "stubs")

    def compare_published(self) -> bool:
        """The .proto files that this project hands out."""
        published = protos.descriptors(self.peer, ROOT / "protos", self.work / "ours.binpb")
        return _report("protos/", compare(self.wanted, published, LEFT_OUT, EXTENDED))

    def compare_reflected(self) -> bool:
        """What the running server says about itself."""
        file = self.work / "reflected.binpb"
        if not file.is_file():
            print("nothing was reflected")
            return False
        reflected = FileDescriptorSet.FromString(file.read_bytes())
        return _report("the running server", compare(self.wanted, reflected, LEFT_OUT, EXTENDED))

    def work_as_client(self) -> bool:
        """Starts our server and the peer's client. True where every step went well."""
        models = self.log.with_suffix("")
        models.mkdir()
        with server(models, self._settings()) as port:
            print("A client of caikit-nlp at work:")
            done = subprocess.run(
                [
                    *(self.peer.python, "-I", Path(__file__).with_name("client.py")),
                    *("--stubs", self.work / "stubs", "--address", f"localhost:{port}"),
                    *("--causal", CAUSAL, "--seq2seq", SEQ2SEQ, "--width", str(self.width)),
                    *("--file", TRAINING_FILE, "--source", SOURCE_PROMPT),
                    *("--reflected", self.work / "reflected.binpb"),
                ],
                cwd=self.work,
                env=environment.peer_variables(),
                check=False,
            )
        return done.returncode == 0

    def _settings(self) -> dict[str, str]:
        """What the server reads for us is in `work`."""
        data, sources = self.work / "data", self.work / "sources"
        data.mkdir()
        sources.mkdir()
        _write_training_file(data / TRAINING_FILE)
        _write_source_prompt(sources / f"{SOURCE_PROMPT}.safetensors", self.width)
        return {
            "DATA_STREAMS_FILE_SOURCE_BASE": str(data),
            "SOURCE_PROMPT_BASE": str(sources),
            # The peer has them always.
            "MODEL_MANAGEMENT_RPCS": "true",
            "RUNTIME_SERVICE_GENERATION_ENABLE_INFERENCE_JOBS": "true",
        }


def _write_training_file(file: Path) -> None:
    records = [{"input": f"number {index}", "output": ["odd", "even"][index % 2]} for index in range(8)]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))


def _write_source_prompt(file: Path, width: int) -> None:
    """A shared prompt and two tasks for models of `width`, named and shaped as peft does."""
    random = np.random.default_rng(0)
    shapes = {
        "prompt_embeddings": (8, width),
        "prefix_task_cols": (2, 8, 1),
        "prefix_task_rows": (2, 1, width),
    }
    tensors = {name: random.normal(0, 0.5, shape) for name, shape in shapes.items()}
    save_file({name: tensor.astype(np.float32) for name, tensor in tensors.items()}, file)


def _report(title: str, found: Comparison) -> bool:
    """Prints a comparison; true where there is no difference."""
    print(
        f"caikit-nlp and {title}: {found.methods} methods, {found.messages} messages, "
        f"{found.fields} fields, {found.enums} enums compared; "
        f"{len(found.differences)} differences, {len(found.left_out)} methods left out"
    )
    for addition in found.additions:
        print(f"  ours adds   {addition}")
    for difference in found.differences:
        print(f"  DIFFERENT   {difference}")
    return not found.differences


def _timed(title: str, step: Callable[[], Result]) -> Result:
    started = time.monotonic()
    result = step()
    _say(title, started)
    return result


def _say(title: str, started: float) -> None:
    print(f"{title}: {time.monotonic() - started:.1f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument(
        "--environment",
        type=Path,
        default=ROOT / ".venv-interop",
        help="where the peer's goes; an absolute path",
    )
    directory = parser.parse_args().environment.resolve()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="interop-") as work:
        run = Run(directory, Path(work))
        try:
            good = run.everything()
        finally:
            run.show_log()
    _say("interop " + ("passed" if good else "FAILED"), started)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(main())
