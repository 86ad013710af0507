"""Dead letters: list them, see why, put repaired ones back: `python -m flows.replay`.

A dead letter is an entry that the flow could not use. It waits until a person puts it
back on its stream, repaired if need be, or drops it; either leaves a trace for ever.
Every command may be repeated: what is done already is said, not done again.
"""

import getpass
import os
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from itertools import groupby, islice
from typing import Annotated, Any, NamedTuple, NoReturn

import typer

from connectors.clock import now_ms
from connectors.codec import LAST_TIMESTAMP, decode
from connectors.redis.letter_box import Letter, LetterBox
from connectors.redis.link import RedisLink
from connectors.redis.partitions import agree
from connectors.redis.publisher import Publisher
from flows.common.doors import enter, group, wrong_words
from flows.common.logs import set_up_logging
from flows.common.overview import counted
from flows.common.settings import Settings, load_settings
from state.keys import parse_exec_id
from state.messages import RejectedError
from state.records import FIRST_ID, id_order

SHOWN = 10
"""Letters listed of one reason, the latest ones."""

TRACE_FIELD = "replayed_from"
"""Names, in an entry that was put back, the dead letter."""

app = group(help=__doc__, no_args_is_help=False)

_ID = re.compile(r"\d{1,20}-\d{1,20}", re.ASCII)


def texts(given: Any) -> Any:
    """Take one word or several that a person has typed, if they are text to Redis."""
    for text in [given] if isinstance(given, str) else given or ():
        if text != text.encode(errors="replace").decode():
            raise typer.BadParameter(f"expected UTF-8 text, found {text!r}")
    return given


Ids = Annotated[list[str] | None, typer.Argument(help="Dead letters' ids, or STREAM/ID.")]
Reason = Annotated[str, typer.Option(help="All whose reason is about this field.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Say what would be done, do nothing.")]


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """Without a command, list the dead letters."""
    if context.invoked_subcommand is None:
        list_letters(context)


@app.command("list")
def list_letters(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="Most letters shown of one reason.")] = SHOWN,
) -> None:
    """List the dead letters by the field that their reason is about."""
    letters = sorted(desk(context).box.letters(), key=lambda letter: letter.field)
    print(f"{counted(len(letters), 'dead letter')} in {', '.join(desk(context).boxes)}")
    for field, found in groupby(letters, key=lambda letter: letter.field):
        of_field = list(found)
        print(f"\n{shown(field)}: {len(of_field)}")
        for letter in of_field[-limit:]:
            name = letter.id if len(desk(context).boxes) == 1 else _full_id(letter)
            print(f"  {name}  {shown(_value(letter, b'symbol')):12}  {shown(letter.reason)}")
        if len(of_field) > limit:
            print(f"  and {len(of_field) - limit} before these")


@app.command()
def show(context: typer.Context, letter_id: str) -> None:
    """Show one dead letter in full, and whether it could be used as it is."""
    for letter in desk(context).letters([letter_id]):
        print(f"dead letter {letter.id} of {letter.stream}")
        print(f"came        {came(letter)}")
        print(f"reason      {shown(letter.reason)}")
        for name, value in zip(letter.fields[::2], letter.fields[1::2], strict=True):
            mark = "   <- see the reason" if shown(name) == letter.field else ""
            print(f"  {shown(name):16} {shown(value)}{mark}")
        problem = why_unusable(letter.fields)
        print(f"its form    {'is wrong, see the reason' if problem else 'is right'}")


