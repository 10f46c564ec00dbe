"""The page of `lookback perplexity --report` in a browser without a screen, opened as a file, without network."""

import json
from pathlib import Path

import pytest
from selenium import webdriver
from selenium.webdriver.chrome.service import Service
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys

from modeling_srlm import SelfRetrievalLM
from tests.support.files import write_rows
from tests.support.perplexity import HOSTILE, ROWS, SETTINGS, data_of
from tests.support.tiny import TEXT, tiny_backbone, tiny_tokenizer
from trainers.commands.perplexity import main

BROWSER, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")
FLAGS = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--window-size=1400,1200",
)  # fmt: skip
pytestmark = pytest.mark.skipif(
    not (BROWSER.exists() and DRIVER.exists()),
    reason=f"no {BROWSER} and {DRIVER}: install Debian's chromium and chromium-driver",
)


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A page of two documents, one of chat rows, and one of a single chunk and method."""
    folder = tmp_path_factory.mktemp("report")
    SelfRetrievalLM.from_components(tiny_backbone(), tiny_tokenizer(), **SETTINGS).save_pretrained(folder / "model")
    texts = folder / "texts"
    texts.mkdir()
    (texts / "a.txt").write_text((HOSTILE + TEXT) * 4, encoding="utf-8")
    (texts / "b.txt").write_text(TEXT * 6, encoding="utf-8")
    common = ["--model", str(folder / "model"), "--methods", "no", "bm25", "recent"]
    main([*common, "--data", str(texts), "--report", str(folder / "documents.html")])
    single = ["--scored_tokens", "8", "--max_documents", "1", "--report", str(folder / "single.html")]
    main([*common[:2], "--methods", "no", "--data", str(texts), *single])
    chats = write_rows(folder / "chats.jsonl", ROWS)
    main([*common, "--task", "chat", "--data", chats, "--report", str(folder / "chats.html")])
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = str(BROWSER)
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('profile')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(str(DRIVER)))  # with a path selenium downloads nothing
    yield driver
    driver.quit()


@pytest.fixture
def opened(browser, pages):
    """Opens a page; afterwards there must be no error in the log, and no request but for the file itself."""

    def open_page(name):
        browser.get_log("performance")  # what came before is not this page's
        browser.get((pages / name).as_uri())
        return data_of((pages / name).read_text(encoding="utf-8"))

    yield open_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.broken") is None
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    requests = [
        event["params"]["request"]["url"] for event in events if event["method"] == "Network.requestWillBeSent"
    ]
    # The browser's own new-tab page may still be loading.
    assert [url for url in requests if not url.startswith("chrome://")] == [browser.current_url]


def chunk(browser, target):
    return browser.find_element(By.CSS_SELECTOR, f'#text .chunk[data-target="{target}"]')


def shown_sources(browser):
    """(source number, text) of the cards, in order of rank."""
    cards = browser.find_elements(By.CSS_SELECTOR, "#retrieved .card")
    texts = [[pre.get_property("textContent") for pre in card.find_elements(By.TAG_NAME, "pre")] for card in cards]
    return [(int(card.get_attribute("data-source")), *text) for card, text in zip(cards, texts, strict=True)]


def expected_sources(item, method, target):
    texts = item["texts"]
    return [(key, texts[str(key)], texts[str(key + 1)]) for key in item["runs"][method]["sources"][target]]


@pytest.mark.slow
def test_a_click_on_a_chunk_shows_what_it_looked_back_at(browser, opened):
    item = opened("documents.html")["items"][0]
    target = max(i for i, keys in enumerate(item["runs"][1]["sources"]) if len(keys) == 2)
    chunk(browser, target).click()
    assert f"Chunk {item['targets'][target]}" in browser.find_element(By.ID, "detail").text
    own = browser.find_elements(By.CSS_SELECTOR, "#detail > pre")
    assert [pre.get_property("textContent") for pre in own] == [
        item["texts"][str(target - 1)],
        item["texts"][str(target)],
    ]
    assert shown_sources(browser) == expected_sources(item, 1, target)
    first = item["runs"][1]["sources"][target][0]
    card = browser.find_element(By.CSS_SELECTOR, "#retrieved .card").text
    for figure in ("#1", f"chunk {first}", f"{target - first} back", "score"):
        assert figure in card
    browser.find_element(By.CSS_SELECTOR, '#methods input[value="2"]').click()  # recent
    assert shown_sources(browser) == expected_sources(item, 2, target)
    browser.find_element(By.CSS_SELECTOR, '#methods input[value="0"]').click()  # no
    assert "does not look back" in browser.find_element(By.ID, "retrieved").text


@pytest.mark.cases(1)
@pytest.mark.parametrize("canvas", ["loss", "gain", "map"])
def test_a_click_on_a_chart_chooses_the_chunk_below_the_pointer(browser, opened, canvas):
    item = opened("documents.html")["items"][0]
    element, count = browser.find_element(By.ID, canvas), len(item["targets"])
    width, target = element.size["width"], count * 3 // 4
    left, right = 48, 10  # the charts' margins
    x = left + (target + 0.5) * (width - left - right) / count
    ActionChains(browser).move_to_element_with_offset(element, round(x - width / 2), 0).perform()
    tooltip = browser.find_element(By.ID, "tooltip")
    assert tooltip.is_displayed()
    assert f"{item['runs'][1]['losses'][target]:.3f}" in tooltip.text
    ActionChains(browser).click().perform()
    assert shown_sources(browser) == expected_sources(item, 1, target)
    assert "selected" in chunk(browser, target).get_attribute("class")


def test_the_keyboard_chooses_too(browser, opened):
    item = opened("documents.html")["items"][0]
    chunk(browser, 5).click()
    chunk(browser, 5).send_keys(Keys.ARROW_DOWN, Keys.ARROW_DOWN)
    assert "selected" in chunk(browser, 7).get_attribute("class")
    browser.find_element(By.ID, "charts").send_keys(Keys.END)
    assert shown_sources(browser) == expected_sources(item, 1, len(item["targets"]) - 1)


def test_another_document_and_a_stretch_of_it(browser, opened):
    item = opened("documents.html")["items"][1]
    browser.find_element(By.CSS_SELECTOR, '#item option[value="1"]').click()
    rows = browser.find_elements(By.CSS_SELECTOR, "#text .chunk")
    assert len(rows) == len(item["targets"])
    target = next(i for i, keys in enumerate(item["runs"][1]["sources"]) if keys)
    browser.find_element(By.ID, "zoom-in").click()
    chunk(browser, target).click()
    assert shown_sources(browser) == expected_sources(item, 1, target)


def test_a_chat_row_shows_its_turns(browser, opened):
    opened("chats.html")
    chunk(browser, 0).click()
    detail = browser.find_element(By.ID, "detail").text
    assert ROWS[0]["query"] in detail
    assert ROWS[0]["answers"][0] in detail
    assert shown_sources(browser)[0] == (1, ROWS[0]["history"][1])
    chunk(browser, 1).click()
    assert "there is no history" in browser.find_element(By.ID, "retrieved").text


def test_a_single_chunk_without_retrieval(browser, opened):
    item = opened("single.html")["items"][0]
    assert len(item["targets"]) == len(browser.find_elements(By.CSS_SELECTOR, "#text .chunk")) == 1
    browser.find_element(By.ID, "charts").send_keys(Keys.ARROW_RIGHT, "+", "-", Keys.ESCAPE)
    assert f"Chunk {item['targets'][0]}" in browser.find_element(By.ID, "detail").text
    assert "does not look back" in browser.find_element(By.ID, "retrieved").text
    shown = [name for name in ("loss", "gain", "map") if browser.find_element(By.ID, name).is_displayed()]
    assert shown == ["loss"]


@pytest.mark.parametrize("start", [0, -5])
def test_a_chunk_has_the_tokens_that_its_grid_says(browser, opened, pages, start):
    """With kept states it begins with the text, and the last chunk may be shorter; else it ends with it."""
    html = (pages / "single.html").read_text(encoding="utf-8")
    (item,) = data_of(html)["items"]
    target, tokens = item["targets"][0], item["tokens"]
    moved = html.replace(f'"start":{item["start"]},', f'"start":{start},')
    (pages / "moved.html").write_text(moved, encoding="utf-8")
    opened("moved.html")
    first, last = start + 16 * target, min(start + 16 * target + 15, tokens - 1)
    assert f"tokens {first:,} to {last:,} of {tokens:,}" in browser.find_element(By.ID, "detail").text


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_light_and_dark(browser, opened, scheme):
    media = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": media})
    opened("documents.html")
    brightness = "return getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]"
    assert (browser.execute_script(brightness) > 128) == (scheme == "light")
    painted = "const c = document.getElementById('gain'); return c.toDataURL() !== Object.assign("
    painted += "document.createElement('canvas'), {width: c.width, height: c.height}).toDataURL()"
    assert browser.execute_script(painted)
