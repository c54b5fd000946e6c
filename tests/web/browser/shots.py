"""`python -m tests.web.browser.shots FOLDER`: pictures of each page, at two widths, in light and dark."""

from __future__ import annotations

import io
import sys
import tempfile
from pathlib import Path

from PIL import Image
from selenium.webdriver import Chrome

from caikit_pt.client import TuningClient
from examples.local_server import ROOT, web_door
from tests.conftest import LLAMA
from tests.runtime.servers import Server, wait_for

from .chromium import chromium, look

WIDTHS, TALLEST = (1280, 400), 2400
DATA = ROOT / "examples" / "data" / "guestbook_sentiment"
# Of half the size and of a few colours: some tens of kilobytes each.
SCALE, COLOURS = 0.5, 128


def main(folder: Path) -> None:
    """Makes them of a server of its own."""
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        server = Server(Path(work), SOURCE_PROMPT_BASE=ROOT / "examples" / "source_prompts")
        with server.start() as client, web_door(server.port, Path(work)) as address, chromium() as driver:
            for name, path in _pages(client).items():
                for width in WIDTHS:
                    for dark in (False, True):
                        look(driver, width, dark)
                        driver.get(address + path)
                        if name == "prompt":
                            _ask(driver)
                        _keep(
                            driver, width, dark, folder / f"{name}-{width}-{'dark' if dark else 'light'}.png"
                        )
        server.close()


def _pages(client: TuningClient) -> dict[str, str]:
    """Of two trainings that are done, and one that goes on."""
    common = {"base_model": LLAMA, "records": DATA / "train.jsonl", "num_virtual_tokens": 20, "num_epochs": 6}
    done = [
        client.wait(client.tune(name, **common, learning_rate=rate)).training_id
        for name, rate in (("guestbook", 0.3), ("guestbook-slow", 0.03))
    ]
    live = client.tune("guestbook-long", **{**common, "num_epochs": 5000})
    wait_for(lambda: (at := client.training(live).progress) is not None and at.step > 200)
    return {
        "trainings": "/",
        "training": f"/trainings/{done[0]}",
        "live": f"/trainings/{live}",
        "compare": f"/compare?id={done[0]}&id={done[1]}",
        "new": f"/new?from={done[0]}",
        "prompts": "/prompts",
        "prompt": "/prompts/guestbook",
        "sources": "/sources",
    }


def _ask(driver: Chrome) -> None:
    box = driver.find_element("css selector", "[name=text]")
    box.send_keys("Spent our holiday in room 22. The breakfast was mediocre.")
    driver.find_element("css selector", "[data-testid=ask]").click()
    wait_for(lambda: driver.find_element("css selector", "#untuned-end").text)


def _keep(driver: Chrome, width: int, dark: bool, file: Path) -> None:
    """The whole page, or as much of it as is looked at."""
    tall = int(driver.execute_script("return document.documentElement.scrollHeight"))
    look(driver, width, dark, min(tall, TALLEST))
    picture = Image.open(io.BytesIO(driver.get_screenshot_as_png())).convert("RGB")
    size = (round(picture.width * SCALE), round(picture.height * SCALE))
    small = picture.resize(size, Image.Resampling.LANCZOS).quantize(COLOURS, Image.Quantize.MAXCOVERAGE)
    small.save(file, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
