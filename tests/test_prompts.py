"""`caikit-pt prompts` and what TuningService says of tuned prompts: lists, facts, files and tokens; and what
can be asked besides a text."""

from __future__ import annotations

import json
import shutil
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from caikit_pt import call
from caikit_pt.base_model.model import BaseModel
from caikit_pt.cli import main
from caikit_pt.client import ServerError, TuningClient
from caikit_pt.data_model import GenerationTrainRecord, TuningConfig
from caikit_pt.module import PeftPromptTuning
from caikit_pt.parameters.generation import GENERATION_PARAMETERS
from caikit_pt.parameters.tuning import TUNING_PARAMETERS
from caikit_pt.paths import read_file
from caikit_pt.runtime import prompts
from caikit_pt.runtime import tuning_messages as messages
from tests.conftest import LLAMA, T5
from tests.runtime.servers import RECORDS, Server

TEXT = "The kettle is great"
NOT_THERE = "none"


def publish(base: BaseModel, where: Path, separator: str) -> None:
    made = PeftPromptTuning.train(
        base_model=base,  # type: ignore[arg-type]
        train_stream=[GenerationTrainRecord(**record) for record in RECORDS],
        tuning_config=TuningConfig(num_virtual_tokens=4),
        num_epochs=1,
        separator=separator,
        silence_progress_bars=True,
    )
    made.save(str(where))


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory, llama: BaseModel, t5: BaseModel) -> Path:
    """What is published, two good ones among it."""
    models = tmp_path_factory.mktemp("served") / "models"
    publish(llama, models / "mood", "\n")
    publish(t5, models / "other", "")
    for name in ("damaged", "homeless", "no plain name"):
        shutil.copytree(models / "mood", models / name)
    config = models / "homeless" / "config.yml"
    config.write_text(config.read_text().replace(f"base_model_name: {LLAMA}", "base_model_name: gone"))
    (models / "damaged" / "config.yml").write_text("{")
    (models / "of-another").mkdir()
    (models / "of-another" / "config.yml").write_text("module_id: 00110203-0405-0607-0809-0a0b02dd0e0f")
    (models / ".half").mkdir()
    return models


@pytest.fixture(scope="module")
def server(models: Path) -> Iterator[Server]:
    server = Server(models.parent)
    server.start().close()
    yield server
    server.close()


@pytest.fixture(scope="module")
def client(server: Server) -> Iterator[TuningClient]:
    with TuningClient(f"localhost:{server.port}") as client:
        yield client


# ---- lists and facts ----


def test_prompts_are_listed_by_name_and_by_base_model(client: TuningClient) -> None:
    found = list(client.prompts())
    assert [one.model_name for one in found] == ["damaged", "homeless", "mood", "other"]
    assert [bool(one.problem) for one in found] == [True, False, False, False]
    assert "config.yml" in found[0].problem
    mood = found[2]
    assert (mood.base_model, mood.num_virtual_tokens, mood.verbalizer, mood.separator) == (
        LLAMA,
        4,
        "{{input}}",
        "\n",
    )
    assert mood.published
    assert [one.model_name for one in client.prompts(T5)] == ["other"]


def test_pages_have_all_of_them_once(client: TuningClient) -> None:
    seen, token = [], ""
    while True:
        asked = messages.ListPromptsRequest(page_size=1, page_token=token).to_proto()
        page = client._stubs.tuning.ListPrompts(asked)
        seen += [one.model_name for one in page.prompts]
        token = page.next_page_token
        if not token:
            break
    assert seen == ["damaged", "homeless", "mood", "other"]


@pytest.mark.parametrize(("field", "value"), [("page_token", "../x"), ("page_size", 1001)])
def test_a_page_that_there_is_not_is_refused(client: TuningClient, field: str, value: Any) -> None:
    asked = messages.ListPromptsRequest(**{field: value}).to_proto()
    with pytest.raises(ServerError, match=field) as error:
        client._connection.answer(client._stubs.tuning.ListPrompts, asked)
    assert error.value.status == "INVALID_ARGUMENT"


