"""The names of all that messages, replies and clients' states hold: each once, here."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

# Records of a message, and of a reply -----------------------------------------------------------------------------

ARRAYS = "arrays"
"""The global tensors on the way out; the trained ones, or the sums of a query, on the way back."""
CONSTANTS = "constants"
"""Tensors that go to all clients beside the model and are not trained."""
OWN = "own"
"""Tensors for the receiver alone."""
CONFIG = "config"
"""Values about the round."""
METRICS = "metrics"
"""Numbers that a client sends back."""

# Keys of a message's config ---------------------------------------------------------------------------------------

SERVER_ROUND = "server-round"
BROADCAST = "broadcast"
"""The id of the broadcast that the message is part of."""
REPLY = "reply"
"""What the server needs: SUM, or every client's own update."""
SUM = "sum"
"""Each chunk's weighted mean, which one of its clients carries."""
OWN_UPDATES = "own-updates"
"""Whether every client's own update is wanted beside the sum."""
VALIDATION = "validation"
"""Whether a client is to be evaluated on what it holds out, and not on its test samples."""
CLIP_NORM = "clip-norm"
"""The largest norm of an update that client-level privacy allows in this round."""

# Keys of a reply's metrics ----------------------------------------------------------------------------------------

NUM_EXAMPLES = "num-examples"
"""Flower's name for the number of a client's samples."""
WEIGHT = "weight"
"""Of an update in the server's mean."""

# A client's own update beside the sum that it carries -------------------------------------------------------------

OWN_ARRAYS, OWN_METRICS = "own-arrays", "own-metrics"

# Types of messages ------------------------------------------------------------------------------------------------

TRAIN, EVALUATE = "train", "evaluate"
QUERY = "query."
"""The beginning of a query's message type; its name follows."""
HELLO = "fedsim_hello"
"""The query, and the record of its answer, that asks a real node who it is."""

# Records of a client's state, and its context ---------------------------------------------------------------------

PERSONAL, PERSONAL_BUFFERS = "personal", "personal-buffers"
PARTITION_ID, NUM_PARTITIONS = "partition-id", "num-partitions"
"""Flower's names for the number of a client, and of all clients."""


def told_in(content: RecordDict) -> ConfigRecord:
    """Return the configuration in a message, without the copy of all records that `config_records` makes."""
    told = content[CONFIG]
    assert isinstance(told, ConfigRecord)
    return told


def arrays_in(content: RecordDict, key: str = ARRAYS) -> ArrayRecord:
    """Return the tensors under a key of a message or reply, none where it has no such key; nothing is copied."""
    arrays = content.get(key)
    return arrays if isinstance(arrays, ArrayRecord) else ArrayRecord()


def round_of(content: RecordDict) -> int:
    """Return the round that a message is of."""
    return int(told_in(content)[SERVER_ROUND])  # type: ignore[arg-type]  # values are of many types


def broadcast_of(content: RecordDict) -> str | None:
    """Return the id of the broadcast that a message is part of, if its configuration has one.

    What is the same for all of a broadcast is told by it, and not by which object a message shares with others: that
    differs between engines.
    """
    told = told_in(content).get(BROADCAST) if CONFIG in content else None
    return None if told is None else str(told)


def own_update(content: RecordDict) -> RecordDict:
    """Return the arrays and metrics that one client sent: beside the sum that it carries for its chunk, or alone."""
    if OWN_ARRAYS in content:
        return RecordDict({ARRAYS: content[OWN_ARRAYS], METRICS: content[OWN_METRICS]})
    return RecordDict({key: content[key] for key in (ARRAYS, METRICS)})
