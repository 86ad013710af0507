"""The names of what lotstream keeps in Redis beside what the settings name."""

GROUP = "positions"
"""The consumer group whose last delivered id shows how far the flow is."""

CONSUMER = "flow"
"""The group's consumer: its idle time shows whether the flow is there."""


def count_key(stream: str) -> str:
    """Name the key that holds a stream's number of partitions."""
    return f"{stream}:partitions"


def once_keys(stream: str) -> tuple[str, str, str]:
    """Name a stream and what was published to it, all in one slot of Redis Cluster."""
    tagged = stream if "{" in stream else f"{{{stream}}}"
    return stream, f"{tagged}:published", f"{tagged}:published:times"


def cancelled_key(stream: str) -> str:
    """Name the hash of cancellations whose trades were in no file yet."""
    return f"{stream}:cancelled"


def trace_stream(letters: str) -> str:
    """Name the stream of what was done with the letters of a dead letter stream."""
    return f"{letters}:handled"
