"""A server under the studio's limits, the web door in front of it, and a browser."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pytest

from caikit_pt.client import TuningClient
from examples.local_server import ROOT, web_door
from tests.conftest import LLAMA
from tests.runtime.servers import Server

from .chromium import MISSING, chromium

if TYPE_CHECKING:
    from selenium.webdriver import Chrome

LIMITS = ROOT / "examples" / "studio_limits.yaml"
# Labels that would do something if they were anything but text.
HOSTILE = ("<img src=x onerror=\"document.title='hacked'\">", "</p><script>document.title='hacked'</script>")


@dataclass(frozen=True)
class Site:
    """The address of the pages, and the server behind them."""

    address: str
    client: TuningClient
    server: Server


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """With a prompt `mood`, and one whose labels are hostile."""
    if MISSING:
        pytest.skip(f"there is no {MISSING}: apt-get install chromium chromium-driver")
    folder = tmp_path_factory.mktemp("browser")
    server = Server(folder, CONFIG_FILES=f"{ROOT / 'runtime_config.yaml'},{LIMITS}", PREPARE_TRAININGS=True)
    with server.start() as client, web_door(server.port, folder) as address:
        for name, labels in (("mood", ("good", "bad")), ("hostile", HOSTILE)):
            records = records_of(labels)
            quick: dict[str, Any] = {"num_virtual_tokens": 4, "num_epochs": 20, "validation_share": 0.25}
            training = client.wait(client.tune(name, base_model=LLAMA, records=records, **quick))
            assert training.state == "COMPLETED", training.reasons
        yield Site(address, client, server)
    server.close()


def records_of(labels: tuple[str, str]) -> list[dict[str, str]]:
    things = ("kettle", "lamp", "desk", "mixer", "fridge", "tie", "fan", "rug")
    moods = (("great", labels[0]), ("lovely", labels[0]), ("awful", labels[1]), ("broken", labels[1]))
    return [{"input": f"The {thing} is {mood}", "output": label} for thing in things for mood, label in moods]


@pytest.fixture(scope="session")
def driver(site: Site) -> Iterator[Chrome]:
    with chromium() as driver:
        yield driver


@pytest.fixture
def browser(driver: Chrome) -> Iterator[Chrome]:
    """On whose page nothing has gone wrong."""
    yield driver
    said = [
        one
        for one in driver.get_log("browser")  # type: ignore[no-untyped-call]
        if one["level"] == "SEVERE" and "status of 4" not in one["message"]
    ]
    assert not said
