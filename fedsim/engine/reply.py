"""The reply of one client."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from flwr.app import RecordDict


class Reply(NamedTuple):
    """One client's reply: its content, or an error; and the client's new state if that changed."""

    content: RecordDict | None
    error: str = ""
    state: RecordDict | None = None


def failed(error: Exception) -> Reply:
    """Return the reply of a client that raised an exception."""
    return Reply(None, f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}")
