"""A real browser for tests: Debian's Chromium through Selenium; skipped, with a reason, without them."""

import contextlib
import shutil

import pytest

BROWSERS, DRIVERS = ("chromium", "chromium-browser", "google-chrome"), ("chromedriver",)


def _program(names):
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None:
        pytest.skip(f"no {names[0]} on this machine: apt-get install chromium chromium-driver")
    return found


@contextlib.contextmanager
def browsing():
    """A driver; its `get_log` of "browser" is the console, of "performance" the network's events."""
    selenium = pytest.importorskip("selenium.webdriver", reason="needs selenium: pip install '.[test]'")
    options = selenium.ChromeOptions()
    options.binary_location = _program(BROWSERS)
    for argument in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--force-prefers-reduced-motion",
    ):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    driver = selenium.Chrome(options=options, service=selenium.ChromeService(_program(DRIVERS)))
    try:
        yield driver
    finally:
        driver.quit()
