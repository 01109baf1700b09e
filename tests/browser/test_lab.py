"""Every notebook in JupyterLab in a browser: all cells run, nothing is red, and every control moves its picture.

Only with ./reproduce.sh test --browser, for it takes minutes; it needs Chromium (Debian: apt install chromium).
"""

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from playwright.sync_api import Page

from clsl import ROOT

NOTEBOOKS = sorted(path.stem for path in (ROOT / "notebooks").glob("[0-9]*.ipynb"))
BUSY = "[...document.querySelectorAll('.jp-InputPrompt')].some(e => e.textContent.includes('*'))"
UNDONE = """[...document.querySelectorAll('.jp-CodeCell:not(:has(.jp-Cell-inputWrapper .jp-Placeholder)) .jp-InputPrompt')]
            .filter(e => !/[0-9]/.test(e.textContent)).length"""  # a folded cell shows no number; another comes after it
RED = """[...document.querySelectorAll('[data-mime-type="application/vnd.jupyter.stderr"], [data-mime-type="application/vnd.jupyter.error"]')]
         .map(e => e.textContent)"""


@pytest.fixture(scope="module")
def lab(browser, tmp_path_factory):
    """The address of a JupyterLab that has every notebook with the parameters of the smoke profile, and its trainings at hand."""
    folder = tmp_path_factory.mktemp("lab")
    environment = os.environ | {"CLSL_RUNS": str(folder / "runs"), "CLSL_FIGURES": str(folder), "JUPYTER_CONFIG_DIR": str(folder / "config")}
    environment["JUPYTERLAB_SETTINGS_DIR"] = str(folder / "settings")
    settings = folder / "settings" / "@jupyterlab" / "notebook-extension" / "tracker.jupyterlab-settings"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')  # all cells are in the page, also those out of sight: the test looks at each
    subprocess.run([sys.executable, "-m", "clsl", "reproduce", "smoke"], check=True, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
    for path in (folder / "smoke").glob("*.ipynb"):  # with the parameters, and without what came out
        notebook = nbformat.read(path, as_version=4)
        for cell in notebook.cells:
            if cell.cell_type == "code":
                cell.outputs, cell.execution_count = [], None
        nbformat.write(notebook, path)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    options = [f"--port={port}", "--no-browser", "--allow-root", "--IdentityProvider.token=t", f"--notebook-dir={folder}"]
    with open(folder / "log", "w") as log:
        server = subprocess.Popen([sys.executable, "-m", "jupyterlab", *options], env=environment, stdout=log, stderr=log)
    yield f"http://127.0.0.1:{port}/lab/tree/smoke/{{}}.ipynb?token=t&reset"
    server.terminate()
    server.wait(30)


def opened(page: Page, address: str) -> None:
    for _ in range(60):  # until the server answers
        try:
            page.goto(address)
            break
        except Exception:
            time.sleep(0.5)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=60_000)
    page.get_by_text("(ipykernel) | Idle").wait_for(timeout=60_000)  # else JupyterLab asks which kernel to start


def seconds_until(page: Page, condition: str, limit: float) -> float:
    start = time.perf_counter()
    page.wait_for_function(condition, timeout=1000 * limit)
    return time.perf_counter() - start


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_in_the_browser(lab, browser, name, tmp_path):
    page = browser.new_page(viewport={"width": 1440, "height": 1000})
    opened(page, lab.format(name))
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    start = time.perf_counter()
    first = seconds_until(page, "document.querySelector('.jp-OutputArea img, .jp-OutputArea svg') !== null", 60)
    seconds_until(page, f"!({BUSY}) && ({UNDONE}) === 0", 120)
    whole = time.perf_counter() - start
    assert page.evaluate(RED) == []
    moved = [_moved(page, i) for i in range(page.locator(".widget-slider .noUi-handle").count())]
    print(f"{name}: first figure {first:.1f} s, all {whole:.1f} s; pictures followed in {[f'{1000 * s:.0f} ms' for s in moved]}")
    for width in (1440, 1024):
        high = page.evaluate("[...document.querySelectorAll('.jp-Cell')].reduce((sum, cell) => sum + cell.offsetHeight, 300)")
        page.set_viewport_size({"width": width, "height": min(high, 14_000)})  # the notebook from top to bottom
        page.screenshot(path=Path(os.environ.get("CLSL_SCREENSHOTS", tmp_path)) / f"{name}_{width}.png")
    page.close()
    assert first < 30 and whole < 120 and all(s < 2 for s in moved)


def _moved(page: Page, i: int) -> float:
    """Seconds from a key on a slider's handle to another picture."""
    handle = page.locator(".widget-slider .noUi-handle").nth(i)
    handle.scroll_into_view_if_needed()
    picture = handle.locator("xpath=ancestor::*[contains(@class, 'widget-vbox')]//img")
    before = picture.get_attribute("src")
    handle.focus()
    page.evaluate("window.started = performance.now()")
    handle.press("ArrowRight")
    picture = picture.element_handle()
    page.wait_for_function("([e, before]) => e.src !== before", arg=[picture, before], timeout=20_000, polling=20)
    seconds = page.evaluate("(performance.now() - window.started) / 1000")
    picture.scroll_into_view_if_needed()
    return seconds
