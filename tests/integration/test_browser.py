"""The dashboard as people see it, in headless Chromium. Screenshots lie in pytest's temporary folder `shots`."""

import contextlib
import http.server
import json
import re
import shutil
import subprocess
import threading

import pytest
from optuna_dashboard import save_note
from selenium import webdriver
from selenium.common.exceptions import WebDriverException
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from service.dashboard.notes import trial_note
from service.storage.artifact_stores import open_store
from service.storage.artifacts import attach_text
from service.storage.database import open_storage
from service.storage.studies import load_study

pytestmark = pytest.mark.integration

SECONDS = 30
"""For a page to show what it shall; a machine at work on other things is slow."""


@contextlib.contextmanager
def served(study, **environment):
    """The address of a dashboard process over the study's storage."""
    command = study.command("dashboard", "--port", "0")
    command["env"] |= environment
    with subprocess.Popen(**command, stdout=subprocess.PIPE) as process:
        try:
            yield re.search(r"http://(\S+)/", process.stdout.readline()).group(1)
        finally:
            process.terminate()
            process.wait(timeout=20)


@pytest.fixture(scope="module")
def shots(tmp_path_factory):
    return tmp_path_factory.mktemp("shots")


@pytest.fixture(scope="module")
def browser(shots):
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if chromium is None or driver is None:
        pytest.skip("no Chromium with its driver (Debian: apt install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for argument in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--window-size=1400,900"):
        options.add_argument(argument)
    options.add_experimental_option("prefs", {"download.default_directory": str(shots)})
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    running = webdriver.Chrome(options=options, service=Service(driver))
    yield running
    running.quit()


@pytest.fixture
def look(browser, shots, request):
    """Opens a page, waits for what it shall show, keeps a screenshot; the page's text."""
    browser.get_log("browser")  # of former tests

    def open_and_wait(url, *, shows, script=None):
        if url is not None:
            browser.get(url)
        wait_for(browser, lambda: all(text in page_text(browser) for text in shows), f"{shows}")
        if script is not None:
            wait_for(browser, lambda: browser.execute_script(script), script)
        browser.save_screenshot(str(shots / f"{request.node.name}-{len(list(shots.iterdir()))}.png"))
        return page_text(browser)

    return open_and_wait


def page_text(browser):
    return browser.find_element(By.TAG_NAME, "body").text


def wait_for(browser, condition, what):
    """Until `condition`; while a page is being drawn, what was found in it may be gone again."""
    WebDriverWait(browser, SECONDS, ignored_exceptions=(WebDriverException,)).until(
        lambda _: condition(), what
    )


