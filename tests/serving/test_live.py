"""What a caller would lose while a promotion happens: an answer from one bundle, whole, and no error in between."""

from __future__ import annotations

import gc
import threading
import weakref

import pytest

from model.errors import NotReady
from serving.live import Live


class Version:
    """Stands for an engine: only which one it is matters here."""


def test_nothing_promoted_yet_is_one_sentence() -> None:
    """A service started before the first champion says what to do."""
    live = Live()
    assert not live.ready
    with pytest.raises(NotReady, match="miss materialize"):
        _ = live.engine


def test_a_swap_hands_back_what_served_and_keeps_none_of_it() -> None:
    """Twenty promotions a day must not leave twenty models in memory."""
    first, second = Version(), Version()
    live = Live(first)  # type: ignore[arg-type]
    gone = weakref.ref(first)
    assert live.swap(second) is first  # type: ignore[arg-type]
    assert (live.ready, live.engine) == (True, second)
    del first
    gc.collect()
    assert gone() is None


def test_concurrent_swaps_hand_back_each_engine_once() -> None:
    """An engine handed back twice would be closed twice; one never handed back would stay."""
    live = Live()
    versions = [[Version() for _ in range(200)] for _ in range(4)]
    back: list[object] = []

    def swaps(own: list[Version]) -> None:
        back.extend(live.swap(each) for each in own)  # type: ignore[arg-type]

    threads = [threading.Thread(target=swaps, args=(own,)) for own in versions]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seen = [*(each for each in back if each is not None), live.engine]
    assert len(seen) == len({id(each) for each in seen}) == 800
