"""What a visitor would lose, in a real browser: a page that works, tells what the service told, by keyboard and on a phone alone.

Chromium without a window against the real service over the tiny bundle. Screenshots go to MISS_SCREENSHOTS (build/screenshots).
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from http_server import serving
from tiny_bundle import ITEM_IDS, USER_IDS, picture

from serving.app import create_app
from serving.engine import Engine
from serving.live import Live

pytestmark = pytest.mark.slow

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
SHOTS = Path(os.environ.get("MISS_SCREENSHOTS", "build/screenshots"))
USER = str(USER_IDS[5])
CARD = "#shown .card .face"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    sync_api = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("there is no Chromium; `apt-get install chromium` brings it")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(engine: Engine, bundle: Path) -> Iterator[str]:
    with serving(create_app(Live(engine), challenger=Live(Engine(bundle, version="8", threads=1)))) as address:
        yield address


class Visit:
    """A page, with what went wrong on it and where it asked."""

    def __init__(self, browser: Any, address: str, *, width: int = 1280, **options: Any) -> None:
        self.context = browser.new_context(viewport={"width": width, "height": 860}, reduced_motion="reduce", **options)
        self.page, self.address, self.odd, self.hosts = self.context.new_page(), address, [], set()
        self.page.set_default_timeout(30_000)
        self.page.on("console", lambda told: told.type in ("error", "warning") and self.odd.append(told.text))
        self.page.on("pageerror", lambda error: self.odd.append(str(error)))
        self.page.on("request", lambda asked: self.hosts.add(asked.url.split("/")[2]))

    def __enter__(self) -> Visit:
        return self

    def __exit__(self, *_: object) -> None:
        self.context.close()

    def open(self, user: str | None = USER) -> Any:
        self.page.goto(self.address + ("/" if user is None else f"/#user={user}"))
        self.page.wait_for_selector("body[data-ready]")
        return self.page

    def shot(self, name: str) -> None:
        SHOTS.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=SHOTS / f"{name}.png", full_page=True)

    def clean(self) -> None:
        assert self.odd == []
        assert self.hosts == {self.address.split("/")[2]}, "nothing is asked of another host"


def why_of(page: Any, item_id: str) -> dict[str, Any]:
    """What the service says of one of the recommended items."""
    told = page.request.post(page.url.split("#")[0] + "v1/recommend", data={"user": USER, "k": 18, "explain": True})
    return next(item["why"] for item in told.json()["items"] if item["item_id"] == item_id)


def lit(page: Any, unit: str) -> set[int]:
    return set(page.eval_on_selector_all(f"#strip li.{unit}", "rows => rows.map(row => Number(row.dataset.position))"))


def counted(page: Any, selector: str, count: int) -> None:
    """Wait for so many; not by a function, which the page's policy would not let run."""
    from playwright.sync_api import expect

    expect(page.locator(selector)).to_have_count(count, timeout=30_000)


def chosen(page: Any, item_id: str) -> None:
    page.wait_for_selector(f'.card.active[data-item="{item_id}"]')


def test_focusing_an_item_lights_what_the_service_says(browser: Any, address: str) -> None:
    with Visit(browser, address, color_scheme="dark") as visit:
        page = visit.open(None)
        page.fill("#user", USER[:6])
        page.click(f'#users li:text-is("{USER}")')
        page.wait_for_selector(".card .rank")
        items = page.eval_on_selector_all("#shown .card", "cards => cards.map(card => card.dataset.item)")
        assert len(items) == 18
        for item in (items[0], items[4]):
            page.focus(f'.card[data-item="{item}"] .face')
            chosen(page, item)
            why = why_of(page, item)
            for unit in ("co", "mm"):
                assert lit(page, unit) == {each["position"] for each in why[unit]}
                listed = page.eval_on_selector_all(
                    f"#why .unit.{unit} li button", "rows => rows.map(row => Number(row.dataset.position))"
                )
                assert listed == [each["position"] for each in why[unit][:5]]
            path = [step["node"] for step in why["path"]]
            page.wait_for_selector(f'.node.on-path[data-node="{path[-1]}"]')
            assert page.eval_on_selector_all(
                ".node.on-path", "all => all.map(each => Number(each.dataset.node)).sort((a, b) => a - b)"
            ) == sorted(path)
        visit.shot("recommendations-dark")
        visit.clean()


def test_pictures_and_initials(browser: Any, address: str) -> None:
    with Visit(browser, address, color_scheme="light") as visit:
        page = visit.open(None)
        page.wait_for_selector(".tile.pictured")
        shown = page.eval_on_selector_all(
            "#shown .card", "cards => cards.map(card => [card.dataset.item, Boolean(card.querySelector('img'))])"
        )
        assert {bool(has) for _, has in shown} == {True, False}
        for item, has in shown:
            assert has == (picture(ITEM_IDS.tolist().index(item)) is not None)
        visit.shot("start-light")
        visit.clean()


