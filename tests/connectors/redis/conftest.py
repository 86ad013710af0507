"""A link as the parts of a program share it."""

from collections.abc import Iterator
from contextlib import closing
from threading import Event

import pytest

from connectors.redis.link import RedisLink


@pytest.fixture
def link(redis_url: str) -> Iterator[RedisLink]:
    """A link to the shared server, which is empty; nobody tells the program to stop."""
    link = RedisLink(redis_url, Event())
    with closing(link.client):
        yield link
