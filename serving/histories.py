"""Users' histories out of the bundle, read-only: the service never opens the warehouse that a run may be writing.

- `histories.npz`: user_id (U,) text in ascending order, offsets (U + 1,) int64, items (B,) int32 indices, oldest first.
- A user is found by binary search; no dictionary of a million users is built at start.

Not covered: behaviors newer than the bundle (a request may carry its own history), mapping the file instead of reading it.
"""

from __future__ import annotations

from bisect import bisect_left
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from model.errors import BadInput, Corrupt
from model.files import read_npz
from model.histories import Histories

__all__ = ["HISTORIES", "StoredHistories"]

HISTORIES = "histories.npz"


class StoredHistories:
    """U users over a catalogue of `n_items`."""

    def __init__(self, user_id: NDArray[np.str_], histories: Histories) -> None:
        """Raises Corrupt where ids and histories differ in number, or the ids are not in ascending order."""
        if len(user_id) != len(histories) or not (user_id[:-1] < user_id[1:]).all():
            raise Corrupt(
                f"{len(user_id)} user ids over {len(histories)} histories are not one each in ascending order; "
                "run `miss materialize` again"
            )
        self.user_id, self.histories = user_id, histories

    @classmethod
    def load(cls, path: Path, *, n_items: int) -> StoredHistories:
        """Read the file; Corrupt where it is torn, incomplete, or names items the catalogue does not have."""
        arrays = read_npz(path)
        try:
            histories = Histories(offsets=arrays["offsets"], items=arrays["items"], n_items=n_items)
            return cls(arrays["user_id"], histories)
        except (KeyError, BadInput) as error:
            raise Corrupt(f"{path} is not a file of histories ({error}); run `miss materialize` again") from error

    def __len__(self) -> int:
        return len(self.user_id)

    def lookup(self, user: str) -> NDArray[np.int32] | None:
        """Item indices of one user, oldest first; None where the user is not known."""
        # bisect and not searchsorted: numpy would widen, that is copy, all ids to the length of `user` first
        row = bisect_left(self.user_id, user)
        return self.histories[row] if row < len(self) and self.user_id[row] == user else None

    def beginning(self, start: str, limit: int) -> list[str]:
        """At most `limit` users whose id begins with `start`, in the order of their ids."""
        first = bisect_left(self.user_id, start)
        return [user for each in self.user_id[first : first + limit] if (user := str(each)).startswith(start)]

    def examples(self, count: int = 3) -> list[str]:
        """Some known users, for messages."""
        return [str(user) for user in self.user_id[:count]]
