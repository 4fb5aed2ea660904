"""What a client answers."""

from __future__ import annotations

import traceback
from typing import NamedTuple

from flwr.app import RecordDict


class Reply(NamedTuple):
    """One client's answer: a content, or the reason why there is none; and its new state if that changed."""

    content: RecordDict | None
    error: str = ""
    state: RecordDict | None = None


def failed(error: Exception) -> Reply:
    """Return the reply of a client that raised."""
    return Reply(None, f"{type(error).__name__}: {error}\n{''.join(traceback.format_exception(error))}")