@app.command("put-back")
def put_back(
    context: typer.Context,
    letter_ids: Ids = None,
    *,
    reason: Reason = "",
    set_: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="FIELD=VALUE", callback=texts, help="Set a field first."),
    ] = None,
    unset: Annotated[
        list[str] | None, typer.Option(callback=texts, help="Remove a field first.")
    ] = None,
    dry_run: DryRun = False,
) -> None:
    """Put dead letters back on their stream, after a repair of their fields.

    The reports of what an execution cost go with it if it gets another symbol or account.
    """
    repair = Repair(dict(map(_assignment, set_ or ())), tuple(unset or ()))
    failed = False
    letters = list(desk(context).letters(letter_ids or [], reason, done="put back"))
    reports = desk(context).dead_reports(letters, repair)
    repairs = [repair] * len(letters) + [repair.of_report()] * len(reports)
    going = []
    for letter, change in zip([*letters, *reports], repairs, strict=True):
        fields = repaired(letter, change)
        problem = why_unusable(fields)
        if problem is None and not desk(context).knows(letter.source_stream):
            problem = f"it came in {letter.source_stream!r}, which the settings do not name"
        if problem is not None:
            print(f"{letter.id}: not put back, it would come again: {shown(problem)}")
            failed = True
            continue
        desk(context).bring_reports(letter, change, dry_run=dry_run)
        going.append((letter, fields, change))
    # Reports first: once their execution has gone back, no second try would find them.
    for letter, fields, change in sorted(going, key=lambda each: each[2] is repair):
        desk(context).put_back(letter, fields, str(change), dry_run=dry_run)
    raise typer.Exit(int(failed))


@app.command()
def drop(
    context: typer.Context,
    letter_ids: Ids = None,
    *,
    reason: Reason = "",
    why: Annotated[str, typer.Option(callback=texts, help="For the trace.")] = "",
    dry_run: DryRun = False,
) -> None:
    """Remove dead letters for good; the trace keeps them."""
    for letter in desk(context).letters(letter_ids or [], reason, done="dropped"):
        desk(context).drop(letter, why, dry_run=dry_run)


@app.command()
def handled(
    context: typer.Context,
    limit: Annotated[int, typer.Option(min=1, help="How many, the latest first.")] = SHOWN,
) -> None:
    """List what was done with dead letters."""
    traces = list(islice(desk(context).box.traces(), limit))
    if not traces:
        print("no dead letter was put back or dropped so far")
    for trace in traces:
        to = f" on {trace.new_stream} as {trace.new_id}" if trace.new_id else ""
        about = shown(" ".join(filter(None, (trace.changes, trace.why))))
        print(
            f"{trace.handled_at}  {trace.letter_id}  {trace.action}{to} "
            f"by {shown(trace.handled_by)}{about and f': {about}'}"
        )


class Repair(NamedTuple):
    """What is done to a letter's fields before it goes back."""

    changes: dict[str, str]
    """By field, the value it gets."""
    gone: tuple[str, ...] = ()
    """Fields that are removed."""

    @property
    def moves(self) -> bool:
        """Whether another symbol or account makes it another key's."""
        return not {"symbol", "account"}.isdisjoint((*self.changes, *self.gone))

    def of_report(self) -> "Repair":
        """Return what a report of the execution needs of it; its money and time are its own."""
        names = {"symbol", "account", "exec_id"}
        changes = {name: value for name, value in self.changes.items() if name in names}
        return Repair(changes, tuple(name for name in self.gone if name in names))

    def __str__(self) -> str:
        changes = (f"{name}={value}" for name, value in self.changes.items())
        return " ".join([*changes, *(f"-{name}" for name in self.gone)])


_About = tuple[bytes, bytes, str]
"""An execution: account, symbol, identity."""


