"""A headless Chromium that keeps what it logs and which addresses it asks for."""

import os
import shutil

import pytest
from report_samples import write_run

from inversion.report import write_report

FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1400,1000",
)


@pytest.fixture(scope="session")
def browser(tmp_path_factory):
    """A Selenium driver of the distribution's Chromium."""
    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        message = "chromium or chromedriver is missing; install them with: apt-get install chromium chromium-driver"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in (*FLAGS, f"--user-data-dir={tmp_path_factory.mktemp('chromium')}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    found = webdriver.Chrome(options, Service(driver))
    yield found
    found.quit()


@pytest.fixture(scope="session")
def two_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return [write_run(folder / "one"), write_run(folder / "two", shift=100.0)]


@pytest.fixture(scope="session")
def report(two_runs, tmp_path_factory):
    out = tmp_path_factory.mktemp("report") / "report.html"
    return write_report(two_runs, out, resamples=100)


@pytest.fixture
def opened(browser, report):
    """The browser on a freshly loaded report, its logs emptied before."""
    browser.get("about:blank")
    browser.get_log("browser")
    browser.get_log("performance")
    browser.get(report.as_uri())
    return browser
