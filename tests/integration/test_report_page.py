"""Reports as people see them, in headless Chromium: narrow, wide, dark, sorted, filtered, printed."""

import base64
import re

import pytest
from selenium.webdriver.common.by import By

from tests.integration.test_browser import browser, shots, wait_for  # noqa: F401 - fixtures
from tests.service.report.conftest import written  # noqa: F401 - a fixture
from tests.service.report.page.conftest import compared_arms, tuned  # noqa: F401 - fixtures

pytestmark = pytest.mark.integration


@pytest.fixture
def page(browser, tuned):  # noqa: F811
    """Opens a page, that of a search unless told otherwise, at a width, in a colour scheme; every figure is drawn."""

    def at(width, scheme="light", *, file=tuned[0] / "report.html"):
        metrics = {"width": width, "height": 20_000, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        feature = {"name": "prefers-color-scheme", "value": scheme}
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
        browser.get(file.as_uri())
        script = (
            "return [...document.querySelectorAll('[data-plot]')]"
            ".filter(e => e.checkVisibility() && !e.drawn).length"
        )
        wait_for(browser, lambda: browser.execute_script(script) == 0, "figures")
        return browser

    yield at
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [400, 800, 1400])
@pytest.mark.parametrize("what", ["report", "compared"])
def test_nothing_is_wider_than_the_window(page, shots, tuned, compared_arms, what, width, scheme):  # noqa: F811
    files = {"report": tuned[0] / "report.html", "compared": compared_arms}
    seen = page(width, scheme, file=files[what])
    seen.save_screenshot(str(shots / f"{what}-{width}-{scheme}.png"))
    wider = seen.execute_script(
        "return [...document.querySelectorAll('main *')].filter(e => !e.closest('.scroll') && e.checkVisibility()"
        " && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"
    )
    assert wider == []
    assert seen.execute_script("return document.scrollingElement.scrollWidth") <= width
    shade = "return getComputedStyle(document.querySelector('.scroll')).backgroundAttachment"
    assert seen.execute_script(shade) == "local, local, scroll, scroll", "the side on which there is more"
    ink, paper = seen.execute_script(
        "const style = getComputedStyle(document.body); return [style.color, style.backgroundColor]"
    )
    light = sum(map(int, re.findall(r"\d+", paper)[:3])) > sum(map(int, re.findall(r"\d+", ink)[:3]))
    assert light == (scheme == "light")


def trials(seen):
    rows = seen.find_elements(By.CSS_SELECTOR, "[data-sortable] tbody tr")
    return [row.find_element(By.TAG_NAME, "td").text for row in rows if row.is_displayed()]


def test_trials_are_sorted_and_filtered_without_a_network(page, finished):
    seen = page(1400)
    by_loss = [str(trial.number) for trial in sorted(finished.trials(), key=lambda trial: trial.value)]
    by_rate = [str(t.number) for t in sorted(finished.trials(), key=lambda t: t.params["optimizer.lr"])]
    assert trials(seen) == by_loss
    heading = next(h for h in seen.find_elements(By.CSS_SELECTOR, "[data-sortable] th") if h.text == "lr")
    button = heading.find_element(By.TAG_NAME, "button")
    button.click()
    assert (trials(seen), heading.get_attribute("aria-sort")) == (by_rate, "ascending")
    button.click()
    assert (trials(seen), heading.get_attribute("aria-sort")) == (by_rate[::-1], "descending")
    field = seen.find_element(By.CSS_SELECTOR, "[data-filter]")
    middle = sorted(trial.params["optimizer.lr"] for trial in finished.trials())[1]
    field.send_keys(f"complete lr<={middle * 1.001:.8f}")
    assert trials(seen) == by_rate[1::-1]
    field.send_keys(" nowhere")
    assert trials(seen) == []


def test_two_arms_are_told_apart_without_colour(page, compared_arms):  # noqa: F811
    marks = page(1400, file=compared_arms).execute_script(
        "return [...document.querySelector('.legend').querySelectorAll('svg')]"
        ".map(e => e.innerHTML.match(/<(circle|rect)/)[1])"
    )
    assert marks == ["circle", "rect"]


def test_a_link_opens_what_is_folded(page):
    seen = page(1400)
    budgets = seen.find_element(By.ID, "budgets").find_element(By.TAG_NAME, "details")
    assert budgets.get_attribute("open") is None
    seen.find_element(By.CSS_SELECTOR, "nav a[href='#budgets']").click()
    wait_for(seen, lambda: budgets.get_attribute("open") is not None, "open")


def test_it_prints_on_fewer_than_ten_pages(page):
    printed = page(1400).execute_cdp_cmd("Page.printToPDF", {})["data"]
    assert 1 < len(re.findall(rb"/Type /Page\b(?!s)", base64.b64decode(printed))) < 10