class Desk:
    """Where one command's work is done."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.boxes = list(settings.letters_of.values())
        link = RedisLink(settings.redis_url.get_secret_value(), stop=None)
        agree(link, settings.streams, record=False)
        self.box = LetterBox(link, self.boxes)
        self._publisher = Publisher(link, settings.streams)
        self._reports_of: dict[str, dict[_About, list[list[bytes]]]] = {}

    def letters(
        self, letter_ids: Sequence[str], reason: str = "", *, done: str = ""
    ) -> Iterator[Letter]:
        """Return the letters that are meant.

        done: one for which this was done before is passed over with a word.
        Raises typer.Exit if one is not there.
        """
        if bool(letter_ids) == bool(reason):
            expected = "dead letters' ids or a --reason, not both"
            raise wrong_words("LETTER_IDS", expected, reason or None)
        if reason:
            yield from self._of_reason(reason)
        for text in letter_ids:
            stream, _, letter_id = text.rpartition("/")
            if not _ID.fullmatch(letter_id) or max(id_order(letter_id)) >= 2**64:
                raise wrong_words("LETTER_IDS", "an id such as 1700000000000-0", text)
            if stream and stream not in self.boxes:
                raise wrong_words("LETTER_IDS", f"one of {', '.join(self.boxes)}", stream)
            found = self.box.find(letter_id, stream)
            if len(found) > 1:
                _stop(
                    f"expected one dead letter, found {', '.join(map(_full_id, found))}: name one"
                )
            if not found:
                self._explain_absence(letter_id, stream, done)
            yield from found

    def _of_reason(self, reason: str) -> list[Letter]:
        letters = list(self.box.letters())
        found = [letter for letter in letters if letter.field == reason]
        if not found:
            there = ", ".join(sorted({shown(letter.field) for letter in letters})) or "none"
            _stop(f"--reason: expected a field that dead letters are about ({there}), "
                  f"found {reason!r}")  # fmt: skip
        return found

    def put_back(self, letter: Letter, fields: list[bytes], changes: str, *, dry_run: bool) -> None:
        """Put a letter back and say so."""
        stream = self._home(fields)
        if dry_run:
            print(f"{letter.id}: would be put back on {stream}, with the fields")
            for name, value in zip(fields[::2], fields[1::2], strict=True):
                print(f"  {shown(name):16} {shown(value)}")
            return
        new_id = self.box.put_back(letter, stream, fields, changes=changes, at=now(), by=user())
        if new_id is None:
            self._explain_absence(letter.id, letter.stream, "put back")
        else:
            print(f"{letter.id}: put back on {stream} as {new_id}")

    def knows(self, stream: str) -> bool:
        """Tell whether a stream is one of the settings, or was before it had partitions."""
        return stream in (*self.settings.streams, self.settings.executions_stream)

    def dead_reports(self, letters: Sequence[Letter], repair: Repair) -> list[Letter]:
        """Return the letters that are reports of executions which get another key."""
        about = {_about(letter) for letter in letters if _names_itself(letter) and repair.moves}
        named = {(letter.stream, letter.id) for letter in letters}
        return [
            letter
            for letter in (self.box.letters() if about else ())
            if _value(letter, b"type") == b"commission"
            and _about(letter) in about
            and (letter.stream, letter.id) not in named
        ]

    def bring_reports(self, letter: Letter, repair: Repair, *, dry_run: bool) -> None:
        """Publish an execution's reports again where it goes, and say so.

        Before the execution itself: a second try publishes them again, and of equal
        reports the flow takes one.
        """
        is_execution = _value(letter, b"type") in (b"", b"execution")
        if not (repair.moves and is_execution and _names_itself(letter)):
            return
        for fields in self._reports(letter).get(_about(letter), ()):
            moved = repaired(letter._replace(fields=fields), repair.of_report())
            if why_unusable(moved) is None:
                stream = self._home(moved)
                if not dry_run:
                    self.box.add(stream, moved)
                done = "would be published" if dry_run else "published"
                print(f"{letter.id}: its commission report {done} on {stream} as well")

    def _reports(self, letter: Letter) -> dict[_About, list[list[bytes]]]:
        """Return the reports on a letter's stream by what they are about; read once."""
        stream = letter.source_stream
        if stream not in self.settings.streams:
            account, symbol = (each.decode(errors="replace") for each in _about(letter)[:2])
            stream = self._publisher.stream_of({"symbol": symbol, "account": account})
        if stream not in self._reports_of:
            self._reports_of[stream] = defaultdict(list)
            for fields in self.box.reports(stream):
                self._reports_of[stream][_about_fields(fields)].append(fields)
        return self._reports_of[stream]

    def _home(self, fields: Sequence[bytes]) -> str:
        symbol, account, _ = decode(fields)
        return self._publisher.stream_of({"symbol": symbol, "account": account or ""})

    def drop(self, letter: Letter, why: str, *, dry_run: bool) -> None:
        """Drop a letter and say so."""
        if dry_run:
            print(f"{letter.id}: would be dropped ({shown(letter.reason)})")
        elif self.box.drop(letter, why=why, at=now(), by=user()):
            print(f"{letter.id}: dropped")
        else:
            self._explain_absence(letter.id, letter.stream, "dropped")

    def _explain_absence(self, letter_id: str, stream: str, done: str) -> None:
        trace = self.box.trace_of(letter_id, stream)
        if trace is None:
            _stop(f"{letter_id}: expected a dead letter, found none in {', '.join(self.boxes)}")
        as_new = f" as {trace.new_id}" if trace.new_id else ""
        text = f"{letter_id}: was {trace.action}{as_new} by {trace.handled_by}, {trace.handled_at}"
        if trace.action != done:
            _stop(text)
        print(text)


