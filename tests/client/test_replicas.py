"""Which of several servers a client asks: by the prompt, and by who is there."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest

from caikit_pt.client import ServerError, TuningClient
from caikit_pt.client.servers import addresses
from caikit_pt.errors import InvalidParameter
from caikit_pt.replicas import Replica, Replicas
from caikit_pt.runtime.tuning_messages import Description
from tests.conftest import T5
from tests.runtime.nginx import NGINX, nginx
from tests.runtime.servers import QUICK, RECORDS, wait_for

# ---- addresses ----


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ("a:1", ["a:1"]),
        ("a:1, b:1", ["a:1", "b:1"]),
        (["a:1", "b:1"], ["a:1", "b:1"]),
        ("ipv4:10.0.0.1:1,10.0.0.2:1", ["ipv4:10.0.0.1:1,10.0.0.2:1"]),
        (["unix:/a", "unix:/b"], ["unix:/a", "unix:/b"]),
    ],
)
def test_addresses(given: Any, found: list[str]) -> None:
    assert addresses(given) == found


@pytest.mark.parametrize("given", ["", [], "a:1,", "a:1,a:1", ["a:1", "a:1"], ["a:1", ""], [5]])
def test_addresses_that_are_none_are_refused(given: Any) -> None:
    with pytest.raises(InvalidParameter, match=r"address: .* HOST:PORT, or several of them, each once"):
        TuningClient(given)


def test_a_token_is_sent_to_none_that_others_could_listen_to() -> None:
    with pytest.raises(InvalidParameter, match="token"):
        TuningClient(["localhost:8085", "example.org:8085"], token="hidden")


# ---- real connections ----

_ASKED = ["GetTraining", "WatchTraining"]


class Place(grpc.GenericRpcHandler):  # type: ignore[type-arg]
    """A server that answers with empty messages, where it doesn't fail."""

    def __init__(self, port: int = 0) -> None:
        self.asked: list[str] = []
        self.prompts: list[str] = []
        self.state_id = ""
        self.fails: grpc.StatusCode | None = None
        self.fails_late = False
        self.waits: threading.Event | None = None
        self._server = grpc.server(ThreadPoolExecutor(32), handlers=[self])
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self._server.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def stop(self) -> None:
        self._server.stop(None).wait()

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        streams = method.startswith(("ServerStreaming", "Evaluate", "Watch"))
        make = grpc.unary_stream_rpc_method_handler if streams else grpc.unary_unary_rpc_method_handler
        self.asked.append(method)
        if method == "Describe":
            return grpc.unary_unary_rpc_method_handler(self._describe)
        self.prompts.append(dict(details.invocation_metadata).get("mm-model-id", ""))
        return make(self._stream if streams else self._answer)

    def _answer(self, request: bytes, context: Any) -> bytes:
        if self.waits:
            self.waits.wait(30)
        if self.fails:
            context.abort(self.fails, "not now")
        return b""

    def _describe(self, request: bytes, context: Any) -> bytes:
        self._answer(request, context)
        described: bytes = Description(state_id=self.state_id).to_proto().SerializeToString()
        return described

    def _stream(self, request: bytes, context: Any) -> Iterator[bytes]:
        yield self._answer(request, context)
        if self.fails_late:
            context.abort(grpc.StatusCode.UNAVAILABLE, "in the midst of it")


@pytest.fixture
def three() -> Iterator[list[Place]]:
    places = [Place() for _ in range(3)]
    yield places
    for place in places:
        place.stop()


@pytest.fixture
def client(three: list[Place]) -> Iterator[TuningClient]:
    with TuningClient([place.address for place in three]) as client:
        yield client


def by_preference(places: list[Place], prompt: str) -> list[Place]:
    known = {place.address: place for place in places}
    return [known[one.address] for one in Replicas([*map(Replica, known)]).order(prompt)]


