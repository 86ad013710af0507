"""Every setting: its environment variable, its default, its unit and its form.

The names and defaults are the public contract. A wrong value stops a program
at its start with one line that names the variable.
"""

import logging
import os
import re
import sys
from collections.abc import Iterable, Iterator
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict
from redis import ConnectionPool, RedisError

Port = Annotated[int, Field(ge=1, le=65535)]
_EntryId = Annotated[str, Field(pattern=r"^\d+-\d+$")]

_NEAR = 0.87
"""How alike names are, of 1, when one is most likely the other misspelt."""

_SECRET = ("REDIS_URL", "FLEX_TOKEN")
"""Variables whose value is never shown."""

KEYS = (
    "executions_stream", "positions_hash", "changes_stream", "dead_letter_stream",
    "instruments_hash", "broker_hash", "marks_stream", "valuations_hash",
)  # fmt: skip
"""The settings that name a key of Redis."""


class Settings(BaseSettings):
    """What a run is told by its environment; immutable once read."""

    model_config = SettingsConfigDict(frozen=True, env_ignore_empty=True, hide_input_in_errors=True)

    redis_url: SecretStr = SecretStr("redis://localhost:6379/0")
    """May carry a password, so it is a secret as a whole."""
    executions_stream: str = "executions"
    stream_partitions: Annotated[int, Field(ge=1, le=1000)] = 1
    own_partitions: Annotated[tuple[int, ...], NoDecode] = ()
    """The partitions this process reads; all of them if not set."""
    positions_hash: str = "positions"
    changes_stream: str = "positions:changes"
    changes_kept: Annotated[int, Field(ge=0, le=10**9)] = 100_000
    """About how many entries stay in each stream of changes; 0: there is none."""
    dead_letter_stream: str = "executions:dead"
    data_dir: Path = Path("data")
    stream_retention_hours: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = None
    accept_gap: Annotated[tuple[_EntryId, ...], NoDecode] = Field(
        default=(), description="an entry's id such as 1795362272314-0, or several with commas"
    )
    """The last read ids that gap errors named: go on behind them deliberately."""

    ibkr_host: str = "127.0.0.1"
    ibkr_port: Port = 7497
    ibkr_client_id: Annotated[int, Field(ge=0, le=2**31 - 1)] = 1
    ibkr_timezone: str = "UTC"
    ibkr_accounts: Annotated[tuple[str, ...], NoDecode] = ()
    """The accounts that the router follows; all but FA masters if not set."""
    ibkr_marks: Literal["off", "live", "delayed"] = "off"
    """Whether the router writes marks of what is held; delayed: where no live data is to be had."""
    instruments_hash: str = "instruments"
    broker_hash: str = "broker"

    marks_stream: str = "marks"
    marks_kept: Annotated[int, Field(ge=1, le=10**9)] = 100_000
    """About how many of the last marks stay on their stream."""
    valuations_hash: str = "valuations"
    mark_stale_s: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 60
    """A mark that is older is stale."""
    day_zone: str = "America/New_York"
    """Where the day begins that `day_pnl` is of."""
    base_currency: Annotated[str, Field(pattern=r"^[A-Z]{3}$")] | None = Field(
        default=None, description="a currency such as EUR"
    )

    flex_token: SecretStr | None = None
    flex_query_id: Annotated[str, Field(pattern=r"^\d+$")] | None = Field(
        default=None, description="a number such as 123456"
    )

    metrics_port: Port | None = None
    log_level: str = "INFO"
    log_format: str = "text"

    @field_validator("redis_url")
    @classmethod
    def _usable_address(cls, url: SecretStr) -> SecretStr:
        # redis-py judges it itself (this connects to nothing); its own words are kept
        # back, as they may quote a part of the password.
        address = url.get_secret_value()
        try:
            made: Any = ConnectionPool.from_url(address).make_connection()
            if not address.startswith("unix:"):
                int(urlsplit(address).path.strip("/") or 0)  # it would take 0 instead
        except (TypeError, ValueError, RedisError):
            raise ValueError(
                "expected an address such as redis://user:password@host:6379/0, "
                "rediss:// or unix://, special characters of a password in %XX form"
            ) from None
        if made.encoder.decode_responses:
            raise ValueError("expected an address without decode_responses, as bytes are read")
        return url

    @field_validator("data_dir")
    @classmethod
    def _no_file(cls, directory: Path) -> Path:
        if os.path.exists(directory) and not os.path.isdir(directory):  # noqa: PTH110, PTH112  # these do not raise
            raise ValueError("expected a directory, which is made if there is none")
        return directory

    @field_validator("own_partitions", mode="before")
    @classmethod
    def _comma_separated(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return tuple(sorted({int(part) for part in value.split(",")}))
        except ValueError:
            raise ValueError("expected partition numbers such as 0,2") from None

    @field_validator("accept_gap", mode="before")
    @classmethod
    def _several_ids(cls, value: Any) -> Any:
        return [one.strip() for one in value.split(",")] if isinstance(value, str) else value

    @field_validator("ibkr_accounts", mode="before")
    @classmethod
    def _named_accounts(cls, value: Any) -> Any:
        if not isinstance(value, str):
            return value
        accounts = tuple(part.strip() for part in value.split(","))
        if not all(accounts) or any(":" in account for account in accounts):
            raise ValueError("expected account numbers such as U1234567,U7654321")
        return accounts

    @field_validator("ibkr_timezone", "day_zone")
    @classmethod
    def _known_zone(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (KeyError, ValueError, OSError):
            raise ValueError("expected a time zone's name such as America/New_York") from None
        return name

    @field_validator("log_level")
    @classmethod
    def _known_level(cls, level: str) -> str:
        if level.upper() not in logging.getLevelNamesMapping():
            raise ValueError("expected DEBUG, INFO, WARNING, ERROR or CRITICAL")
        return level.upper()

    @field_validator("log_format")
    @classmethod
    def _known_format(cls, form: str) -> str:
        if form not in ("text", "json"):
            raise ValueError("expected text or json")
        return form

    @model_validator(mode="after")
    def _owns_what_exists(self) -> "Settings":
        if any(not 0 <= part < self.stream_partitions for part in self.own_partitions):
            raise ValueError(
                f"OWN_PARTITIONS: expected numbers from 0 to STREAM_PARTITIONS - 1 = "
                f"{self.stream_partitions - 1}, found "
                f"{','.join(map(str, self.own_partitions))}"
            )
        return self

    @model_validator(mode="after")
    def _no_name_twice(self) -> "Settings":
        # In one stream Redis would take entries for letters or changes that are there already.
        has: dict[str, str] = {}
        for field in KEYS:
            name = str(getattr(self, field))
            if name in has:
                raise ValueError(
                    f"{field.upper()}: expected another name than {has[name].upper()} has, "
                    f"found {name!r}"
                )
            has[name] = field
        return self

    @property
    def mark_stale_ms(self) -> int:
        """The age, in milliseconds, beyond which a mark is stale."""
        return int(self.mark_stale_s * 1000)

    @property
    def streams(self) -> list[str]:
        """All streams, in order of partition: one name, or `name:0` to `name:N-1`."""
        return partition_names(self.executions_stream, self.stream_partitions)

    @property
    def own_streams(self) -> list[str]:
        """The streams that this process reads."""
        own = self.own_partitions or range(self.stream_partitions)
        return [self.streams[part] for part in own]

    @property
    def letters_of(self) -> dict[str, str]:
        """The stream of dead letters of each stream, in order of partition."""
        return self._beside(self.dead_letter_stream)

    @property
    def changes_of(self) -> dict[str, str]:
        """The stream of changes of each stream, in order of partition."""
        return self._beside(self.changes_stream)

    def _beside(self, name: str) -> dict[str, str]:
        return dict(zip(self.streams, partition_names(name, self.stream_partitions), strict=True))


def partition_names(name: str, partitions: int) -> list[str]:
    """Name each partition of what `name` stands for: itself if it is the only one."""
    return [name] if partitions == 1 else [f"{name}:{part}" for part in range(partitions)]


def load_settings(*, warn: bool = True) -> Settings:
    """Read the environment; unless told not to, warn of what is nearly a setting.

    Raises SystemExit with one line that names the variable, what was expected
    and what was found (a secret's value is never shown).
    """
    if warn:
        _warn_of_near_ones()
    try:
        return Settings()
    except ValidationError as error:
        if not warn:  # whoever was to do it will not be reached
            _warn_of_near_ones()
        raise SystemExit(f"lotstream: {_first_problem(error)}") from None


def _warn_of_near_ones() -> None:
    for found, meant in nearly_settings(os.environ):
        print(f"lotstream: {found} is no setting; {meant} is one, was it meant?", file=sys.stderr)


def nearly_settings(environment: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yield each variable that is no setting but looks like one, and that one.

    >>> list(nearly_settings(["EXECUTIONS_STREM", "LOTSTREAM_DATA_DIR", "HOME", "log_level"]))
    [('EXECUTIONS_STREM', 'EXECUTIONS_STREAM'), ('LOTSTREAM_DATA_DIR', 'DATA_DIR')]
    """
    names = [name.upper() for name in Settings.model_fields]
    for found in environment:
        bare = found.upper().removeprefix("LOTSTREAM_")
        if found.upper() not in names and (near := get_close_matches(bare, names, 1, _NEAR)):
            yield found, near[0]


def _first_problem(error: ValidationError) -> str:
    problem = error.errors(include_url=False, include_context=False)[0]
    if not problem["loc"]:
        return problem["msg"].removeprefix("Value error, ")
    name = str(problem["loc"][0]).upper()
    if name in _SECRET:
        return f"{name}: {_expected(error)}"
    return f"{name}: {_expected(error)}, found {os.environ.get(name)!r}"


def problem_text(error: ValidationError) -> str:
    """Say of a value that a person has typed what was expected and what was found."""
    [problem, *_] = error.errors(include_url=False, include_context=False)
    return f"{_expected(error)}, found {problem['input']!r}"


_IN_WORDS = {
    "int_parsing": "a whole number", "int_from_float": "a whole number",
    "float_parsing": "a number", "finite_number": "a number that is not infinite",
    "greater_than_equal": "{ge} or more", "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less", "literal_error": "{expected}", "enum": "{expected}",
}  # fmt: skip
"""What is expected, by pydantic's names of what is wrong."""


def _expected(error: ValidationError) -> str:
    problem = error.errors(include_url=False)[0]
    if problem["type"] in _IN_WORDS:
        return f"expected {_IN_WORDS[problem['type']].format(**problem.get('ctx', {}))}"
    name = str(problem["loc"][0]) if problem["loc"] else ""
    field = Settings.model_fields.get(name)
    if field is not None and problem["type"] == "string_pattern_mismatch":
        return f"expected {field.description}"
    text = problem["msg"].removeprefix("Value error, ")
    text = re.sub(r"^'.*' is not one of (.*?)\.?$", r"expected one of \1", text)
    return f"{text[0].lower()}{text[1:]}"
