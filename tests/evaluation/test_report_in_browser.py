"""The report in headless Chromium: no console errors, no request, and controls that do what they say."""

import json
import re
import shutil

import numpy as np
import pytest
from PIL import Image

from sqr.evaluation import analyze, compare, write_figures, write_report
from sqr.evaluation.ground_truth import load_coco
from sqr.evaluation.synthetic import synthetic_dataset, synthetic_predictions

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
STAGES = 4


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """A report of one model and one of two, over twelve images with pictures."""
    directory = tmp_path_factory.mktemp("report")
    data, rng = synthetic_dataset(num_images=12, num_classes=4, seed=1)
    data["categories"][0]["name"] = "</script><b>odd & name"
    for image in data["images"]:
        Image.fromarray(np.full((480, 640, 3), 90, dtype=np.uint8)).save(directory / image["file_name"])
    coco = load_coco(data)
    models = [analyze(synthetic_predictions(data, rng, num_stages=STAGES, num_queries=40), coco) for _ in range(2)]
    outcome = compare(*models, names=("base", "SQR"), resamples=5)
    models[0].predictions.details = "output/base/model_best.pth, 2026-01-02 03:04, sqr analyze --run output/base"
    drawn = write_figures({"base": models[0]}, directory / "figures", formats=["png"])
    one = write_report(directory / "one.html", {"base": models[0]}, image_root=directory, pictures=drawn)
    two = write_report(
        directory / "two.html",
        dict(zip(("base", "SQR"), models, strict=True)),
        image_root=directory,
        comparison=outcome,
    )
    return {"one": one, "two": two, "analysis": models[0]}


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver", reason="selenium is not installed (pip install selenium)")
    if not (CHROMIUM and DRIVER):
        pytest.skip("needs Chromium and its driver (apt-get install chromium chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser, pages):
    def open_page(name):
        browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
        browser.set_window_size(1280, 900)
        browser.get(pages[name].as_uri())
        return browser

    return open_page


def find(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    return [e.text for e in browser.find_elements("css selector", selector)]


def press(browser, selector, key):
    from selenium.webdriver.common.keys import Keys

    find(browser, selector).send_keys(getattr(Keys, key))


def choose(browser, selector, value):
    browser.execute_script(
        "const e = document.querySelector(arguments[0]); e.value = arguments[1];"
        "e.dispatchEvent(new Event('input', {bubbles: true}));",
        selector,
        value,
    )


def document_of(path):
    return json.loads(re.search(r'id="data">(.*?)</script>', path.read_text(), re.S).group(1))


@pytest.mark.parametrize("name", ["one", "two"])
def test_opens_without_console_errors_and_without_the_network(page, name):
    browser = page(name)
    assert texts(browser, "h2")[:2] == ["Summary", "Stage by stage"]
    assert [entry for entry in browser.get_log("browser") if entry["level"] != "DEBUG"] == []
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert all(url.startswith(("file:", "data:")) for url in urls)


def test_the_page_is_one_file_that_forbids_the_network(pages):
    text = pages["two"].read_text()
    assert "default-src 'none'" in text
    assert not re.search(r'(?:src|href)="(?:https?:)?//', text)
    assert "{{" not in text


def test_names_from_the_data_are_text_and_nothing_else(page):
    browser = page("one")
    assert any("</script><b>odd & name" in t for t in texts(browser, "#class-table tbody th"))


def test_cards_and_tables_show_the_analysis(page, pages):
    browser = page("one")
    analysis = pages["analysis"]
    cards = dict(zip(texts(browser, ".card h3"), texts(browser, ".card b"), strict=True))
    assert cards["AP, last stage"] == f"{analysis.stages[-1]['AP']:.1f}"
    assert cards["Oracle AP"] == f"{analysis.oracle['AP']:.1f}"
    rate = analysis.summary()["rates"][0]["fading"]["rate"]
    assert cards["TP fading, IoU 0.5"].replace("\u00a0", " ") == f"{rate:.1f} %"
    assert len(texts(browser, "#class-table tbody tr")) == 4
    assert texts(browser, "header .details") == [analysis.predictions.details]
    best = analysis.summary()["operating_points"]["by_class"][1]
    row = texts(browser, "#class-table tbody tr:nth-child(2) td")
    assert f"{best['threshold']:.2f}" in row and f"{best['f1']:.2f}" in row
    shown = browser.execute_script("return [...document.querySelectorAll('#pictures img')].map(i => i.naturalWidth)")
    assert len(shown) == 3 and min(shown) > 300


def test_stepping_through_the_stages(page):
    browser = page("one")
    assert find(browser, "#stage-value").text == f"{STAGES} of {STAGES}"
    assert not find(browser, "#stage-next").is_enabled()
    last = find(browser, "#stage-text").text
    find(browser, "#stage-previous").click()
    assert find(browser, "#stage-value").text == f"{STAGES - 1} of {STAGES}"
    assert find(browser, "#stage-text").text != last
    press(browser, "#viewer", "ARROW_LEFT")
    assert find(browser, "#stage-value").text == f"{STAGES - 2} of {STAGES}"
    press(browser, "#viewer", "HOME")
    assert find(browser, "#stage-value").text == f"1 of {STAGES}"
    assert not find(browser, "#stage-previous").is_enabled()
    press(browser, "#viewer", "END")
    assert find(browser, "#stage-text").text == last
    press(browser, "#stage", "ARROW_LEFT")
    assert find(browser, "#stage-value").text == f"{STAGES - 1} of {STAGES}"


def test_the_whole_image_can_be_shown(page):
    browser = page("one")
    assert find(browser, ".pane svg").get_dom_attribute("viewBox") != "0 0 640 480"
    find(browser, "#whole-image").click()
    assert find(browser, ".pane svg").get_dom_attribute("viewBox") == "0 0 640 480"
    press(browser, "#viewer", "ARROW_LEFT")
    assert find(browser, "#stage-value").text == f"{STAGES - 1} of {STAGES}"


def test_the_text_says_what_the_data_says(page, pages):
    browser = page("one")
    document = document_of(pages["one"])
    case = document["gallery"]["cases"][0]
    for s, stage in reversed(list(enumerate(case["stages"]))):
        text = find(browser, "#stage-text").text
        assert text.startswith(f"Stage {s + 1}: ")
        assert float(re.search(r"score ([\d.]+)", text).group(1)) == pytest.approx(stage["score"], abs=0.006)
        assert float(re.search(r"IoU ([\d.]+),", text).group(1)) == pytest.approx(stage["iou"], abs=0.006)
        assert ("This stage was the best" in text) == (s == case["best"])
        box = find(browser, ".pane .box")
        assert float(box.get_attribute("x")) == pytest.approx(stage["box"][0])
        assert stage["verdict"] in box.get_attribute("class")
        press(browser, "#viewer", "ARROW_LEFT")


def test_walking_through_the_cases(page):
    browser = page("one")
    first = find(browser, "#case-title").text
    press(browser, "#viewer", "ARROW_DOWN")
    assert find(browser, "#case-title").text != first
    assert find(browser, "[aria-current='true']").get_attribute("data-n") == "1"
    find(browser, "#case-previous").click()
    assert find(browser, "#case-title").text == first
    browser.find_elements("css selector", "#case-list button")[2].click()
    assert " 3 of " in find(browser, "#case-title").text


def test_filters_show_what_they_say(page, pages):
    browser = page("two")
    cases = document_of(pages["two"])["gallery"]["cases"]

    def shown():
        return int(find(browser, "#case-count").text.split()[0])

    def expected(keep):
        return sum(bool(keep(c, c["stages"][-1])) for c in cases)

    assert shown() == len(cases)
    choose(browser, "#filter-kind", "fading")
    assert shown() == expected(lambda c, _: c["kind"] == "fading") < len(cases)
    choose(browser, "#filter-model", "1")
    assert shown() == expected(lambda c, _: c["kind"] == "fading" and c["model"] == 1)
    find(browser, "#filters button").click()
    browser.execute_async_script("setTimeout(arguments[0], 20)")
    assert shown() == len(cases)
    choose(browser, "#filter-class", "2")
    assert shown() == expected(lambda c, _: c["label"] == 2)
    choose(browser, "#filter-class", "")
    choose(browser, "#filter-score", "0.5")
    assert shown() == expected(lambda _, last: last["score"] >= 0.5)
    choose(browser, "#filter-iou", "0.8")
    assert shown() == expected(lambda _, last: last["score"] >= 0.5 and last["iou"] >= 0.8)
    choose(browser, "#filter-score", "1")
    assert shown() == 0
    assert not find(browser, "#viewer").is_displayed()


def test_two_models_stand_side_by_side(page, pages):
    browser = page("two")
    assert len(browser.find_elements("css selector", ".pane")) == 2
    assert [t.split(":")[0] for t in texts(browser, ".pane p")] == ["base", "SQR"]
    browser.set_window_size(760, 900)
    table = find(browser, "#comparison .scroll")
    assert table.get_property("scrollWidth") <= table.get_property("clientWidth")
    assert len(texts(browser, "#comparison tbody tr")) == len(document_of(pages["two"])["comparison"]["rows"])


def test_sorting_by_a_column(page):
    browser = page("one")
    headings = browser.find_elements("css selector", "#class-table th button")
    headings[1].click()
    objects = [int(t) for t in texts(browser, "#class-table tbody td:nth-child(2)")]
    assert objects == sorted(objects, reverse=True)
    assert find(browser, "#class-table th:nth-child(2)").get_attribute("aria-sort") == "descending"
    headings[1].click()
    assert [int(t) for t in texts(browser, "#class-table tbody td:nth-child(2)")] == objects[::-1]


def test_searching_the_images(page):
    browser = page("one")
    choose(browser, "#image-search", "011.jpg")
    assert texts(browser, "#image-table tbody th") == ["000000000011.jpg"]


def test_everything_that_acts_has_a_name_and_can_be_reached(page):
    browser = page("two")
    browser.execute_cdp_cmd("Accessibility.enable", {})
    nodes = browser.execute_cdp_cmd("Accessibility.getFullAXTree", {})["nodes"]
    acting = {"button", "slider", "combobox", "searchbox", "link", "image", "region"}
    nameless = [
        n["role"]["value"]
        for n in nodes
        if not n.get("ignored") and n.get("role", {}).get("value") in acting and not n.get("name", {}).get("value")
    ]
    assert nameless == []
    press(browser, "body", "TAB")
    assert browser.switch_to.active_element.text == "Skip to the gallery"


def test_fits_a_phone(page):
    browser = page("two")
    metrics = {"width": 360, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    browser.refresh()
    assert browser.execute_script("return document.documentElement.scrollWidth") <= 360
    small = browser.execute_script(
        "return [...document.querySelectorAll('button, select, input')].filter(e => e.offsetParent && "
        "!e.closest('th') && e.getBoundingClientRect().height < 28).map(e => e.outerHTML)"
    )
    assert small == []