def desk(context: typer.Context) -> Desk:
    """Return the desk; connects at the first call, as a command's help needs no Redis."""
    if context.obj is None:
        settings = load_settings()
        set_up_logging(settings)
        context.obj = Desk(settings)
    assert isinstance(context.obj, Desk)
    return context.obj


def repaired(letter: Letter, repair: Repair) -> list[bytes]:
    """Return a letter's own fields, some set to other values, some removed.

    A field that is set stands once, even if it was repeated.
    """
    new = {name.encode(): value.encode() for name, value in repair.changes.items()}
    new[TRACE_FIELD.encode()] = letter.id.encode()
    gone = {name.encode() for name in repair.gone}
    fields = []
    for name, value in zip(letter.fields[::2], letter.fields[1::2], strict=True):
        if name not in new and name not in gone:
            fields += [name, value]
    for pair in new.items():
        fields += pair
    return fields


def why_unusable(fields: Sequence[bytes]) -> str | None:
    """Return what is wrong with the form of an entry that comes now, None if nothing is."""
    try:
        decode(fields, now_ms())
    except RejectedError as error:
        return str(error)
    return None


def shown(text: bytes | str) -> str:
    """Return a text as it is, what is no printable text as Python would write it."""
    if isinstance(text, bytes):
        try:
            text = text.decode()
        except UnicodeDecodeError:
            return repr(text)
    return text if text.isprintable() else repr(text)


def came(letter: Letter) -> str:
    """Return when a letter's entry came, by its id, which a producer may have chosen, and where."""
    stream = shown(letter.source_stream)
    if letter.source_id == FIRST_ID:
        return f"as no entry of a stream, but meant for {stream or 'none that is known'}"
    milliseconds = int(letter.id.partition("-")[0])
    if milliseconds > LAST_TIMESTAMP:
        return f"as {letter.id}, which is no time, in {stream}"
    at = datetime.fromtimestamp(milliseconds / 1000, UTC).isoformat(" ", "milliseconds")
    return f"{at} in {stream}"


def now() -> str:
    """Return the time as the trace holds it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def user() -> str:
    """Return who does this: the user's name, else number."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not name or not equals:
        raise wrong_words("--set", "FIELD=VALUE", text)
    return name, value


def _value(letter: Letter, name: bytes) -> bytes:
    return dict(zip(letter.fields[::2], letter.fields[1::2], strict=True)).get(name, b"")


def _names_itself(letter: Letter) -> bool:
    """Tell whether a letter has an id, without which no report can be known for its own."""
    return bool(_value(letter, b"exec_id"))


def _about(letter: Letter) -> _About:
    return _about_fields(letter.fields)


def _about_fields(fields: Sequence[bytes]) -> _About:
    given = dict(zip(fields[::2], fields[1::2], strict=True))
    exec_id = given.get(b"exec_id", b"").decode(errors="backslashreplace")
    return given.get(b"account", b""), given.get(b"symbol", b""), parse_exec_id(exec_id).identity


def _full_id(letter: Letter) -> str:
    return f"{letter.stream}/{letter.id}"


def _stop(text: str) -> NoReturn:
    raise SystemExit(f"lotstream: {text}")


if __name__ == "__main__":
    enter(app, "replay")
