"""The studio page in a real browser."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any

import pytest

from tests.conftest import LLAMA
from tests.runtime.servers import wait_for

from .chromium import look
from .conftest import HOSTILE, Site, records_of

if TYPE_CHECKING:
    from selenium.webdriver import Chrome
    from selenium.webdriver.remote.webelement import WebElement

PATHS = ("/", "/new", "/prompts", "/prompts/mood", "/prompts/hostile", "/sources", "/compare", "/trainings")


def find(browser: Chrome, css: str) -> WebElement:
    from selenium.webdriver.common.by import By

    return browser.find_element(By.CSS_SELECTOR, css)


def text(browser: Chrome, css: str) -> str:
    """Empty where it isn't there, or was there a moment ago: the next page is on its way."""
    from selenium.common.exceptions import NoSuchElementException, StaleElementReferenceException

    try:
        return str(find(browser, css).get_property("textContent")).strip()
    except (NoSuchElementException, StaleElementReferenceException):
        return ""


def click(browser: Chrome, css: str) -> None:
    """What a page draws anew while it is looked for is found again."""
    from selenium.common.exceptions import StaleElementReferenceException

    def is_clicked() -> bool:
        try:
            find(browser, css).click()
        except StaleElementReferenceException:
            return False
        return True

    wait_for(is_clicked)


def put(browser: Chrome, name: str, value: str) -> None:
    box = find(browser, f"[name={name}]")
    browser.execute_script("arguments[0].closest('details')?.setAttribute('open', '')", box)
    box.clear()
    box.send_keys(value)


def filled(browser: Chrome, site: Site, name: str, **parameters: str) -> None:
    """The form for a new training."""
    from selenium.webdriver.support.select import Select

    browser.get(f"{site.address}/new")
    put(browser, "model_name", name)
    Select(find(browser, "#base_model")).select_by_visible_text(LLAMA)
    lines = [json.dumps(one) for one in records_of(("good", "bad"))]
    put(browser, "train_text", "\n".join(lines))
    for field, value in parameters.items():
        put(browser, field, value)


# ---- a training ----


def test_a_training_is_begun_by_the_form_watched_and_cancelled(browser: Chrome, site: Site) -> None:
    filled(browser, site, "begun", num_virtual_tokens="4", num_epochs="50", batch_size="1")
    # What it would do is told as one types.
    wait_for(lambda: "updates" in text(browser, "#check"))
    click(browser, "[data-testid=train]")
    wait_for(lambda: "/trainings/" in browser.current_url)
    wait_for(lambda: text(browser, "#state") == "running")

    def drawn() -> int:
        # In the page, in one step: the curve is drawn anew with every report.
        points = "return document.querySelector('svg .line-1')?.getAttribute('points') ?? ''"
        return len(str(browser.execute_script(points)))

    wait_for(lambda: "update" in text(browser, "#where") and drawn() > 0)
    first = drawn()
    wait_for(lambda: drawn() > first)
    click(browser, "[data-testid=pause]")
    wait_for(lambda: text(browser, "#state") == "paused")
    click(browser, "[data-testid=resume]")
    wait_for(lambda: text(browser, "#state") in ("queued", "running"))
    click(browser, "[data-testid=cancel]")
    click(browser, "[data-testid=really-cancel]")
    wait_for(lambda: text(browser, "#state") == "canceled")
    (training,) = site.client.trainings(model_name="begun")
    assert training.state == "CANCELED"
    assert training.training_id in browser.current_url
    # And it stands in the list, which nobody loads again.
    browser.get(site.address)
    assert text(browser, f"tr[data-id='{training.training_id}'] [data-of=state]") == "canceled"


def test_the_list_tells_what_happens_elsewhere(browser: Chrome, site: Site) -> None:
    browser.get(site.address)
    id = site.client.tune("elsewhere", base_model=LLAMA, records=records_of(("a", "b")), num_epochs=1)
    wait_for(
        lambda: browser.execute_script("return !!document.querySelector(`tr[data-id='${arguments[0]}']`)", id)
    )
    wait_for(lambda: text(browser, f"tr[data-id='{id}'] [data-of=state]") == "completed")


@pytest.mark.parametrize(
    ("field", "value"), [("num_epochs", "51"), ("learning_rate", "0.6"), ("batch_size", "many")]
)
def test_what_may_not_be_is_refused_in_the_words_of_the_server(
    browser: Chrome, site: Site, field: str, value: str
) -> None:
    """51 epochs under the limits of the studio's own page."""
    filled(browser, site, "refused", **{field: value})
    told = ""
    if value.isdecimal():
        try:
            site.client.check(
                "refused", base_model=LLAMA, records=records_of(("a", "b")), **{field: int(value)}
            )
        except Exception as error:  # whatever the RPC says
            told = str(error)
        assert told.startswith(f"{field}: {value} is not allowed. Allowed: a whole number from 1 to 50")
    # As one types, and again when it is sent.
    wait_for(lambda: text(browser, f"#e-{field}").startswith(f"{field}: "))
    assert not told or text(browser, f"#e-{field}") == told
    click(browser, "[data-testid=train]")
    wait_for(lambda: text(browser, "#refusal") != "")
    assert text(browser, f"#e-{field}").startswith(told or f"{field}: ")
    assert find(browser, f"[name={field}]").get_dom_attribute("value") == value
    assert not list(site.client.trainings(model_name="refused"))


