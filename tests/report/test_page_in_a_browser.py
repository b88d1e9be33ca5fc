"""The report's page as a reader meets it: in a real browser, with pointer, keyboard and a phone's width."""

import json

import numpy as np
import pandas as pd
import pytest

from tests.report.browser import browsing
from transferjax.report import write_sections
from transferjax.report.claims import CLAIMS, check_claims, claims_section
from transferjax.report.page import sections

EVIL = "<script>a()</script>"  # were it to run, or to be stopped by the policy, the console would say so
WIDTHS = (1200, 390)


@pytest.fixture(scope="module")
def driver():
    with browsing() as driver:
        yield driver


@pytest.fixture(scope="module")
def written(tmp_path_factory, make_results, examples):
    """A page with names that are markup."""
    results = make_results(mechanisms=("ST", "SAM", EVIL), targets=("VGG", EVIL))
    two = [
        {**examples, "caption": "ST"},
        {
            **examples,
            "caption": EVIL,
            "labels": [EVIL] * 8,
            "aims": ["dog"] * 8,
            "adversarial": examples["clean"][::-1],
            "clean_predictions": {"VGG": [EVIL] * 8, EVIL: ["cat"] * 8},
            "adversarial_predictions": {"VGG": ["dog"] * 8, EVIL: ["cat"] * 8},
        },
    ]
    rows = pd.concat(
        [results.assign(mechanism=name, seed=seed) for seed in range(3) for name in ("ST", "AT_1")]
    )
    rows["asr"] = np.where(rows["mechanism"] == "AT_1", rows["asr"].clip(upper=0.5) + 0.1, 0.05 * rows["asr"])
    parts = [*sections(results, two), claims_section(check_claims(CLAIMS["sp2024"], {"all": rows}))]
    directory = tmp_path_factory.mktemp("report")
    return write_sections(directory, parts, f"Report {EVIL}", {"title": EVIL}, {}).html.as_uri()


@pytest.fixture
def page(driver, written):
    """The page, opened; at the end it must have been quiet."""
    for log in ("browser", "performance"):
        driver.get_log(log)
    driver.set_window_size(WIDTHS[0], 1000)
    driver.get(written)
    yield driver
    assert driver.get_log("browser") == []
    assert driver.title == f"Report {EVIL}"
    assert asked(driver) == {written}


