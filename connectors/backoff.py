"""How long to wait before trying again what may pass: a server that is away."""

from tenacity import wait_exponential, wait_random

BACKOFF = wait_exponential(multiplier=0.1, max=5) + wait_random(0, 0.1)
"""Seconds between retries, for tenacity: 0.1, doubling to 5, with jitter."""
