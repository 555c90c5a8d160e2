"""The page of the leaderboard in a browser: clicked through in headless Chromium."""

import http.server
import json
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from oodbench import leaderboard as lb
from oodbench.files import shipped_results
from oodbench.records import read_record

HISTORIC = Path(__file__).parent / "historic"
webdriver = pytest.importorskip("selenium.webdriver")
BROWSER = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
DRIVER = shutil.which("chromedriver") or ""
pytestmark = pytest.mark.skipif(not (BROWSER and DRIVER), reason="no Chromium with its driver here")


@pytest.fixture(scope="module")
def records(reference_board: Any) -> list[dict[str, Any]]:
    return list(reference_board[1])


@pytest.fixture(scope="module")
def frame(reference_board: Any) -> Any:
    """The means of the reference."""
    return reference_board[0].query("view == 'mean'")


@pytest.fixture(scope="module")
def served(
    frame: Any, records: list[dict[str, Any]], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[str, list[str]]]:
    """Address of the page of the reference, and paths that were asked of the server."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "board.html").write_text(lb.render(frame, "html", records), encoding="utf-8")
    asked: list[str] = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *arguments: Any) -> None:
            super().__init__(*arguments, directory=str(folder))

        def end_headers(self) -> None:
            # Otherwise the browser may keep the page, and ask for nothing.
            self.send_header("Cache-Control", "no-store")
            super().end_headers()

        def log_message(self, *arguments: Any) -> None:
            asked.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/board.html", asked
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    options = webdriver.ChromeOptions()
    for argument in ("headless=new", "no-sandbox", "disable-gpu", "disable-dev-shm-usage"):
        options.add_argument(f"--{argument}")
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
    yield driver
    driver.quit()


def screen(browser: Any, width: int, height: int) -> None:
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


@pytest.fixture
def page(browser: Any, served: tuple[str, list[str]]) -> Iterator[Any]:
    """The page, opened anew; afterwards nothing was complained of, and nothing else asked for."""
    address, asked = served
    screen(browser, 1280, 900)
    browser.get("about:blank")
    for kind in ("browser", "performance"):
        browser.get_log(kind)
    asked.clear()
    browser.get(address)
    yield browser
    assert browser.get_log("browser") == []
    events = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    sent = [
        e["params"]["request"]["url"] for e in events if e["method"] == "Network.requestWillBeSent"
    ]
    assert set(sent) <= {address, "data:,"}
    assert asked == ["/board.html"]


def found(page: Any, selector: str) -> list[Any]:
    return list(page.find_elements("css selector", selector))


def shown(page: Any, selector: str) -> list[Any]:
    return [element for element in found(page, selector) if element.is_displayed()]


def names(page: Any) -> list[str]:
    """Names of the rows of the first table, in order."""
    rows = "return [...document.querySelector('table').tBodies[0].rows].map(r => r.dataset.name)"
    return list(page.execute_script(rows))


def head(page: Any, column: str, metric: str) -> Any:
    return found(page, f'th[data-column="{column}"][data-metric="{metric}"]')[0]


def mean_of(frame: Any, column: str) -> Any:
    first = frame[(frame["table"] == frame["table"].iloc[0]) & (frame["column"] == column)]
    return first.set_index("row")


@pytest.mark.parametrize(("metric", "best_first"), [("auroc", False), ("fpr95", True)])
def test_a_column_sorts_the_rows_by_number_the_better_end_first_then_the_other(
    metric: str, best_first: bool, page: Any, frame: Any
) -> None:
    right = mean_of(frame, "linf 8/255")[metric].to_dict()
    before = names(page)
    top = head(page, "linf 8/255", metric)
    for ascending in (best_first, not best_first):
        top.find_element("tag name", "button").click()
        values = [right[name] for name in names(page)]
        assert values == sorted(values, reverse=not ascending)
        assert top.get_attribute("aria-sort") == ("ascending" if ascending else "descending")
    assert names(page) != before
    assert sorted(names(page)) == sorted(before)
    assert (
        len([t for t in found(page, "th[aria-sort]") if t.get_attribute("aria-sort") != "none"])
        == 1
    )


def test_names_sort_too_and_by_the_keyboard(page: Any) -> None:
    button = found(page, "th.name button.sort")[0]
    button.send_keys("\n")
    assert names(page) == sorted(names(page))
    button.send_keys(" ")
    assert names(page) == sorted(names(page), reverse=True)


def test_the_filter_leaves_the_detectors_that_it_names(page: Any, frame: Any) -> None:
    every = set(frame["row"])
    field = found(page, "#text")[0]
    field.send_keys("Atom, msp")
    assert {row.get_attribute("data-name") for row in shown(page, "tbody tr")} == {"atom", "msp"}
    assert found(page, "#count")[0].text == "2 detectors"
    field.clear()
    field.send_keys("nobody")
    assert shown(page, ".setting") == []
    assert shown(page, "#nothing")
    found(page, "button[type=reset]")[0].click()
    # The fields are empty only after the event.
    page.execute_async_script("setTimeout(arguments[0], 20)")
    assert {row.get_attribute("data-name") for row in shown(page, "tbody tr")} == every
    assert not shown(page, "#nothing")


def test_a_preset_can_be_chosen(page: Any) -> None:
    presets = [s.get_attribute("data-preset") for s in shown(page, ".setting")]
    assert presets == ["standard", "paper"]
    found(page, 'select[data-filter="preset"] option:nth-child(3)')[0].click()
    assert [s.get_attribute("data-preset") for s in shown(page, ".setting")] == ["paper"]


def test_one_perturbation_can_be_chosen_and_sorted_by(page: Any, frame: Any) -> None:
    select = found(page, 'select[data-filter="column"]')[0]
    (option,) = [o for o in select.find_elements("tag name", "option") if o.text == "linf 8/255"]
    option.click()
    assert {h.text for h in shown(page, "th.group")} == {"linf 8/255"}
    right = mean_of(frame, "linf 8/255")
    head(page, "linf 8/255", "auroc").find_element("tag name", "button").click()
    rows = shown(page, ".setting:first-of-type tbody tr")
    order = right.sort_values("auroc", ascending=False)
    assert [row.get_attribute("data-name") for row in rows] == list(order.index)
    values = [value.text for value in shown(page, ".setting:first-of-type .value")]
    for place, (name, cell) in enumerate(order.iterrows()):
        texts = [f"{100 * cell[metric]:.2f}" for metric in ("fpr95", "auroc", "accuracy")]
        assert [text.rstrip("†\n") for text in values[3 * place : 3 * place + 3]] == texts, name
    found(page, "button[type=reset]")[0].click()
    page.execute_async_script("setTimeout(arguments[0], 20)")
    assert len(shown(page, ".setting:first-of-type th.group")) == 4


def test_a_figure_leads_to_its_records(
    page: Any, frame: Any, records: list[dict[str, Any]]
) -> None:
    cell = mean_of(frame, "linf 8/255").loc["sofl"]
    button = next(
        b
        for b in found(page, 'tr[data-name="sofl"] button.cell')
        if "linf 8/255, AUROC" in b.get_attribute("aria-label")
    )
    button.click()
    (panel,) = shown(page, "dialog")
    assert shown(page, "#panel-title")[0].text == "sofl · linf 8/255"
    assert f"{100 * cell['auroc']:.2f} ± {100 * cell['auroc_std']:.2f}" in panel.text
    assert "twice the gradient steps" in panel.text
    details = found(page, "#panel details")
    assert len(details) == len(cell["records"]) == 15
    details[3].find_element("tag name", "summary").click()
    # An element says that it is open after it was drawn.
    text = ""
    for _ in range(50):
        text = details[3].text
        if "identity" in text:
            break
        page.execute_async_script("setTimeout(arguments[0], 20)")
    record = next(r for r in records if r["identity"] == cell["records"][3])
    low, high = (100 * end for end in record["intervals"]["auroc"])
    assert f"{100 * record['auroc']:.2f} [{low:.2f}, {high:.2f}]" in text
    for part in (record["identity"], record["cell_key"], record["digests"]["weights"]):
        assert part in text
    assert "zero_gradient" in text
    assert record["notes"][0] in text
    (file,) = re.findall(r"^mini/sofl/.*\.json$", text, flags=re.M)
    assert read_record(shipped_results() / file) == record
    page.switch_to.active_element.send_keys("\ue00c")
    assert shown(page, "dialog") == []
    assert page.switch_to.active_element == button


def test_a_click_beside_the_panel_or_on_close_ends_it(page: Any) -> None:
    found(page, "button.cell")[0].click()
    found(page, "#close")[0].click()
    assert shown(page, "dialog") == []


@pytest.mark.parametrize("width", [1280, 390])
def test_a_screen_is_never_wider_than_it_is(width: int, page: Any, tmp_path: Path) -> None:
    screen(page, width, 844)
    wide = "return [document.documentElement.scrollWidth, innerWidth]"
    scrolled, inner = page.execute_script(wide)
    assert scrolled <= inner == width
    name = found(page, "tbody th.name")[0]
    perturbation = found(page, 'select[data-filter="column"] option:nth-child(4)')[0]
    perturbation.click()
    table = found(page, ".scroll")[0]
    sizes = page.execute_script(
        "return [arguments[0].scrollWidth, arguments[0].clientWidth]", table
    )
    assert sizes[0] <= sizes[1]
    found(page, "button[type=reset]")[0].click()
    page.execute_async_script("setTimeout(arguments[0], 20)")
    page.execute_script("document.querySelector('.scroll').scrollLeft = 300")
    assert name.rect["x"] >= 0
    page.execute_script("document.querySelector('.scroll').scrollLeft = 0")
    found(page, "button.cell")[0].click()
    assert shown(page, "dialog")[0].rect["width"] <= width


def test_every_control_has_a_name_and_every_id_is_one(page: Any) -> None:
    unnamed = """return [...document.querySelectorAll('button, input, select')].filter(
        e => !(e.getAttribute('aria-label') || e.textContent.trim() || (e.labels || []).length)
    ).length"""
    assert page.execute_script(unnamed) == 0
    ids = page.execute_script("return [...document.querySelectorAll('[id]')].map(e => e.id)")
    assert len(ids) == len(set(ids))
    for table in found(page, "table"):
        assert table.get_attribute("aria-describedby") in ids


def test_a_hostile_name_runs_nothing(browser: Any, tmp_path: Path) -> None:
    name = "</script><img src=x onerror='window.hit=1'><script>window.hit=1</script>"
    records = [read_record(file) for file in sorted(HISTORIC.glob("*.json"))]
    records = [
        {**r, "detector": name, "notes": [name], "set": name, "params": {name: name}}
        for r in records
    ]
    path = tmp_path / "hostile.html"
    path.write_text(lb.render(lb.summary(records), "html", records), encoding="utf-8")
    browser.get_log("browser")
    browser.get(path.as_uri())
    found(browser, "button.cell")[0].click()
    assert shown(browser, "dialog")
    assert browser.execute_script("return window.hit === undefined")
    assert not found(browser, "img, iframe, main script")
    assert browser.get_log("browser") == []


def test_dark_is_dark(page: Any) -> None:
    background = "return getComputedStyle(document.body).backgroundColor"
    seen = {}
    for scheme in ("light", "dark"):
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        seen[scheme] = page.execute_script(background)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    assert seen["light"] == "rgb(255, 255, 255)"
    assert seen["dark"] != seen["light"]
