"""Make the pictures of the docs: run the flow under a Prefect server of its own, and take them in headless Chromium.

python docs/screenshots.py        # needs Debian's chromium package
"""

from __future__ import annotations

import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
from playwright.sync_api import Page, sync_playwright

ROOT = Path(__file__).resolve().parents[1]
IMAGES = ROOT / "docs" / "images"
QUIET = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
START_LIMIT = 60.0  # seconds
DRAWN = 4000  # milliseconds that a page of the UI needs to draw its graph


@contextmanager
def prefect_server(home: Path) -> Iterator[dict[str, str]]:
    """A Prefect server on a free port; gives the environment in which runs report to it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    environment = {**os.environ, "PREFECT_HOME": str(home), "PREFECT_SERVER_API_PORT": port}
    command = [sys.executable, "-m", "prefect", "server", "start", "--host", "127.0.0.1"]
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=log, stderr=log, start_new_session=True)
    try:
        url = f"http://127.0.0.1:{port}/api"
        wait_for_health(url)
        yield {**environment, "PREFECT_API_URL": url}
    finally:
        server.terminate()
        server.wait()


def wait_for_health(url: str) -> None:
    deadline = time.monotonic() + START_LIMIT
    while time.monotonic() < deadline:
        try:
            httpx.get(f"{url}/health").raise_for_status()
            return
        except httpx.HTTPError:
            time.sleep(0.2)
    raise SystemExit(f"the Prefect server at {url} did not start")


def run(environment: dict[str, str], output: Path) -> str:
    """Run the flow on the sample texts; returns the address of the run's page."""
    command = [sys.executable, "-m", "flows.top_words", "data/*.txt", "--delay", "2", "--output", str(output)]
    done = subprocess.run(command, cwd=ROOT, env=environment, check=True, capture_output=True, text=True)
    found = re.search(r"Prefect UI: (\S+)", done.stdout)
    assert found, done.stdout
    return found[1]


def picture(page: Page, address: str, name: str) -> None:
    page.goto(address)
    page.wait_for_timeout(DRAWN)
    page.screenshot(path=IMAGES / name)


def main() -> None:
    chromium = shutil.which("chromium") or sys.exit("chromium is needed: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    with (
        tempfile.TemporaryDirectory() as home,
        prefect_server(Path(home)) as environment,
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=chromium, args=QUIET) as browser,
    ):
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        picture(page, run(environment, Path(home) / "results"), "run.png")


if __name__ == "__main__":
    main()