def test_a_file_is_looked_through_line_by_line(browser: Chrome, site: Site, tmp_path: Any) -> None:
    file = tmp_path / "records.jsonl"
    file.write_text('{"input": "a", "output": "b"}\n{"input": "c", "output": 7}\n')
    browser.get(f"{site.address}/new")
    find(browser, "#train_file").send_keys(str(file))
    wait_for(lambda: "7" in text(browser, "#records-train"))
    assert "line 2" in text(browser, "#records-train")
    mended = tmp_path / "mended.jsonl"
    mended.write_text('{"input": "a", "output": "b"}\n{"input": "c", "output": "d"}\n')
    find(browser, "#train_file").send_keys(str(mended))
    wait_for(lambda: "2 records" in text(browser, "#records-train"))


# ---- a prompt ----


def test_a_prompt_is_tried_beside_its_base(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.address}/prompts/mood")
    put(browser, "text", "The lamp is awful")
    click(browser, "[data-testid=ask]")
    wait_for(lambda: text(browser, "#tuned-end") != "" and text(browser, "#untuned-end") != "")
    assert text(browser, "#tuned") == site.client.generate("mood", "The lamp is awful")
    assert text(browser, "#untuned") == site.client.generate("mood", "The lamp is awful", untuned=True)


def test_a_prompt_is_removed(browser: Chrome, site: Site) -> None:
    """Behind a second question."""
    shutil.copytree(site.server.models / "mood", site.server.models / "spare")
    browser.get(f"{site.address}/prompts/spare")
    assert not find(browser, "[data-testid=really-remove]").is_displayed()
    click(browser, "[data-testid=remove]")
    click(browser, "[data-testid=really-remove]")
    wait_for(lambda: browser.current_url == f"{site.address}/prompts")
    assert "spare" not in text(browser, "#prompts")
    assert "spare" not in [prompt.model_name for prompt in site.client.prompts()]
    assert not (site.server.models / "spare").exists()


def test_a_hostile_answer_is_text(browser: Chrome, site: Site) -> None:
    browser.get(f"{site.address}/prompts/hostile")
    put(browser, "text", "The lamp is awful")
    click(browser, "[data-testid=ask]")
    wait_for(lambda: text(browser, "#tuned-end") != "")
    answer = site.client.generate("hostile", "The lamp is awful")
    assert answer in HOSTILE
    assert text(browser, "#tuned") == answer
    assert browser.execute_script("return document.querySelectorAll('main img, main script').length") == 0
    assert browser.title != "hacked"


# ---- who can use it ----


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [1280, 360])
def test_nothing_stands_in_anybodys_way(browser: Chrome, site: Site, width: int, dark: bool) -> None:
    """As axe finds it, at both widths and in both colours; and nothing is wider than the page."""
    from importlib.resources import files

    axe = (files("axe_core_python") / "axe.min.js").read_text("utf-8")
    look(browser, width, dark)
    (mood,) = site.client.trainings(model_name="mood")
    try:
        for path in PATHS:
            where = {
                "/trainings": f"/trainings/{mood.training_id}",
                "/compare": f"/compare?id={mood.training_id}",
            }
            browser.get(site.address + where.get(path, path))
            browser.execute_script(
                "document.querySelectorAll('details').forEach((one) => { one.open = true; })"
            )
            # A page's own policy lets nothing in; a driver may.
            browser.execute_script(axe)
            found = browser.execute_async_script(
                "const done = arguments[0]; axe.run().then(done, (e) => done(String(e)))"
            )
            serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
            assert not [(path, one["id"], [node["target"] for node in one["nodes"]][:3]) for one in serious]
            wide = browser.execute_script("return document.documentElement.scrollWidth - innerWidth")
            assert wide <= 0, path
    finally:
        look(browser, 1280, dark=False)


def test_it_is_used_by_the_keyboard_alone(browser: Chrome, site: Site) -> None:
    from selenium.webdriver.common.action_chains import ActionChains
    from selenium.webdriver.common.keys import Keys

    browser.get(site.address)
    keys = ActionChains(browser)
    keys.send_keys(Keys.TAB).perform()
    assert browser.execute_script("return document.activeElement.className") == "skip"
    seen = set[str]()
    for _ in range(40):
        ActionChains(browser).send_keys(Keys.TAB).perform()
        there = browser.execute_script("return document.activeElement.outerHTML.slice(0, 80)")
        outlined = browser.execute_script(
            "const s = getComputedStyle(document.activeElement);"
            "const none = s.outlineStyle === 'none' && s.boxShadow === 'none';"
            "return !none || document.activeElement === document.body"
        )
        assert outlined, there
        seen.add(there)
    assert any('href="/new"' in one for one in seen)


def test_without_a_script_every_page_is_there(browser: Chrome, site: Site) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"{site.address}/prompts/mood")
        find(browser, "[name=text]").send_keys("The lamp is awful")
        click(browser, "[data-testid=ask]")
        wait_for(lambda: text(browser, "#tuned") == site.client.generate("mood", "The lamp is awful"))
        browser.get(site.address)
        assert find(browser, "#trainings tbody tr")
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
