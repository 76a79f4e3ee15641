"""What a visitor would lose, in a real browser: finding things by words, by a picture, by a part of one, and by both."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from test_page_browser import Visit, address, browser  # noqa: F401
from tiny_bundle import ITEM_IDS
from tiny_content import SUBJECTS, pictures

pytestmark = pytest.mark.slow

FIRST = "#shown .card:first-child"
DROP = """([bytes, name]) => {
  const files = new DataTransfer();
  files.items.add(new File([new Uint8Array(bytes)], name, { type: "image/png" }));
  for (const kind of ["dragenter", "dragover", "drop"]) {
    document.body.dispatchEvent(new DragEvent(kind, { dataTransfer: files, bubbles: true, cancelable: true }));
  }
}"""


def picture(item: int) -> bytes:
    found = pictures()[item]
    assert found is not None
    return found


def first(page: Any, item: int) -> None:
    """Wait until this item is shown first."""
    page.wait_for_selector(f'{FIRST}[data-item="{ITEM_IDS[item]}"]')


def asked(page: Any) -> list[dict[str, Any]]:
    """Bodies of the searches from here on."""
    bodies: list[dict[str, Any]] = []
    page.on("request", lambda each: each.url.endswith("/v1/search") and bodies.append(each.post_data_json))
    return bodies


def test_words_find_what_they_describe_and_lead_to_what_is_like_it(browser: Any, address: str) -> None:  # noqa: F811
    with Visit(browser, address) as visit:
        page = visit.open()
        page.fill("#search-text", SUBJECTS[3])
        page.keyboard.press("Enter")
        page.wait_for_selector("#offer-said:has-text('found for')")
        shown = page.eval_on_selector_all("#shown .card", "cards => cards.map(card => card.dataset.item)")
        assert {ITEM_IDS.tolist().index(item) % len(SUBJECTS) for item in shown[:5]} == {3}
        visit.shot("search-words")
        visit.clean()


def test_a_picture_a_part_of_it_and_words_beside_it(browser: Any, address: str, tmp_path: Path) -> None:  # noqa: F811
    """Chosen as a file; the box drawn with the pointer and moved with keys; the slider says what counts."""
    (tmp_path / "picture.png").write_bytes(picture(20))
    with Visit(browser, address, color_scheme="light") as visit:
        page = visit.open()
        bodies = asked(page)
        page.set_input_files("#search-file", tmp_path / "picture.png")
        first(page, 20)
        frame = page.locator("#crop .crop-frame").bounding_box()
        page.mouse.move(frame["x"] + 2, frame["y"] + 2)
        page.mouse.down()
        page.mouse.move(frame["x"] + frame["width"] * 0.8, frame["y"] + frame["height"] * 0.7, steps=4)
        page.mouse.up()
        page.wait_for_selector("#offer-said:has-text('part of a picture')")
        assert bodies[-1]["box"] == pytest.approx([0, 0, 0.8, 0.7], abs=0.05)
        page.focus("#crop .crop-box")
        with page.expect_response("**/v1/search"):
            page.keyboard.press("ArrowRight")
        assert bodies[-1]["box"][0] == pytest.approx(bodies[-2]["box"][0] + 0.03, abs=1e-6)
        visit.shot("search-part-of-a-picture")
        page.fill("#search-text", SUBJECTS[1])
        page.keyboard.press("Enter")
        page.wait_for_selector("#offer-said:has-text('and part of a picture')")
        with page.expect_response("**/v1/search"):
            page.locator("#mix").fill("0")
        assert bodies[-1]["weights"] == {"text": 2, "image": 0}
        page.wait_for_timeout(100)
        shown = page.get_attribute("#shown .card", "data-item")
        assert ITEM_IDS.tolist().index(shown) % len(SUBJECTS) == 1, "only the words count"
        with page.expect_response("**/v1/search"):
            page.click("text=Without the picture")
        assert "image" not in bodies[-1]
        visit.clean()


def test_a_picture_is_dropped_anywhere(browser: Any, address: str) -> None:  # noqa: F811
    with Visit(browser, address, width=360, color_scheme="dark") as visit:
        page = visit.open()
        page.evaluate(DROP, [list(picture(33)), "dropped.png"])
        first(page, 33)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        visit.shot("search-dropped-phone")
        visit.clean()


def test_what_is_no_picture_is_told(browser: Any, address: str, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "letter.png").write_text("Dear Sir or Madam")
    with Visit(browser, address) as visit:
        page = visit.open()
        page.set_input_files("#search-file", tmp_path / "letter.png")
        page.wait_for_selector("#trouble:has-text('not a picture')")
        visit.clean()