def faults(browser):
    return [line["message"] for line in browser.get_log("browser") if line["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def address(finished):
    with served(finished) as found:
        yield f"http://{found}"


def test_the_list_leads_to_a_study_and_its_charts(browser, look, address):
    look(f"{address}/", shows=["tiny", "Direction: MINIMIZE"])
    browser.find_element(By.CSS_SELECTOR, "a[href='/dashboard/studies/1']").click()
    look(
        None,
        shows=["History", "Hyperparameter Importance", "Best Trial", "Intermediate values"],
        script="return document.querySelectorAll('#graph-intermediate-values .scatterlayer .trace').length == 3"
        " && document.querySelector('.ytitle').textContent == 'val_loss [nats/char]'",
    )
    assert faults(browser) == []


def test_the_note_of_a_study(browser, look, address):
    look(
        f"{address}/dashboard/studies/1/note",
        shows=[
            "Does it work?",
            "file corpus.txt",
            "9,000 training tokens",
            "3 trials finished",
            "python3 evaluate.py --study tiny",
        ],
    )
    assert faults(browser) == []


def test_a_trial_with_its_note_its_curve_and_its_files(browser, look, address, finished, shots):
    trial = finished.trials()[0]
    text = look(
        f"{address}/dashboard/studies/1/trials?numbers=0",
        shows=[
            "Trial 0",
            f"{trial.value:.4f} nats/char",
            "Titles drawn from the model",
            "Artifacts",
            "curve.jsonl",
        ],
        script="return [...document.images].filter(i => i.naturalWidth == 640 && i.alt == 'val_loss at every rung')"
        ".length == 1",
    )
    assert re.search(r"^ended complete$", text, re.MULTILINE)
    assert browser.execute_script("return document.scrollingElement.scrollWidth") <= 1400
    assert "lr: 0.001" in text
    for name in ("config.json", "model.safetensors", "tokenizer.json", "curve.svg"):
        assert name in text

    link = browser.find_element(By.CSS_SELECTOR, "a[download='curve.jsonl']")
    browser.execute_script("arguments[0].click()", link)
    wait_for(browser, (shots / "curve.jsonl").exists, "the download")
    lines = (shots / "curve.jsonl").read_text().splitlines()
    assert [json.loads(line)["val_loss"] for line in lines] == list(trial.intermediate_values.values())
    assert faults(browser) == []


def test_its_buttons_delete_nothing(browser, look, address, finished):
    look(f"{address}/dashboard", shows=["tiny"])
    browser.find_element(By.CSS_SELECTOR, "[aria-label='delete study']").click()
    wait_for(browser, lambda: "Delete study" in page_text(browser), "the question back")
    browser.find_element(By.XPATH, "//div[@role='dialog']//button[contains(., 'Yes')]").click()
    look(None, shows=["Failed to delete study"])
    assert len(finished.trials()) == 3


def test_a_password_is_asked_once_for_all_of_it(browser, look, finished):
    with served(finished, HPTUNE_DASHBOARD_PASSWORD="open sesame") as found:
        browser.get(f"http://{found}/dashboard/studies/1")
        assert "tiny" not in page_text(browser)
        # as typed into the browser's own dialog: it remembers, and the page's address does not hold the password
        browser.get(f"http://hptune:open%20sesame@{found}/api/meta")
        look(f"http://{found}/dashboard/studies/1", shows=["tiny", "History", "Best Trial"])


HOSTILE = """\
<script>window.hacked = 1; alert(1)</script>
<img src=x onerror="window.hacked = 2; alert(2)">
<iframe srcdoc="<script>parent.hacked = 3</script>"></iframe>

![pixel](http://TRAP/pixel.png) ![vector](http://TRAP/vector.svg)
[click](javascript:window.hacked=4) <http://TRAP/auto>

<svg onload="window.hacked = 5"></svg>
"""


@pytest.fixture
def trap():
    """The address of a server that must not be called, and the requests that it got."""
    seen = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            seen.append(self.path)
            self.send_response(204)
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}", seen
        server.shutdown()
        thread.join()


def test_hostile_text_runs_nothing_and_calls_nobody(browser, look, tiny, trap):
    elsewhere, seen = trap
    hostile = HOSTILE.replace("TRAP", elsewhere)
    on_one_line = " ".join(hostile.split())
    definition = tiny.file.read_text().replace(
        "question: Does it work?", f"question: {json.dumps(on_one_line)}"
    )
    tiny.file.write_text(definition)
    tiny.create(1)
    study, _ = load_study(open_storage(tiny.settings), "tiny", tiny.settings)
    store = open_store(tiny.settings.artifacts)
    written, raw = study.ask({}), study.ask({})
    image = f"<svg xmlns='http://www.w3.org/2000/svg' width='9' height='9'><image href='http://{elsewhere}/i.png'/>"
    image += "<script>alert(3); parent.hacked = 6</script></svg>"
    for name, content in (("hostile.svg", image), ("hostile.html", hostile), ("hostile.json", hostile)):
        attach_text(store, written, name, content)
    note = trial_note(
        ended=hostile, config={"path": hostile}, last=None, facts={}, titles=hostile.splitlines()
    )
    save_note(written, note)
    save_note(raw, hostile)  # as anyone who may edit notes can
    study.tell(written, 1.0)
    study.tell(raw, 1.0)

    with served(tiny) as found:
        look(f"http://{found}/dashboard/studies/1/note", shows=[on_one_line])
        assert_harmless(browser, seen)
        text = look(f"http://{found}/dashboard/studies/1/trials?numbers=0", shows=["hostile.svg"])
        assert text.count("window.hacked = 1; alert(1)") >= 3  # why it ended, a title, the configuration
        assert_harmless(browser, seen)
        addresses = [
            link.get_attribute("href") for link in browser.find_elements(By.CSS_SELECTOR, "a[download]")
        ]
        assert len(addresses) == 3
        here = browser.current_url
        for each in addresses:  # opened as pages, they are downloaded instead
            with contextlib.suppress(WebDriverException):
                browser.get(each)
            assert browser.current_url == here
            assert_harmless(browser, seen)
        look(f"http://{found}/dashboard/studies/1/trials?numbers=1", shows=["Trial 1", "click"])
        browser.find_element(By.LINK_TEXT, "click").click()
        assert_harmless(browser, seen)


def assert_harmless(browser, seen):
    assert browser.execute_script("return window.hacked === undefined")
    assert browser.find_elements(By.TAG_NAME, "iframe") == []
    assert browser.execute_script("return [...document.links].every(a => !a.href.startsWith('javascript:'))")
    assert seen == []
