"""The metrics as Prometheus sees them, and that dashboard and alerts name no others."""

import json
import math
import re
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import redis as redis_py
import yaml
from prometheus_client import REGISTRY
from prometheus_client.parser import text_string_to_metric_families

from connectors import codec, metrics
from flows.common.settings import Settings
from flows.job import exporter
from tests.conftest import OwnServer
from tests.support.hash_values import commit, position, put
from tests.support.servers import free_port

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
DASHBOARD, ALERTS = DEPLOY / "grafana-dashboard.json", DEPLOY / "alert-rules.yml"
# What Python's client adds by itself.
PROCESS = {"process_resident_memory_bytes"}


@pytest.fixture
def settings(redis_url: str) -> Settings:
    return Settings(redis_url=redis_url, metrics_port=free_port())  # type: ignore[arg-type]


@pytest.fixture
def served(settings: Settings) -> Iterator[Settings]:
    stop = exporter.start(settings)
    yield settings
    stop()


def scrape(settings: Settings) -> dict[str, float]:
    """Return each sample of the project's own, named as in the text: name{label="value"}."""
    with urllib.request.urlopen(f"http://127.0.0.1:{settings.metrics_port}/metrics") as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f"{{{name}={value}}}" for name, value in sample.labels.items()): (
            sample.value
        )
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if sample.name.startswith("lotstream_")
    }


def test_what_the_flow_counts_is_served(served: Settings) -> None:
    before = scrape(served)
    metrics.EXECUTIONS_BOOKED.inc(7)
    metrics.EXECUTIONS_DUPLICATE.inc(2)
    metrics.DEAD_LETTERS.labels(metrics.field_of("side: expected BUY")).inc()
    metrics.PARQUET_ROWS.labels("positions").inc(5)
    metrics.BATCH_ENTRIES.observe(3)
    metrics.EPOCH_CLOSE_SECONDS.observe(0.02)
    after = scrape(served)

    def grown(name: str) -> float:
        return after[name] - before.get(name, 0)

    assert grown("lotstream_executions_booked_total") == 7
    assert grown("lotstream_executions_duplicate_total") == 2
    assert grown("lotstream_dead_letters_total{reason=side}") == 1
    assert grown("lotstream_parquet_rows_total{data_set=positions}") == 5
    assert grown("lotstream_batch_entries_count") == 1
    assert grown("lotstream_epoch_close_seconds_bucket{le=0.025}") == 1
    assert grown("lotstream_epoch_close_seconds_bucket{le=0.01}") == 0


def test_what_can_be_seen_in_redis_is_looked_up(served: Settings, redis: redis_py.Redis) -> None:
    first = redis.xadd("executions", {"a": "1"})
    redis.xadd("executions", {"a": "2"})
    redis.xadd("executions:dead", {"a": "1"})
    assert isinstance(first, bytes)
    commit(redis, first.decode(), read=1)
    put(
        redis,
        position("A", realized_pnl="1.25"),
        position("B", realized_pnl="-0.5", qty=0),
        position("C", realized_pnl="7", currency="EUR"),
    )
    seen = scrape(served)
    assert seen["lotstream_redis_up"] == 1
    assert seen["lotstream_stream_lag_entries{stream=executions}"] == 1
    assert 0 <= seen["lotstream_stream_lag_seconds{stream=executions}"] < 60
    assert 0 <= seen["lotstream_stream_committed_age_seconds{stream=executions}"] < 60
    assert seen["lotstream_dead_letters_waiting"] == 1
    assert seen["lotstream_positions_open"] == 2
    assert seen["lotstream_realized_pnl{currency=USD}"] == 0.75
    assert seen["lotstream_realized_pnl{currency=EUR}"] == 7


def broker_knows(redis: redis_py.Redis, *accounts: str) -> None:
    seconds, _ = redis.time()
    redis.hset(
        "broker", ":state", json.dumps({"accounts": dict.fromkeys(accounts, seconds * 1000)})
    )


def test_breaks_are_counted_while_the_brokers_side_is_known(
    served: Settings, redis: redis_py.Redis
) -> None:
    seen = scrape(served)
    assert math.isnan(seen["lotstream_broker_known"])
    assert math.isnan(seen["lotstream_breaks"])
    redis.hset("broker:breaks", "A", "{}")
    broker_knows(redis, "U1")
    seen = scrape(served)
    assert (seen["lotstream_broker_known"], seen["lotstream_breaks"]) == (1, 1)
    broker_knows(redis)
    seen = scrape(served)
    assert seen["lotstream_broker_known"] == 0
    assert math.isnan(seen["lotstream_breaks"])


