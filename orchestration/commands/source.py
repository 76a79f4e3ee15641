"""What the service follows: the champion of a home, as the ledger has it, and its bundle on this machine.

- Most looks ask MLflow for one alias and nothing else; the books are opened where it has moved.
- An alias that a hand moved is judged or put back before anything of it is served.

Not covered: two services on one home: each asks for itself.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from orchestration.commands.home import promoted, promotion_of
from serving.follow import Promoted

if TYPE_CHECKING:
    from assets.settings import Settings

__all__ = ["ChampionSource"]


class ChampionSource:
    """A `serving.follow.Source`; one client of MLflow for as long as it lives."""

    def __init__(self, home: Settings) -> None:
        self._home, self._promotion = home, promotion_of(home)
        self._last: Promoted | None = None

    def current(self) -> Promoted | None:
        """The champion; raises Busy where MLflow, or the file of the books, cannot be had now."""
        from assets.stores import links
        from assets.stores.registry import CHAMPION

        registry = self._promotion.registry
        if not registry.exists:
            return None
        if self._last is not None and registry.aliases().get(CHAMPION) == self._last.version:
            return self._last
        found = promoted(self._home, self._promotion)
        self._last = None
        if found is not None:
            pages = links.of_version(self._home, registry, found)
            self._last = Promoted(version=found.version, digest=found.digest, links=pages)
        return self._last

    def fetch(self, promoted: Promoted) -> Path:
        """Its bundle's folder, downloaded where it is not there yet; raises as `Registry.download` does."""
        from assets.stores.bundles import bundle

        return bundle(self._promotion.registry, promoted.version, promoted.digest, self._home.bundles)