def asked(driver):
    """Addresses that were asked for, but for pictures that are in the page."""
    messages = (json.loads(entry["message"])["message"] for entry in driver.get_log("performance"))
    urls = {m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"}
    return {url for url in urls if not url.startswith("data:")}


def all_of(driver, selector):
    return driver.find_elements("css selector", selector)


def column(table, index):
    cells = "tbody th" if index == 0 else f"tbody td:nth-child({index + 1})"
    return [
        cell.get_attribute("data-value") or cell.text for cell in table.find_elements("css selector", cells)
    ]


def test_a_head_sorts_down_up_and_back(page):
    table = all_of(page, "table.sortable")[0]
    before, values = column(table, 0), [float(value) for value in column(table, 1)]
    head = table.find_elements("css selector", "thead tr:last-child th")[1]
    for turn, expected in (
        ("descending", sorted(values, reverse=True)),
        ("ascending", sorted(values)),
        ("none", values),
    ):
        head.find_element("tag name", "button").click()
        assert head.get_attribute("aria-sort") == turn
        assert [float(value) for value in column(table, 1)] == expected
    assert column(table, 0) == before
    names = table.find_element("css selector", "thead tr:last-child th button")
    assert names.get_attribute("aria-label") == "Sort by mechanism"
    names.send_keys("\ue007")  # the keyboard's Enter
    assert column(table, 0) == sorted(before, key=str.lower)


def test_missing_numbers_are_last_both_ways(driver, tmp_path, make_results):
    results = make_results(goals=("untargeted",), budgets=(8.0,), seeds=1)
    results = results[(results["mechanism"] != "SAM") | (results["target"] != "VGG")]
    driver.get(write_sections(tmp_path, sections(results), "Gaps").html.as_uri())
    table = all_of(driver, "table.sortable")[0]
    for _ in range(2):
        table.find_elements("css selector", "thead button")[1].click()
        assert column(table, 1)[-1] == "nan"


def test_the_viewer_switches_images_and_attacks_and_says_what_models_say(page):
    def seen():
        return [one for one in all_of(page, ".viewer article") if one.is_displayed()]

    def sources():
        return [img.get_attribute("src") for img in seen()[0].find_elements("css selector", ".window img")]

    assert len(seen()) == 1
    first = sources()
    assert len(set(first)) == 3
    page.execute_script("arguments[0].scrollIntoView()", seen()[0])
    previous, following = all_of(page, ".viewer .controls > button")
    following.click()
    second = sources()
    assert set(first).isdisjoint(second)
    assert all_of(page, ".viewer output")[0].text == "2 of 8"
    following.send_keys("\ue012")  # the left arrow
    assert sources() == first
    previous.click()
    assert all_of(page, ".viewer output")[0].text == "8 of 8"
    all_of(page, ".viewer .strip button")[1].click()
    assert sources() == second
    all_of(page, ".viewer option")[1].click()
    assert all_of(page, ".viewer output")[0].text == "2 of 8"
    [one] = seen()
    assert one.find_element("tag name", "h3").text == f"{EVIL}: label {EVIL}, aim: dog"
    rows = [row.text for row in one.find_elements("css selector", "tbody tr")]
    assert rows[0].startswith("VGG ✓")
    assert rows[0].endswith("★ the aim: dog") or "★" in rows[0]
    assert "✗" in rows[1]


def test_zoom_enlarges_all_three_panes_which_scroll_together(page):
    windows = [one for one in all_of(page, ".viewer .window") if one.is_displayed()]
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", windows[0])

    def width():
        return [one.find_element("tag name", "img").size["width"] for one in windows]

    before = width()
    windows[0].find_element("tag name", "img").click()
    assert len(set(width())) == 1  # scroll bars take a little of each
    assert 3.6 * before[0] < width()[0] <= 4 * before[0]

    def places():
        return page.execute_script("return arguments[0].map(w => [w.scrollLeft, w.scrollTop])", windows)

    page.execute_script("arguments[0].scrollTo(30, 40)", windows[1])
    page.execute_async_script("requestAnimationFrame(() => requestAnimationFrame(arguments[0]))")
    assert places() == [[30, 40]] * 3
    zoom = all_of(page, ".viewer input")[0]
    assert zoom.get_attribute("value") == "4"


def test_points_of_the_plane_tell_their_numbers_to_pointer_and_keyboard(page, make_results):
    points = all_of(page, ".plane .panels svg:first-child .point")
    assert len(points) == 3 * 3
    tip = all_of(page, ".tip")[0]
    assert not tip.is_displayed()
    page.execute_script("arguments[0].scrollIntoView({block: 'center'})", points[0])
    from selenium.webdriver import ActionChains

    ActionChains(page).move_to_element(points[0]).perform()
    assert tip.is_displayed()
    row = make_results().iloc[0]
    assert tip.text.splitlines()[0] == "ST, seed 0 → VGG"
    assert f"λ₁ {row.smoothness:.3g}" in tip.text
    assert f"untargeted: {100 * row.asr:.1f} % at 4/255" in tip.text
    page.execute_script("arguments[0].focus()", points[0])
    ActionChains(page).send_keys("\ue014").perform()  # the right arrow
    assert page.switch_to.active_element == points[1]
    assert tip.text.startswith("ST, seed 1")
    assert len([p for p in all_of(page, ".point") if p.get_attribute("tabindex") == "0"]) == 2  # one a panel
    ActionChains(page).send_keys("\ue00c").perform()  # Escape
    assert not tip.is_displayed()
    legend = all_of(page, ".plane .legend button")[1]
    legend.click()
    assert legend.get_attribute("aria-pressed") == "true"
    assert {p.get_attribute("data-of") for p in all_of(page, ".point.on")} == {"1"}


def test_claims_have_their_verdicts(page):
    claims = all_of(page, ".claims li")
    assert claims[0].text.startswith("✓ holds")
    assert "AT with a small budget" in claims[0].text
    assert claims[0].find_element("css selector", "svg circle")
    assert {one.get_attribute("class") for one in claims} >= {"holds", "untold"}


def test_the_theme_turns_and_is_remembered(page):
    def color():
        return page.execute_script("return getComputedStyle(document.body).backgroundColor")

    seen = []
    for expected in ("Theme: light", "Theme: dark"):
        all_of(page, ".theme")[0].click()
        assert all_of(page, ".theme")[0].text == expected
        seen.append(color())
    assert seen == ["rgb(253, 253, 251)", "rgb(23, 25, 28)"]
    card = "return getComputedStyle(document.querySelector('.picture .scroll')).backgroundColor"
    assert page.execute_script(card) == "rgb(201, 204, 201)"  # figures are white paper, dimmed in the dark
    page.refresh()
    assert color() == seen[1]
    all_of(page, ".theme")[0].click()  # as it was, for the next test
    page.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    )
    assert color() == seen[1]
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


@pytest.mark.parametrize("width", WIDTHS)
def test_nothing_is_wider_than_the_window_but_what_scrolls(page, width):
    metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
    page.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    small = page.execute_script(
        "return [...document.querySelectorAll('button, select')]"
        ".filter(b => b.offsetParent && b.offsetHeight < 24).map(b => b.textContent)"
    )
    assert small == [], "a finger cannot press these"
    assert page.get_screenshot_as_png()[:4] == b"\x89PNG"
    page.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def test_a_screen_reader_finds_names(page):
    nameless = page.execute_script("""
        const named = (e) => e.getAttribute("aria-label") || e.textContent.trim() || e.closest("label");
        return [...document.querySelectorAll("button, a, select, input, [role=region], [role=group]")]
            .filter((e) => !named(e)).map((e) => e.outerHTML.slice(0, 200));
    """)
    assert nameless == []
    assert page.execute_script("return [...document.images].filter(i => !i.hasAttribute('alt')).length") == 0
    assert page.execute_script("return document.documentElement.lang") == "en"
    levels = [int(one.tag_name[1]) for one in all_of(page, "h1, h2, h3")]
    assert levels[0] == 1
    assert max(np.diff(levels)) <= 1
    doubles = page.execute_script(
        "const ids = [...document.querySelectorAll('[id]')].map(e => e.id);"
        "return ids.length - new Set(ids).size"
    )
    assert doubles == 0