def test_what_is_gone_or_cannot_be_told_has_no_figure(
    served: Settings, redis: redis_py.Redis
) -> None:
    put(redis, position("A", currency="EUR"))
    ids = [redis.xadd("executions", {"a": "1"}) for _ in range(4)]
    assert scrape(served)["lotstream_realized_pnl{currency=EUR}"] == 0
    redis.delete("positions")
    redis.xdel("executions", ids[2])  # so the server cannot tell the lag
    redis.xgroup_create("executions", "positions", ids[1])
    seen = scrape(served)
    assert "lotstream_realized_pnl{currency=EUR}" not in seen
    assert "lotstream_stream_lag_entries{stream=executions}" not in seen
    assert "lotstream_stream_lag_seconds{stream=executions}" in seen


def test_a_hash_that_holds_something_else_shows_as_an_absent_redis(
    served: Settings, redis: redis_py.Redis
) -> None:
    redis.hset("positions", "A", "no position")
    assert scrape(served)["lotstream_redis_up"] == 0


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere 127.0.0.2 is no address of ours")
def test_it_is_served_on_one_loopback_address_only(served: Settings) -> None:
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.2", served.metrics_port or 0)).close()


def test_a_process_that_has_not_counted_says_0_and_one_that_does_not_know_nothing() -> None:
    code = ("import prometheus_client, connectors.metrics; "
            "print(prometheus_client.generate_latest().decode())")  # fmt: skip
    told = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    for data_set in ("positions", "closed_lots", "valuations"):
        for what in ("rows", "files"):
            assert f'lotstream_parquet_{what}_total{{data_set="{data_set}"}} 0.0\n' in told
    for name in (
        "base_total_pnl", "base_unrealized_pnl", "rates_missing",
        "dead_letters_waiting", "positions_open", "broker_known", "breaks",
    ):  # fmt: skip
        assert f"lotstream_{name} NaN\n" in told


def test_an_absent_redis_shows_as_such_and_no_old_figure_stays(own_server: OwnServer) -> None:
    server = own_server()
    settings = Settings(redis_url=server.url, metrics_port=free_port())  # type: ignore[arg-type]
    with server.client() as client:
        put(client, position("A"))
        client.xadd("executions", {"a": "1"})
        broker_knows(client, "U1")
    stop = exporter.start(settings)
    assert scrape(settings)["lotstream_stream_lag_entries{stream=executions}"] == 1
    server.kill()
    seen = scrape(settings)
    assert seen["lotstream_redis_up"] == 0
    assert not [name for name in seen if name.startswith(("lotstream_stream", "lotstream_real"))]
    for name in ("positions_open", "dead_letters_waiting", "broker_known", "breaks"):
        assert math.isnan(seen[f"lotstream_{name}"]), name
    server.start()
    assert scrape(settings)["lotstream_redis_up"] == 1
    stop()


def test_scrapes_that_come_at_once_are_answered_one_after_the_other() -> None:
    """Else one would see what another has forgotten and is about to set."""
    begun_and_over: list[int] = []

    def refresh() -> None:
        begun_and_over.append(1)
        time.sleep(0.02)
        begun_and_over.append(0)

    port = free_port()
    stop = metrics.serve(port, refresh)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(urllib.request.urlopen, [f"http://127.0.0.1:{port}/metrics"] * 3))
    stop()
    assert begun_and_over == [1, 0] * 3


def test_without_a_port_nothing_is_served(redis_url: str) -> None:
    exporter.start(Settings(redis_url=redis_url))()  # type: ignore[arg-type]


def test_a_port_that_is_taken_is_said_in_one_line(served: Settings) -> None:
    with pytest.raises(SystemExit, match=r"^lotstream: METRICS_PORT: expected a free port, found"):
        exporter.start(served)


def test_each_reason_is_there_before_its_first_dead_letter(served: Settings) -> None:
    seen = scrape(served)
    for name in codec._KNOWN:
        assert f"lotstream_dead_letters_total{{reason={name.decode()}}}" in seen


