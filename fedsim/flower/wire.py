"""All names in messages, in replies and in clients' states."""

from __future__ import annotations

from flwr.app import ArrayRecord, ConfigRecord, RecordDict

# Records of a message, and of a reply -----------------------------------------------------------------------------

ARRAYS = "arrays"
"""Message: the global tensors. Reply: the trained tensors, or the sums of a query."""
CONSTANTS = "constants"
"""Tensors that all clients receive beside the model and that are not trained."""
OWN = "own"
"""Tensors for this receiver only."""
CONFIG = "config"
"""Values about the round."""
METRICS = "metrics"
"""Numbers that a client returns."""

# Keys of a message's config ---------------------------------------------------------------------------------------

SERVER_ROUND = "server-round"
BROADCAST = "broadcast"
"""The id of the broadcast that the message belongs to."""
REPLY = "reply"
"""What the server needs: SUM, or each client's own update."""
SUM = "sum"
"""The weighted mean of each chunk; one client of the chunk sends it."""
OWN_UPDATES = "own-updates"
"""Whether the server needs each client's own update in addition to the sum."""
VALIDATION = "validation"
"""Whether the client is evaluated on its validation samples instead of its test samples."""
CLIP_NORM = "clip-norm"
"""The largest norm of an update that client-level privacy allows in this round."""

# Keys of a reply's metrics ----------------------------------------------------------------------------------------

NUM_EXAMPLES = "num-examples"
"""Flower's name for a client's number of samples."""
WEIGHT = "weight"
"""The weight of an update in the server's mean."""

# A client's own update beside the sum that it carries -------------------------------------------------------------

OWN_ARRAYS, OWN_METRICS = "own-arrays", "own-metrics"

# Types of messages ------------------------------------------------------------------------------------------------

TRAIN, EVALUATE = "train", "evaluate"
QUERY = "query."
"""Prefix of a query's message type; the query's name follows."""
HELLO = "fedsim_hello"
"""The query that asks a real node for its identity, and the record with the answer."""

# Records of a client's state, and its context ---------------------------------------------------------------------

PERSONAL, PERSONAL_BUFFERS = "personal", "personal-buffers"
PARTITION_ID, NUM_PARTITIONS = "partition-id", "num-partitions"
"""Flower's names for a client's index and for the number of clients."""


def told_in(content: RecordDict) -> ConfigRecord:
    """Return the configuration in a message. Unlike `config_records`, this copies nothing."""
    told = content[CONFIG]
    assert isinstance(told, ConfigRecord)
    return told


def arrays_in(content: RecordDict, key: str = ARRAYS) -> ArrayRecord:
    """Return the tensors under a key of a message or reply; none if the key is missing. Nothing is copied."""
    arrays = content.get(key)
    return arrays if isinstance(arrays, ArrayRecord) else ArrayRecord()


def round_of(content: RecordDict) -> int:
    """Return the round that a message belongs to."""
    return int(told_in(content)[SERVER_ROUND])  # type: ignore[arg-type]  # values are of many types


def broadcast_of(content: RecordDict) -> str | None:
    """Return the id of the broadcast that a message belongs to, if its configuration has one.

    Use this id to recognise what is equal for a whole broadcast. Do not compare objects by identity: engines differ
    in which objects messages share.
    """
    told = told_in(content).get(BROADCAST) if CONFIG in content else None
    return None if told is None else str(told)


def own_update(content: RecordDict) -> RecordDict:
    """Return the arrays and metrics of one client, also if the client's reply carries its chunk's sum beside them."""
    if OWN_ARRAYS in content:
        return RecordDict({ARRAYS: content[OWN_ARRAYS], METRICS: content[OWN_METRICS]})
    return RecordDict({key: content[key] for key in (ARRAYS, METRICS)})
