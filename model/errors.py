"""The project's exceptions, one tree.

    MissError                  anything this project raises on purpose; the CLI prints its sentence and exits with `exit_code`
    ├── BadInput               what came from outside is not usable: a file, an id, a number       (exit 2)
    ├── NotReady               a step before this one has not been run                             (exit 3)
    │   └── Busy               another process has it, or a server does not answer: try again      (exit 3)
    ├── Refused                a rule forbids it: promotion without a verdict, a second catalogue  (exit 4)
    └── Corrupt                bytes on disk are not what their digest says                        (exit 5)

Every message is one sentence that names the offending value and the way out. Everything else flies to the boundary.
"""

from __future__ import annotations

__all__ = ["BadInput", "Busy", "Corrupt", "MissError", "NotReady", "Refused"]


class MissError(Exception):
    """Base of all deliberate errors."""

    exit_code = 1


class BadInput(MissError):
    """What came from outside is not usable."""

    exit_code = 2


class NotReady(MissError):
    """A step before this one has not been run."""

    exit_code = 3


class Busy(NotReady):
    """Another process has it, or a server does not answer; the same call may do later."""


class Refused(MissError):
    """A rule forbids it."""

    exit_code = 4


class Corrupt(MissError):
    """Bytes on disk are not what their digest says."""

    exit_code = 5