def test_every_metric_has_a_help_text_and_a_name_by_convention() -> None:
    families = [f for f in REGISTRY.collect() if f.name.startswith("lotstream_")]
    assert len(families) >= 17
    for family in families:
        assert family.documentation.endswith("."), family.name
        assert re.fullmatch(r"lotstream_[a-z]+(_[a-z]+)*", family.name)
        assert (family.type == "histogram") == (family.name in HISTOGRAMS), family.name


HISTOGRAMS = {"lotstream_batch_entries", "lotstream_epoch_close_seconds"}


@pytest.mark.parametrize(
    ("reason", "label"),
    [
        ("fill_qty: expected a decimal, found 'x:y'", "fill_qty"),
        ("no colon at all", "other"),
        ("made_up: and a colon", "other"),
    ],
)
def test_a_reason_is_counted_under_its_field(reason: str, label: str) -> None:
    assert metrics.field_of(reason) == label


# --- dashboard and alerts ----------------------------------------------------------------


def unknown_names(expression: str) -> set[str]:
    """Return the metrics and labels in an expression that nobody exposes."""
    names: dict[str, set[str]] = {name: set() for name in PROCESS}
    for collector in list(REGISTRY._collector_to_names):
        labels = set(getattr(collector, "_labelnames", ()))
        for name in REGISTRY._collector_to_names[collector]:
            names[name] = labels
    words = re.sub(r'"[^"]*"|\[[^\]]*\]', "", expression)
    used = set(re.findall(r"\b(?:lotstream|process)_\w+", words))
    known = set().union(*(names.get(name, set()) for name in used)) | {"le", "instance", "job"}
    labels = {
        label.strip()
        for group in re.findall(r"\b(?:by|on|without)\s*\(([^)]*)\)", words)
        for label in group.split(",")
    }
    assert used, expression
    return (used - names.keys()) | (labels - known)


def panels() -> list[dict[str, Any]]:
    dashboard = json.loads(DASHBOARD.read_text())
    assert [variable["name"] for variable in dashboard["templating"]["list"]] == ["datasource"]
    found: list[dict[str, Any]] = dashboard["panels"]
    return found


def rules() -> list[dict[str, Any]]:
    return [r for group in yaml.safe_load(ALERTS.read_text())["groups"] for r in group["rules"]]


def test_the_dashboard_names_only_what_is_exposed() -> None:
    for panel in panels():
        assert panel["targets"], panel["title"]
        for target in panel["targets"]:
            assert not unknown_names(target["expr"]), panel["title"]
            for label in re.findall(r"{{(\w+)}}", target["legendFormat"]):
                assert f"by ({label})" in target["expr"], panel["title"]


def test_the_dashboard_shows_every_metric() -> None:
    shown = " ".join(target["expr"] for panel in panels() for target in panel["targets"])
    names = {f.name for f in REGISTRY.collect() if f.name.startswith("lotstream_")}
    assert [name for name in sorted(names) if name not in shown] == []


def test_the_panels_do_not_overlap() -> None:
    places = [
        (x, y)
        for panel in panels()
        for x in range(panel["gridPos"]["x"], panel["gridPos"]["x"] + panel["gridPos"]["w"])
        for y in range(panel["gridPos"]["y"], panel["gridPos"]["y"] + panel["gridPos"]["h"])
    ]
    assert len(places) == len(set(places))
    assert max(x for x, _ in places) < 24


def test_the_alerts_name_only_what_is_exposed() -> None:
    for rule in rules():
        assert rule.keys() >= {"alert", "expr", "labels", "annotations"}
        assert not unknown_names(rule["expr"]), rule["alert"]
    alerts = " ".join(rule["alert"] for rule in rules())
    assert all(word in alerts for word in ("Lag", "DeadLetters", "StalledEpoch"))


def test_one_of_several_processes_that_ends_raises_an_alert() -> None:
    # `absent` is silent while any is there, and what lags is shown by its own process alone.
    [gone] = [rule for rule in rules() if re.match(r"up == 0\b", rule["expr"])]
    assert gone["labels"]["severity"] == "critical"


@pytest.mark.parametrize(
    "expression",
    [
        "sum(lotstream_lag)",
        "sum by (symbol) (lotstream_realized_pnl)",
        "rate(lotstream_executions_booked_sum[5m])",
    ],
)
def test_the_check_finds_what_nobody_exposes(expression: str) -> None:
    assert unknown_names(expression)
