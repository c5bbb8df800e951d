"""Prefect's UI as the tests and the pictures of the docs use it: real pages of a real server, in headless Chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from uuid import UUID

from playwright.sync_api import Locator, Page, ViewportSize, expect, sync_playwright
from prefect.client.schemas.filters import FlowRunFilter, FlowRunFilterId
from prefect.client.schemas.objects import Artifact

from tests.support.deployed import Deployed
from tests.support.polling import eventually

_CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Without the rasterizer drawing takes half the CPU time.
_QUIET = [
    *("--no-sandbox", "--disable-gpu", "--disable-software-rasterizer"),
    *("--disable-background-networking", "--disable-component-update"),
]
_PATIENCE = 30_000  # milliseconds for a page to show something
_SUBMISSIONS = 5
SCREEN: ViewportSize = {"width": 1280, "height": 800}


def chromium() -> str | None:
    """The installed Chromium; None where there is none."""
    return next(filter(None, map(shutil.which, _CHROMIUM)), None)


@contextmanager
def browser_page(executable: str) -> Iterator[Page]:
    """A page in a browser of its own, which ends with the context; nothing asynchronous may run meanwhile."""
    expect.set_options(timeout=_PATIENCE)
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=executable, args=_QUIET) as browser,
    ):
        page = browser.new_page(viewport=SCREEN)
        page.set_default_timeout(_PATIENCE)
        yield page


@dataclass(frozen=True, kw_only=True)
class PrefectUI:
    """The UI of a server, in a browser."""

    page: Page
    deployed: Deployed

    def open(self, path: str, *, older: bool = False) -> Locator:
        """Open a page of the UI, or of the older of the two, and return its main part."""
        base = self.deployed.api_url.removesuffix("/api")
        self.page.goto(f"{base}/{path}" if older else f"{base}/v2/{path}")
        return self.page.locator("body") if older else self.page.get_by_role("main")

    def leave(self) -> None:
        """Leave the UI: each of its pages takes half a core for as long as it is open."""
        self.page.goto("about:blank")

    # The form of a deployment's parameters

    def form(self, deployment: str = "top-words/top-words", *, older: bool = False) -> Locator:
        """The form that "Run" on the deployment's page leads to, once it is filled with the defaults."""
        found = self.deployed.client.read_deployment_by_name(deployment)
        form = self.open(f"deployments/deployment/{found.id}/run", older=older)
        expect(form.get_by_role("button", name="Submit")).to_be_visible()
        expect(form.get_by_text("delay_seconds")).to_be_visible()
        return form

    def choose(self, title: str, option: str) -> None:
        """Choose from the drop-down with that title."""
        self.page.get_by_role("button", name=f"Select {title}").click()
        self.page.get_by_role("option", name=option, exact=True).click()
        self.page.get_by_role("listbox").wait_for(state="detached")

    def submit(self) -> UUID:
        """Submit the form and follow the message that it has begun a run: that run's id.

        Again where the server is too busy, as its SQLite can be: then there is no run.
        """
        begun = self.page.get_by_role("button", name="View run")
        busy = self.page.get_by_text("Unknown error while creating flow run")
        for _ in range(_SUBMISSIONS):
            self.page.get_by_role("button", name="Submit").click()
            expect(begun.or_(busy).first).to_be_visible()
            if begun.is_visible():
                break
            expect(busy).to_have_count(0)
        begun.click()
        self.page.wait_for_url("**/runs/flow-run/**")
        return UUID(self.page.url.split("/flow-run/")[1].split("?")[0])

    # The page of a run

    def run(self, run_id: UUID, tab: str = "Logs") -> Locator:
        main = self.open(f"runs/flow-run/{run_id}?tab={tab}")
        expect(main.get_by_role("tab", name=tab)).to_have_attribute("aria-selected", "true")
        return main

    def log(self, run_id: UUID, *, newest_first: bool = False, errors_only: bool = False) -> Locator:
        """The lines of the run's log; the page holds only those that fit on it, so say which."""
        main = self.run(run_id)
        if newest_first:
            main.get_by_role("combobox", name="log sort order").click()
            self.page.get_by_role("option", name="Newest to oldest").click()
        if errors_only:
            main.get_by_role("combobox", name="log level filter").click()
            self.page.get_by_role("option", name="Error and above").click()
        return main.get_by_role("log").get_by_role("listitem")

    def resume_form(self, run_id: UUID) -> Locator:
        """The form of a paused run: ⋮, Resume."""
        self._menu(run_id, "Resume")
        dialog = self.page.get_by_role("dialog", name="Resume Flow Run")
        expect(dialog.get_by_role("switch").first).to_be_visible()
        return dialog

    def resume(self, form: Locator) -> None:
        """Resume with the answers of the form; again where the server is too busy: then the form stays."""
        for _ in range(_SUBMISSIONS):
            with self.page.expect_response("**/resume", timeout=3 * _PATIENCE) as answer:
                form.get_by_role("button", name="Resume").click()
            if answer.value.ok:
                break
        expect(self.page.get_by_text("Flow run resumed")).to_be_visible()
        self.leave()

    def cancel(self, run_id: UUID) -> None:
        """⋮, Cancel, and yes."""
        self._menu(run_id, "Cancel")
        self.page.get_by_role("alertdialog").get_by_role("button", name="Cancel Flow Run").click()
        expect(self.page.get_by_text("Flow run cancelled")).to_be_visible()

    def _menu(self, run_id: UUID, item: str) -> None:
        self.run(run_id)
        self.page.get_by_role("button", name="Open menu").click()
        self.page.get_by_role("menuitem", name=item, exact=True).click()

    # Artifacts

    def artifact(self, run_id: UUID, key: str, *, older: bool = False) -> Locator:
        """The page of the run's artifact with that key, once the run has written it."""
        only = FlowRunFilter(id=FlowRunFilterId(any_=[run_id]))

        def written() -> list[Artifact]:
            return [each for each in self.deployed.client.read_artifacts(flow_run_filter=only) if each.key == key]

        self.leave()
        found = eventually(f"artifact {key} of run {run_id}", written)[0]
        return self.open(f"artifacts/artifact/{found.id}", older=older)

    def markdown(self, run_id: UUID, key: str) -> Locator:
        """The text of a markdown artifact as it is shown; the page has its source, too."""
        return self.artifact(run_id, key).get_by_test_id("markdown-display")


def cells(table: Locator) -> list[list[str]]:
    """The texts of the rows of a table, without its heading."""
    expect(table.get_by_role("cell").first).to_be_visible()
    read = "table => [...table.rows].slice(1).map(row => [...row.cells].map(cell => cell.innerText.trim()))"
    found: list[list[str]] = table.evaluate(read)
    return found


def drawn_width(picture: Locator) -> int:
    """The width in pixels of a picture that the browser has drawn; fails where it cannot."""
    return int(picture.evaluate("async image => { await image.decode(); return image.naturalWidth }"))