def test_all_that_names_a_prompt_goes_where_it_is(three: list[Place], client: TuningClient) -> None:
    for number in range(12):
        prompt = f"mood-{number}"
        client.generate(prompt, "text")
        list(client.stream(prompt, "text"))
        list(client.predict(prompt, ["text"] * 3))
        client.evaluate(prompt, [{"input": "a", "output": "b"}])
        asked = [place.prompts.count(prompt) for place in by_preference(three, prompt)]
        assert asked == [6, 0, 0]
    assert all(place.asked for place in three)


def test_trainings_are_the_first_ones(three: list[Place], client: TuningClient) -> None:
    """Whoever takes one on is the only one that knows it: no other is asked, even where that one is away."""
    client.tune("mood", base_model=T5, records=RECORDS, **QUICK)
    client.training("t")
    list(client.watch("t"))
    assert three[0].asked == ["Describe", "TextGenerationTaskPeftPromptTuningTrain", *_ASKED]
    assert three[1].asked == three[2].asked == []
    three[0].fails = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServerError, match="not now"):
        client.training("t")
    assert three[0].asked.count("GetTraining") == 6
    assert not three[1].asked
    list(client.prompts())
    assert three[1].asked == ["ListPrompts"]


def test_trainings_are_also_theirs_who_share_the_first_ones_jobs(
    three: list[Place], client: TuningClient
) -> None:
    three[0].state_id = three[2].state_id = "one"
    three[1].state_id = "another"
    client.training("t")
    three[0].fails = grpc.StatusCode.UNAVAILABLE
    client.tune("mood", base_model=T5, records=RECORDS, **QUICK)
    client.training("t")
    list(client.watch("t"))
    assert three[2].asked == ["Describe", "TextGenerationTaskPeftPromptTuningTrain", *_ASKED]
    assert three[1].asked == ["Describe"]
    # What is refused is asked nobody else, and all are asked again where nobody answers.
    three[2].fails = grpc.StatusCode.INVALID_ARGUMENT
    with pytest.raises(ServerError, match="not now"):
        client.training("t")
    assert three[2].asked.count("GetTraining") == 2
    three[2].fails = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServerError, match="not now"):
        client.training("t")
    assert three[2].asked.count("GetTraining") == 2 + 5


@pytest.mark.parametrize("first", ["one", ""])
def test_where_the_first_is_away_those_who_share_are_asked(
    three: list[Place], client: TuningClient, first: str
) -> None:
    """Whoever is found to share is asked from then on, whatever the first says when it comes."""
    three[0].fails = grpc.StatusCode.UNAVAILABLE
    three[0].state_id, three[1].state_id, three[2].state_id = first, "", "one"
    client.training("t")
    assert (three[1].asked, three[2].asked) == (["Describe"], ["Describe", "GetTraining"])
    three[0].fails = None
    time.sleep(1.1)
    client.training("t")
    assert three[0].asked.count("GetTraining") == bool(first)
    assert three[2].asked.count("GetTraining") == 2 - bool(first)


def test_who_can_be_asked_by_nobody_is_asked_by_the_first(three: list[Place], client: TuningClient) -> None:
    """Where none shares, as where the servers are of a release that doesn't tell."""
    three[0].fails = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServerError, match="not now"):
        client.training("t")
    assert three[0].asked.count("GetTraining") == 5
    assert three[1].asked == three[2].asked == ["Describe"]
    three[0].fails = grpc.StatusCode.UNIMPLEMENTED
    with pytest.raises(ServerError, match="not now"):
        client.training("t")
    assert three[0].asked.count("GetTraining") == 6


@pytest.mark.parametrize("code", [grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED])
def test_one_that_fails_is_passed_over_and_asked_again_later(
    three: list[Place], client: TuningClient, code: grpc.StatusCode
) -> None:
    first, second, third = by_preference(three, "mood")
    first.fails = code
    client.generate("mood", "text")
    list(client.stream("mood", "text"))
    list(client.predict("mood", ["text"]))
    # It rests: nobody asks it again at once.
    assert [len(place.asked) for place in (first, second, third)] == [1, 3, 0]
    first.fails = None
    time.sleep(1.1)
    client.generate("mood", "text")
    assert [len(place.asked) for place in (first, second, third)] == [2, 3, 0]


