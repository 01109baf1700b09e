"""The page, a notebook as a page and the slides in Chromium: legible at three widths, in the dark and in print; the circle plays.

Only with ./reproduce.sh test --browser; it needs Chromium (Debian: apt install chromium).
"""

import math
import random

import pytest
import torch
from playwright.sync_api import Page

from clsl.data import downloads
from clsl.lab import slides
from clsl.losses import cl_infonce
from test_site import made

_AXE = ("axe-core@4.10.3", "0f2b4d7dcdf7d1219df8d1959ad68e565f51d14c3f0d88bb71cd59abeb956292", 563802)


def opened(browser, path, width: int = 1024, **looks) -> Page:
    page = browser.new_page(viewport={"width": width, "height": 800}, **looks)
    wrong = page.wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: request.url.startswith(("file:", "data:")) or wrong.append(request.url))
    page.goto(path.as_uri())
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true })")
    return page


@pytest.mark.parametrize("looks", [{}, {"color_scheme": "dark"}], ids=["light", "dark"])
@pytest.mark.parametrize("width", [390, 1024, 1440])
def test_pages_fit_and_can_be_read_by_all(browser, width, looks):
    """Nothing is wider than the screen, nothing is asked for over the network, and axe finds nothing serious."""
    package, sha256, size = _AXE
    axe = downloads.once(package, lambda into: downloads.from_npm(package, sha256, into, size)) / "package" / "axe.min.js"
    index = made()
    for path in (index, index.with_name("03_wordnet.html")):
        page = opened(browser, path, width, **looks)
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.add_script_tag(content=axe.read_text())
        found = page.evaluate("axe.run().then(all => all.violations.map(each => [each.impact, each.id, each.nodes[0].html]))")
        assert [each for each in found if each[0] in ("serious", "critical")] == []
        blend = page.evaluate("getComputedStyle(document.querySelector('svg.drawing')).mixBlendMode")
        assert blend == ("screen" if looks else "multiply")  # else a drawing is black on black
        dark = page.evaluate("getComputedStyle(document.body).backgroundColor") != "rgb(255, 255, 255)"
        assert dark == bool(looks) and page.wrong == []
        page.close()


def test_no_column_is_lost_in_print(browser):
    """On paper everything is open, on white, and within A4's width."""
    page = opened(browser, made(), 718, color_scheme="dark")  # A4 less a centimetre on either side, at 96 pixels an inch
    page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = false })")
    page.emulate_media(media="print", color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    right = page.evaluate("Math.max(...[...document.querySelectorAll('th, td, svg')].map(e => e.getBoundingClientRect().right))")
    assert right <= 718 and page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    assert max(page.evaluate("[...document.querySelectorAll('.forest tr')].map(row => row.getBoundingClientRect().height)")) < 50
    assert page.locator("th", has_text="k-NN, %").first.is_visible() and not page.locator("#circle").is_visible()


def test_the_loss_of_the_page_is_the_package_s(browser):
    page, draw = opened(browser, made()), random.Random(0)
    for k, temperature in ((1, 0.5), (3, 0.5), (4, 0.05), (8, 5.0)):
        half = [i % k for i in range(2 * k)]
        angles = torch.tensor([2 * math.pi * draw.random() for _ in range(4 * k)], dtype=torch.float64, requires_grad=True)
        points = torch.stack([angles.cos(), angles.sin()], dim=1)
        loss = cl_infonce(*points.chunk(2), torch.tensor(half), temperature)
        loss.backward()
        theirs, gradient = page.evaluate("([a, z, t]) => lossAndGradient(a, z, t)", [angles.tolist(), half + half, temperature])
        assert theirs == pytest.approx(loss.item(), rel=1e-9)
        assert gradient == pytest.approx(angles.grad.tolist(), rel=1e-7, abs=1e-9)


def test_the_circle_follows_a_drag_the_keys_and_the_sliders(browser):
    page = opened(browser, made())
    circle = page.locator("#circle")
    circle.scroll_into_view_if_needed()
    box, point = circle.bounding_box(), page.locator("#circle g").first.locator("circle").bounding_box()
    page.wait_for_function("Number(document.getElementById('loss').value) > 0")
    page.get_by_role("button", name="Stop").click()
    point = page.locator("#circle g").first.locator("circle").bounding_box()
    page.mouse.move(point["x"] + point["width"] / 2, point["y"] + point["height"] / 2)
    page.mouse.down()
    held = page.evaluate("held")
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 20)  # to the top
    assert page.evaluate(f"angles[{held}]") == pytest.approx(math.pi / 2, abs=0.05)
    page.wait_for_function(f"document.querySelector('#circle [data-i=\"{held}\"]').getBoundingClientRect().top < {box['y'] + box['height'] / 4}")
    page.mouse.up()
    point = page.locator("#circle g").nth(2)
    point.focus()
    place, angle = int(point.get_attribute("aria-valuenow")), page.evaluate("angles[2]")
    page.keyboard.down("ArrowRight")  # clockwise
    assert page.evaluate("[held, angles[2]]") == [2, pytest.approx(angle - math.pi / 36)]
    page.wait_for_function(f"document.querySelectorAll('#circle g')[2].getAttribute('aria-valuenow') == {(place + 5) % 360}")
    page.keyboard.up("ArrowRight")
    assert page.evaluate("held") is None
    for name, key, least in (("k", "End", 32), ("k", "Home", 4)):
        page.locator(f"#{name}").press(key)
        assert page.locator("#circle g").count() == least
    before = page.locator("#loss").text_content()
    page.locator("#tau").press("End")
    page.wait_for_function("before => document.getElementById('loss').value !== before", arg=before)
    assert page.wrong == []


def test_slides_need_no_network(browser):
    made()
    page = opened(browser, slides.write("smoke") / "03_wordnet.html", 1280)
    assert page.evaluate("Reveal.getTotalSlides()") == 3
    assert page.locator("section.present h1").inner_text().startswith("A title")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.wait_for_function("Reveal.getIndices().h === 2")
    box = page.locator("section.present figure svg").bounding_box()
    assert box["x"] >= 0 and box["x"] + box["width"] <= 1280 and box["y"] + box["height"] <= 800
    assert page.wrong == []
