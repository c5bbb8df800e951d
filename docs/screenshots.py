"""Make the pictures of the docs: runs of the deployments on a real Prefect server, in headless Chromium.

python -m docs.screenshots        # needs Debian's chromium package; takes about two minutes
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import UUID

from playwright.sync_api import Page, expect

from local_azure.embedded import embedded_azure
from tests.support.deployed import Deployed
from tests.support.pages import PrefectUI, browser_page, chromium

IMAGES = Path(__file__).resolve().parent / "images"
WIDTH, HEIGHT = 1280, 800  # pixels
DRAWN = 4000  # milliseconds that the graph of a run needs to be drawn; nothing on the page says when it is


@contextmanager
def server_and_worker() -> Iterator[Deployed]:
    """A Prefect server with our deployments, and a worker whose runs use a local Azure that ends with it."""
    deployed = Deployed.starting()
    try:
        with embedded_azure() as settings:
            deployed.deploy()
            deployed.start_worker(settings)
            yield deployed
    finally:
        deployed.stop()


class Camera:
    """Takes the pictures, each of a page as it is opened."""

    def __init__(self, ui: PrefectUI) -> None:
        self._ui = ui
        self._page: Page = ui.page

    def of_the_page(self, name: str, height: int = HEIGHT) -> None:
        """The page from its top, so many pixels of it."""
        self._page.set_viewport_size({"width": WIDTH, "height": height})
        self._page.wait_for_load_state("networkidle")
        self._page.screenshot(path=IMAGES / name)
        self._page.set_viewport_size({"width": WIDTH, "height": HEIGHT})

    def of_a_run(self, name: str, run_id: UUID, seen: str, height: int = HEIGHT) -> None:
        """The page of a run, once its log has a line with that text."""
        expect(self._ui.log(run_id, newest_first=True).filter(has_text=seen).first).to_be_visible()
        self._page.wait_for_timeout(DRAWN)
        self.of_the_page(name, height)


def pictures(ui: PrefectUI) -> None:
    """Three runs: one to be cancelled, one that asks before it cleans up, and one that just runs."""
    camera, deployed = Camera(ui), ui.deployed
    endless = deployed.start(delay_seconds=600)
    asking = deployed.start(delay_seconds=4, clean_up={"job": "ask", "pool": "ask"})
    ui.form()
    camera.of_the_page("form.png", 1100)
    of_one_that_asks(ui, camera, asking)

    deployed.wait_for_log(endless, "2 running, 1 queued")
    ui.cancel(endless)
    deployed.wait(endless, "Cancelled")
    expect(ui.markdown(endless, "run-report").get_by_text("The run was cancelled")).to_be_visible()
    camera.of_the_page("cancelled.png", 900)

    run = deployed.start(top_n=3, delay_seconds=2)
    deployed.wait(run, "Completed")
    camera.of_a_run("run.png", run, "Finished in state Completed()")
    report = ui.artifact(run, "run-report")
    expect(report.get_by_role("img", name="Timeline")).to_be_visible()
    camera.of_the_page("report.png", 2420)


def of_one_that_asks(ui: PrefectUI, camera: Camera, run_id: UUID) -> None:
    ui.deployed.wait_for_log(run_id, "2 of 3 Batch tasks completed")
    states = ui.artifact(run_id, "batch-task-states")
    expect(states.get_by_role("row").filter(has_text="running").first).to_be_visible()
    camera.of_the_page("task-states.png", 520)
    links = ui.artifact(run_id, "sas-links")
    expect(links.get_by_role("link", name="clouds.txt")).to_be_visible()
    camera.of_the_page("sas-links.png", 600)
    ui.deployed.wait(run_id, "Paused")
    form = ui.resume_form(run_id)
    ui.page.wait_for_timeout(DRAWN)
    camera.of_the_page("approval.png")
    form.get_by_role("button", name="Resume").click()
    ui.deployed.wait(run_id, "Completed")


def main() -> None:
    executable = chromium() or sys.exit("Chromium is needed: apt-get install chromium")
    IMAGES.mkdir(exist_ok=True)
    with server_and_worker() as deployed, browser_page(executable) as page:
        pictures(PrefectUI(page=page, deployed=deployed))


if __name__ == "__main__":
    main()