def test_answers_that_are_under_way_go_on_at_the_next(three: list[Place], client: TuningClient) -> None:
    first, second, _ = by_preference(three, "mood")
    first.fails = grpc.StatusCode.UNAVAILABLE
    assert len(list(client.predict("mood", ["text"] * 10))) == 10
    assert len(second.asked) == 10


def test_one_that_ends_and_comes_back(three: list[Place], client: TuningClient) -> None:
    first, second, _ = by_preference(three, "mood")
    client.generate("mood", "text")
    first.stop()
    for _ in range(20):
        client.generate("mood", "text")
        list(client.stream("mood", "text"))
    assert len(second.asked) == 40
    again = Place(first.port)

    def is_asked() -> bool:
        client.generate("mood", "text")
        return bool(again.asked)

    wait_for(is_asked, 20)
    again.stop()


def test_where_nobody_answers_all_are_asked_again_and_then_it_is_said(
    three: list[Place], client: TuningClient
) -> None:
    for place in three:
        place.fails = grpc.StatusCode.UNAVAILABLE
    with pytest.raises(ServerError, match="not now") as raised:
        client.generate("mood", "text")
    assert raised.value.status == "UNAVAILABLE"
    assert [len(place.asked) for place in three] == [5, 5, 5]


def test_what_is_refused_is_asked_nobody_else(three: list[Place], client: TuningClient) -> None:
    for place in three:
        place.fails = grpc.StatusCode.RESOURCE_EXHAUSTED
    with pytest.raises(ServerError):
        client.generate("mood", "text")
    with pytest.raises(ServerError):
        list(client.stream("mood", "text"))
    assert sum(len(place.asked) for place in three) == 2


def test_a_stream_is_not_begun_again_once_it_has_begun(three: list[Place], client: TuningClient) -> None:
    for place in three:
        place.fails_late = True
    told: list[str] = []
    with pytest.raises(ServerError, match="in the midst of it"):
        told.extend(client.stream("mood", "text"))
    assert sum(len(place.asked) for place in three) == 1


def test_a_hot_prompt_takes_more_than_one(three: list[Place], client: TuningClient) -> None:
    waits = threading.Event()
    for place in three:
        place.waits = waits
    asked: list[Any] = []
    with ThreadPoolExecutor(48) as pool:
        asked = [pool.submit(client.generate, "hot", "text") for _ in range(48)]
        wait_for(lambda: sum(len(place.asked) for place in three) == 48, 10)
        waits.set()
        assert [one.result() for one in asked] == [""] * 48
    counted = [len(place.asked) for place in by_preference(three, "hot")]
    assert counted[0] == 32
    assert sum(counted) == 48


def test_a_cancelled_question_is_asked_nobody_else(three: list[Place], client: TuningClient) -> None:
    first, second, _ = by_preference(three, "mood")
    first.waits = threading.Event()
    connection, question = client._connection, client._question("text", {})
    call = connection.call(connection.stubs.predict, question, "mood")
    wait_for(lambda: first.asked, 10)
    call.cancel()
    with pytest.raises(ServerError, match="was cancelled"):
        call.result()
    first.waits.set()
    assert not second.asked


@pytest.mark.skipif(NGINX is None, reason="nginx isn't installed")
def test_behind_nginx_a_prompt_stays_where_it_is(three: list[Place], tmp_path: Path) -> None:
    prompts = [f"mood-{number}" for number in range(30)]
    with nginx(tmp_path, [place.port for place in three]) as port, TuningClient(f"127.0.0.1:{port}") as one:
        for _ in range(3):
            for prompt in prompts:
                one.generate(prompt, "text")
    homes = [{place.address for place in three if prompt in place.prompts} for prompt in prompts]
    assert all(len(home) == 1 for home in homes)
    assert set.union(*homes) == {place.address for place in three}
