"""Debian's chromium, driven by its own driver."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from selenium.webdriver import Chrome, ChromeOptions
from selenium.webdriver.chrome.service import Service

PROGRAMS = {"chromium": shutil.which("chromium"), "chromedriver": shutil.which("chromedriver")}
MISSING = ", ".join(name for name, path in PROGRAMS.items() if not path)
_SECONDS = 30


@contextmanager
def chromium(width: int = 1280, dark: bool = False) -> Iterator[Chrome]:
    """A window of this width, without a person in front of it."""
    options = ChromeOptions()
    options.binary_location = PROGRAMS["chromium"] or ""
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(argument)
    # What the page itself says goes wrong.
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = Chrome(options=options, service=Service(PROGRAMS["chromedriver"] or ""))
    try:
        driver.set_page_load_timeout(_SECONDS)
        driver.set_script_timeout(_SECONDS)
        look(driver, width, dark)
        yield driver
    finally:
        driver.quit()


def look(driver: Chrome, width: int, dark: bool, height: int = 900) -> None:
    """The size of the page, smaller than windows may be, and its colours."""
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": False}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
    wanted = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": wanted})
