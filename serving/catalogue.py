"""The items of a bundle by id, title and category.

- Categories of an item are one text, separated by commas, as the sources write them; each part counts by itself, letter by letter.

Not covered: words in another order, spelling mistakes: that is what searching by text is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import cached_property
from itertools import islice
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput

__all__ = ["Catalogue", "Recommended", "named_some"]


class Recommended(TypedDict):
    """One recommended item."""

    item_id: str
    title: str
    score: float


def named_some(names: Sequence[str]) -> str:
    """The first five in quotes, and how many more."""
    return ", ".join(map(repr, names[:5])) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


class Catalogue:
    """N items."""

    def __init__(
        self,
        *,
        item_id: NDArray[np.str_],
        title: NDArray[np.str_],
        categories: NDArray[np.str_],
        counts: NDArray[np.int64],
        pictured: Callable[[int], bool] = lambda _: False,
    ) -> None:
        """Row i of each (N,) is item i; counts: behaviors with it in the training part of the logs.

        pictured: whether item i has a picture.
        """
        self.pictured = pictured
        self.item_id, self.title, self._categories, self.counts = item_id, title, categories, counts
        self.by_popularity: NDArray[np.int64] = np.lexsort((np.arange(len(item_id)), -counts))
        self._index = {str(item): index for index, item in enumerate(item_id)}

    def __len__(self) -> int:
        return len(self.item_id)

    def find(self, item_id: str) -> int | None:
        """Index of an item; None where it is not known."""
        return self._index.get(item_id)

    def to_indices(self, item_ids: Sequence[str]) -> NDArray[np.int64]:
        """(n,) int64 indices of ids; BadInput naming those the catalogue does not have."""
        unknown = list(dict.fromkeys(item for item in item_ids if item not in self._index))
        if unknown:
            raise BadInput(
                f"the promoted model does not know item {named_some(unknown)}; leave it out, or ingest it and run "
                "`miss materialize`"
            )
        return np.array([self._index[item] for item in item_ids], dtype=np.int64)

    def categories(self, index: int) -> list[str]:
        """Of one item, in the source's order."""
        return _parts(str(self._categories[index]))

    def outside(self, categories: Sequence[str]) -> NDArray[np.int64]:
        """(n,) indices of the items that have none of `categories`, ascending; none where no category is named.

        Raises BadInput naming the categories that no item has.
        """
        if not categories:
            return np.zeros(0, dtype=np.int64)
        if unknown := [each for each in dict.fromkeys(categories) if each not in self._members]:
            raise BadInput(f"no item of the promoted model has the category {named_some(unknown)}; leave it out")
        within = np.zeros(len(self), dtype=bool)
        for each in categories:
            within[self._members[each]] = True
        return np.flatnonzero(~within)

    def titled(self, query: str, limit: int) -> list[int]:
        """At most `limit` items whose title contains `query`, whatever the case, those with most behaviors first."""
        return list(islice(self._containing(query.casefold()), limit))

    def named(self, items: NDArray[np.int64], scores: NDArray[Any]) -> list[Recommended]:
        """Items (k,) with their scores (k,), less those that are -1."""
        return [
            Recommended(
                item_id=str(self.item_id[item]),
                title=str(self.title[item]),
                score=float(score),
            )
            for item, score in zip(items.tolist(), scores, strict=True)
            if item >= 0
        ]

    def _containing(self, query: str) -> Iterator[int]:
        return (item for item in self.by_popularity.tolist() if query in self._folded[item])

    @cached_property
    def _folded(self) -> list[str]:
        return [title.casefold() for title in self.title.tolist()]

    @cached_property
    def _members(self) -> dict[str, list[int]]:
        members: dict[str, list[int]] = {}
        for index, text in enumerate(self._categories.tolist()):
            for each in _parts(text):
                members.setdefault(each, []).append(index)
        return members


def _parts(text: str) -> list[str]:
    return list(dict.fromkeys(part for each in text.split(",") if (part := each.strip())))
