"""What `miss` said on a terminal; the fixture `miss` runs it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple


class Said(NamedTuple):
    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """The error, which must be one line and nothing else."""
        assert self.out == ""
        assert "Traceback" not in self.err
        assert self.err.startswith("miss: ")
        assert self.err.count("\n") == 1
        return self.err


Miss = Callable[..., Said]