def test_nothing_is_told_of_what_may_not_be_asked(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even that one is damaged."""
    monkeypatch.setattr(prompts, "_directory", lambda name: models / name)
    assert [bool(prompts._seen(name)) for name in ("damaged", "mood")] == [True, True]
    monkeypatch.setattr(call, "may", lambda action, name: False)
    assert [prompts._seen(name) for name in ("damaged", "mood")] == [None, None]


def test_all_is_told_of_one(client: TuningClient) -> None:
    mood = client.prompt("mood")
    assert list(mood.labels) == ["bad", "good"]
    assert mood.parameters["num_virtual_tokens"] == 4
    assert mood.parameters["origins"]["num_virtual_tokens"] == "request"
    assert mood.verdict
    assert mood.tokenizer["bos_token"] == "<s>"
    assert mood.tokenizer["model_max_length"] == 1024
    assert mood.tokenizer["continues_text"] is True
    other = client.prompt("other")
    assert other.tokenizer["continues_text"] is False
    assert "bos_token" not in other.tokenizer


def test_one_without_its_base_model_has_a_problem(client: TuningClient) -> None:
    homeless = client.prompt("homeless")
    assert homeless.problem.startswith("base_model: 'gone' is not allowed")
    assert homeless.parameters
    assert not homeless.tokenizer


@pytest.mark.parametrize("name", [NOT_THERE, "of-another", ".half"])
def test_one_that_is_not_there_is_not_found(client: TuningClient, name: str) -> None:
    for ask in (client.prompt, lambda name: client.download(name, Path("never"))):
        with pytest.raises(ServerError) as error:
            ask(name)
        assert error.value.status == ("INVALID_ARGUMENT" if name == ".half" else "NOT_FOUND")
    assert not list(Path().glob("*never*"))


# ---- files ----


def test_its_files_are_those_that_were_published(client: TuningClient, models: Path, tmp_path: Path) -> None:
    client.download("mood", tmp_path / "mood.tar")
    with tarfile.open(tmp_path / "mood.tar") as tar:
        # Python 3.11 has filters from 3.11.4 on, and 3.12 wants one.
        filters: dict[str, Any] = {"filter": "data"} if hasattr(tarfile, "data_filter") else {}
        tar.extractall(tmp_path, **filters)
    there = {path.name: path.read_bytes() for path in (models / "mood").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "mood").iterdir()} == there
    assert {path.name for path in tmp_path.iterdir()} == {"mood", "mood.tar"}
    loaded = PeftPromptTuning.load(str(tmp_path / "mood"))
    assert loaded.run(TEXT, preserve_input_text=False).generated_text == client.generate("mood", TEXT)


def test_files_of_two_publications_are_not_mixed(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place, read = models / "replaced", read_file
    shutil.copytree(models / "mood", place)

    def reading(path: Path, largest: int) -> bytes:
        content = read(path, largest)
        if left.pop() if left else False:
            place.rename(models.parent / "gone")
            shutil.copytree(models / "other", place)
        return content

    left = [True]
    monkeypatch.setattr(prompts, "read_file", reading)
    monkeypatch.setattr(prompts, "_directory", lambda name: models / name)
    files = prompts._files("replaced")
    shutil.rmtree(place)
    assert files == {path.name: path.read_bytes() for path in (models / "other").iterdir()}


# ---- tokens ----


def test_tokens_are_those_of_its_tokenizer(client: TuningClient, llama: BaseModel) -> None:
    def tokenized(**asked: Any) -> Any:
        request = messages.TokenizeRequest(model_name="mood", text=TEXT, **asked).to_proto()
        return client._stubs.tuning.Tokenize(request)

    tokenizer = llama.text.tokenizer
    assert list(tokenized().ids) == tokenizer(TEXT)["input_ids"]
    without = tokenized(add_special_tokens=False)
    assert list(without.ids) == tokenizer(TEXT, add_special_tokens=False)["input_ids"]
    assert list(without.tokens) == tokenizer.tokenize(TEXT)
    request = messages.DetokenizeRequest(model_name="mood", ids=list(without.ids)).to_proto()
    assert client._stubs.tuning.Detokenize(request).text == TEXT


@pytest.mark.parametrize("id", [-1, 2048, 2**40])
def test_an_id_that_there_is_not_is_refused(client: TuningClient, id: int) -> None:
    asked = messages.DetokenizeRequest(model_name="mood", ids=[id]).to_proto()
    with pytest.raises(ServerError, match="ids of tokens from 0 to 2047"):
        client._connection.answer(client._stubs.tuning.Detokenize, asked)


# ---- questions ----


def test_ids_of_a_text_are_answered_as_the_text(client: TuningClient, llama: BaseModel) -> None:
    """With what stands behind it, which nothing adds to ids."""
    ids = llama.text.tokenizer(TEXT + "\n")["input_ids"]
    told: dict[str, Any] = {"generated_tokens": True, "token_logprobs": True, "label_probabilities": True}
    by_text, by_ids = client.answer("mood", TEXT, **told), client.answer("mood", "", input_ids=ids, **told)
    assert by_ids == by_text
    streamed = "".join(client.stream("mood", "", input_ids=ids))
    assert streamed == by_text["generated_text"]


def test_the_end_of_ids_is_kept(client: TuningClient, llama: BaseModel) -> None:
    ids = llama.text.tokenizer(TEXT)["input_ids"]
    kept = client.answer("mood", "", input_ids=ids, truncate_input_tokens=2, input_tokens=True)
    assert [one["text"] for one in kept["input_tokens"]] == llama.text.tokenizer.convert_ids_to_tokens(
        ids[-2:]
    )


def test_the_base_model_is_asked_alone(client: TuningClient) -> None:
    """As an evaluation asks it."""
    report = client.evaluate("mood", RECORDS, wrong_answers=len(RECORDS))
    for record in RECORDS:
        assert client.generate("mood", record["input"], untuned=True) in ("good", "bad")
    right = sum(client.generate("mood", one["input"], untuned=True) == one["output"] for one in RECORDS)
    assert right / len(RECORDS) == report["scores"]["untuned"]["accuracy"]["value"]


@pytest.mark.parametrize(
    ("text", "asked", "field"),
    [
        ("", {}, "text"),
        ("x", {"input_ids": [1]}, "text"),
        ("", {"input_ids": [2048]}, "input_ids"),
        ("", {"input_ids": [-1]}, "input_ids"),
        ("", {"input_ids": [5] * 2000}, "input_ids"),
        ("x", {"top_tokens": 21}, "top_tokens"),
        ("x", {"top_tokens": -1}, "top_tokens"),
    ],
)
def test_what_cannot_be_asked_is_refused(
    client: TuningClient, text: str, asked: dict[str, Any], field: str
) -> None:
    with pytest.raises(ServerError) as error:
        client.answer("mood", text, **asked)
    assert (error.value.status, error.value.field) == ("INVALID_ARGUMENT", field)


# ---- the server ----


def test_a_server_describes_itself(client: TuningClient) -> None:
    from google.protobuf import json_format

    found = client._stubs.tuning.Describe(messages.DescribeRequest().to_proto())
    assert found.caller == ""
    assert list(found.base_models) == [LLAMA, T5]
    parameters = json_format.MessageToDict(found.parameters)
    assert {row["name"] for row in parameters["tuning"]} == {one.name for one in TUNING_PARAMETERS}
    assert {row["name"] for row in parameters["generation"]} == {one.name for one in GENERATION_PARAMETERS}
    (rate,) = (row for row in parameters["tuning"] if row["name"] == "learning_rate")
    table = TUNING_PARAMETERS["learning_rate"]
    assert (rate["default"], rate["low"], rate["high"]) == (table.default, table.low, table.high)


# ---- at a shell ----


@pytest.fixture
def shell(server: Server, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    def run(*command: str) -> tuple[int, str]:
        code = main(["prompts", *command, "--server", f"localhost:{server.port}"])
        captured = capsys.readouterr()
        return code, captured.out + captured.err

    return run


def test_one_that_is_removed_is_asked_no_more(
    models: Path, client: TuningClient, shell: Callable[..., tuple[int, str]]
) -> None:
    """Whoever is asking it has his answer; one that is damaged goes, too."""
    for name in ("short-lived", "broken"):
        shutil.copytree(models / "mood", models / name)
    (models / "broken" / "config.yml").write_text("{")
    parts = client.stream("short-lived", "Good morning", max_new_tokens=200, labels_only=False)
    begun = next(parts)
    client.remove("short-lived")
    assert len(begun + "".join(parts)) > 0
    with pytest.raises(ServerError) as error:
        client.generate("short-lived", "Good morning")
    assert error.value.status == "NOT_FOUND"
    assert shell("remove", "broken") == (0, "broken\n")
    code, text = shell("remove", "broken")
    assert (code, text.partition(":")[0]) == (1, "NOT_FOUND")
    assert not [path for path in models.iterdir() if "short-lived" in path.name or "broken" in path.name]
    for name in ("../mood", "of-another", ".."):
        with pytest.raises(ServerError):
            client.remove(name)
    assert (models / "of-another").exists()


def test_prompts_at_a_shell(shell: Callable[..., tuple[int, str]], tmp_path: Path) -> None:
    code, text = shell("list")
    assert code == 0
    assert [line.split()[0] for line in text.splitlines()] == ["NAME", "damaged", "homeless", "mood", "other"]
    code, text = shell("list", "--base-model", T5, "--json")
    assert [json.loads(line)["model_name"] for line in text.splitlines()] == ["other"]
    code, text = shell("show", "mood")
    assert code == 0
    assert "num_virtual_tokens" in text
    assert json.loads(shell("show", "mood", "--json")[1])["labels"] == ["bad", "good"]
    file = tmp_path / "x.tar"
    assert shell("download", "mood", "-o", str(file)) == (0, f"{file}\n")
    assert tarfile.is_tarfile(file)
    code, text = shell("show", NOT_THERE)
    assert code == 1
    assert text.startswith("NOT_FOUND")
    code, text = shell("download", "mood", "-o", str(tmp_path / "no" / "x.tar"))
    assert (code, "can't be written" in text) == (2, True)