def test_a_history_is_built_by_clicking_and_undone(browser: Any, address: str) -> None:
    with Visit(browser, address) as visit:
        page = visit.open(None)
        page.click(f"{CARD} >> nth=2")
        page.wait_for_selector("#strip > li[data-item]")
        page.wait_for_selector(".card .rank")
        first = page.get_attribute("#shown .card", "data-item")
        page.hover("#shown .card >> nth=1")
        page.click("#shown .card .add >> nth=1")
        counted(page, "#strip > li[data-item]", 2)
        page.focus("#strip li:last-child .face")
        page.keyboard.press("Delete")
        counted(page, "#strip > li[data-item]", 1)
        page.wait_for_selector(f'#shown .card:first-child[data-item="{first}"]')
        visit.clean()


def test_by_keyboard_alone(browser: Any, address: str) -> None:
    with Visit(browser, address) as visit:
        page = visit.open(None)
        page.keyboard.press("Tab")
        assert page.evaluate("document.activeElement.className") == "skip"
        for _ in range(12):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.id") == "user":
                break
        assert page.evaluate("document.activeElement.id") == "user"
        page.keyboard.type(USER)
        counted(page, "#users:not([hidden]) li", 1)
        page.keyboard.press("ArrowDown")
        page.keyboard.press("Enter")
        page.wait_for_selector(".card .rank")
        for _ in range(20):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.closest('#shown') !== null"):
                break
        cards = page.eval_on_selector_all("#shown .card", "cards => cards.map(card => card.dataset.item)")
        at = "document.activeElement.closest('.card').dataset.item"
        assert page.evaluate(at) == cards[0]
        page.keyboard.press("ArrowRight")
        assert page.evaluate(at) == cards[1]
        chosen(page, cards[1])
        outline = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert outline != "none", "where one is can be seen"
        page.keyboard.press("End")
        assert page.evaluate(at) == cards[-1]
        page.focus("#canvas [tabindex='0']")
        before = page.evaluate("document.activeElement.dataset.node")
        page.keyboard.press("ArrowLeft")
        page.keyboard.press("ArrowLeft")
        assert page.evaluate("document.activeElement.getAttribute('role')") == "treeitem"
        assert page.evaluate("document.activeElement.dataset.node") != before or before == "0"
        visit.clean()


def test_the_tree_folds_unfolds_and_zooms(browser: Any, address: str) -> None:
    with Visit(browser, address) as visit:
        page = visit.open()
        page.wait_for_selector(".node.leaf.on-path")
        page.click("#tree-fold")
        counted(page, ".node.leaf", 0)
        shown = page.locator(".node").count()
        page.focus('.node[aria-expanded="false"]')
        page.keyboard.press("Enter")
        page.wait_for_selector(f".node >> nth={shown}")
        where = "document.querySelector('.stage').getAttribute('transform')"
        before = page.evaluate(where)
        page.click("#tree-in")
        assert page.evaluate(where) != before
        visit.clean()


def test_two_versions_side_by_side(browser: Any, address: str) -> None:
    with Visit(browser, address) as visit:
        page = visit.open()
        page.click("#tab-compare")
        page.wait_for_selector(".sides .side:nth-child(2) .card")
        assert [page.inner_text(f".side:nth-child({n}) h3") for n in (1, 2)] == [
            "Champion · version 7",
            "Challenger · version 8",
        ]
        assert set(page.locator(".side:nth-child(2) .note").all_inner_texts()) == {"same place"}
        visit.shot("champion-and-challenger")
        visit.clean()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone(browser: Any, address: str, scheme: str) -> None:
    with Visit(browser, address, width=360, has_touch=True, is_mobile=True, color_scheme=scheme) as visit:
        page = visit.open()
        page.wait_for_selector(".card .rank")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360, "nothing to scroll sideways"
        page.tap(f"{CARD} >> nth=1")
        page.wait_for_selector("#why.open .unit")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        visit.shot(f"phone-{scheme}")
        page.tap("#why .close")
        page.wait_for_selector("#why", state="hidden")
        visit.clean()


def test_a_service_that_wants_a_token_asks_for_it(browser: Any, engine: Engine) -> None:
    with serving(create_app(Live(engine), token="secret")) as address, Visit(browser, address) as visit:
        page = visit.page
        page.goto(address)
        page.wait_for_selector("#token[open]")
        page.fill("#token-text", "secret")
        page.keyboard.press("Enter")
        page.wait_for_selector("body[data-ready]")
        page.wait_for_selector(".tile.pictured")
        page.wait_for_selector('.node image[href^="blob:"]', state="attached")
        assert all("401" in told for told in visit.odd)
