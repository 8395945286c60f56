"""`llmring-server export` and `import`: the calls of a project in a file, and back."""

import gzip
import sys
import zlib
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing, contextmanager, nullcontext
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, BinaryIO, cast

import rich_click as click
from pydantic import TypeAdapter, ValidationError

from llmring_server.access.projects import Project
from llmring_server.cli import environment
from llmring_server.cli.dates import tz_option
from llmring_server.cli.environment import is_default, project_options
from llmring_server.cli.import_llmring import import_llmring
from llmring_server.cli.output import Progress
from llmring_server.core.time_range import Instant
from llmring_server.errors import NotFound
from llmring_server.ring import Ring
from llmring_server.usage.export import CSV_HEADER, encode_csv, encode_in_chunks, encode_jsonl
from llmring_server.usage.models import CallFilter, ExportedCall
from llmring_server.usage.transfer import (
    ExportFormat,
    ExportLine,
    ImportReport,
    read_export,
    with_peek,
)

GZIP_MAGIC = b"\x1f\x8b"

BEGINNING_OF_TIME = datetime(1971, 1, 1, tzinfo=UTC)
END_OF_TIME = datetime(9998, 1, 1, tzinfo=UTC)

_INSTANT: TypeAdapter[datetime | date] = TypeAdapter(Instant)


class DateOrInstant(click.ParamType[datetime | date]):
    """A date, or a date and a time, as the API takes them."""

    name = "date"

    def convert(self, value: Any, *context: Any) -> datetime | date:
        try:
            return _INSTANT.validate_python(value)
        except (ValidationError, ValueError):
            self.fail("expected a date, such as 2026-11-29, or a date and a time", *context)


@contextmanager
def _written(output: Path | None) -> Iterator[BinaryIO]:
    """Yield standard output or a file, which appears under its name when it is complete."""
    if output is None:
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    partial = output.with_name(f"{output.name}.partial")
    try:
        opener = gzip.open if output.suffix == ".gz" else open
        with cast("BinaryIO", opener(partial, "wb")) as file:
            yield file
        partial.replace(output)
    finally:
        partial.unlink(missing_ok=True)


@click.command("export")
@project_options
@click.option("--start-date", type=DateOrInstant(), help="First date or time; default: all calls.")
@click.option("--end-date", type=DateOrInstant(), help="Last date or time, included.")
@tz_option
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["jsonl", "csv"]),
    default="jsonl",
    show_default=True,
    help="JSON lines, which are exact, or CSV.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(dir_okay=False, writable=True, path_type=Path),
    help="File to write, compressed if its name ends with .gz; default: standard output.",
)
def export_calls(  # noqa: PLR0913, PLR0917, they are the options
    env: str,
    data_dir: Path,
    project: str,
    start_date: datetime | date | None,
    end_date: datetime | date | None,
    tz: str,
    file_format: ExportFormat,
    output: Path | None,
) -> None:
    """Write the calls of a project, newest first, to a file or standard output.

    `llmring-server import` takes them back. Calls only: receipts, conversations and prices are not
    part of it.
    """
    calls = CallFilter(
        start_date=start_date or BEGINNING_OF_TIME, end_date=end_date or END_OF_TIME, tz=tz
    )
    encode = encode_jsonl if file_format == "jsonl" else encode_csv
    progress = Progress()
    exported = 0

    async def count(stream: AsyncGenerator[ExportedCall]) -> AsyncGenerator[ExportedCall]:
        nonlocal exported
        async with aclosing(stream):
            async for call in stream:
                exported += 1
                yield call

    async def write(ring: Ring) -> str:
        exported_project = await project_to_read(ring, project)
        project_id = exported_project.project_id
        with _written(output) as file:
            if file_format == "csv":
                file.write(CSV_HEADER)
            stream = count(ring.usage.with_unparsed_json().export(project_id, calls))
            async for chunk in encode_in_chunks(stream, encode):
                file.write(chunk)
                progress.show(f"{exported:,} calls exported")
        return exported_project.name or str(project_id)

    name = environment.with_ring(env, data_dir, write)
    click.echo(f"{exported:,} calls of project {name} exported.", err=True)


async def project_to_read(ring: Ring, project: str) -> Project:
    """Return the project that --project names. One that does not exist is an error."""
    try:
        return await ring.projects.get(await ring.projects.find(project))
    except NotFound:
        if not is_default("project"):
            raise
    projects = await environment.all_projects(ring)
    names = [each.name or str(each.project_id) for each in projects]
    raise click.ClickException(
        f"There is no project {project}. Choose one with --project: {', '.join(names)}"
        if names
        else f"There is no project {project}, and no other one: nothing has been logged yet."
    )


class ImportGroup(click.RichGroup):
    """Runs the command `file` if the first argument is no command: `import calls.jsonl`."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        return super().parse_args(ctx, self.with_command(args))

    def with_command(self, args: list[str]) -> list[str]:
        """Return the arguments, beginning with the name of a command."""
        if not args or args[0] in {"--help", *self.commands}:
            return args
        return ["file", *args]


@click.group("import", cls=ImportGroup)
def import_data() -> None:
    """Store data of another project, server or program.

    `llmring-server import FILE` is the same as `llmring-server import file FILE`.
    """


import_data.add_command(import_llmring)


@import_data.command("file")
@project_options
@click.option(
    "--format",
    "file_format",
    type=click.Choice(["jsonl", "csv"]),
    help="Format of the file; default: detected.",
)
@click.option("--dry-run", is_flag=True, help="Check the file and change nothing.")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
def import_file(  # noqa: PLR0913, they are the options
    env: str,
    data_dir: Path,
    project: str,
    file: str,
    file_format: ExportFormat | None,
    *,
    dry_run: bool,
) -> None:
    """Store the calls of an export, FILE or - for standard input, as they were.

    The file is JSON lines or CSV, also compressed with gzip. Calls keep their id, time, cost and
    adjustment, however old they are. A call that is stored is left alone, so that an import can be
    repeated. Lines that are not a call are named, and the others stored; then the exit code is 1.
    The project is created if it does not exist.
    """
    progress = Progress()
    damaged = False

    def until_damage(lines: Iterator[ExportLine]) -> Iterator[ExportLine]:
        """Yield the lines before the damage, so that they are stored."""
        nonlocal damaged
        try:
            yield from lines
        except (EOFError, gzip.BadGzipFile, zlib.error):
            damaged = True

    async def store(ring: Ring) -> ImportReport:
        with _read(file) as opened:
            lines = read_export(opened, file_format)
            project_id = await environment.find_or_create_project(ring, project, dry_run=dry_run)
            return await ring.call_import.run(
                project_id,
                until_damage(lines),
                actor=environment.operator(),
                dry_run=dry_run,
                progress=lambda report: progress.show(f"{report.lines:,} lines read"),
            )

    report = environment.with_ring(env, data_dir, store, writes=not dry_run)
    _print_report(report, dry_run=dry_run)
    if damaged:
        raise click.ClickException(
            "The compressed file is damaged or not complete. Only the lines before that were read."
        )
    if report.rejected:
        raise SystemExit(1)


@contextmanager
def _read(file: str) -> Iterator[BinaryIO]:
    """Yield a file or standard input, decompressed if it is compressed."""
    with nullcontext(sys.stdin.buffer) if file == "-" else Path(file).open("rb") as opened:
        buffered = with_peek(opened)
        if not buffered.peek(2).startswith(GZIP_MAGIC):
            yield buffered
            return
        try:
            with gzip.GzipFile(fileobj=buffered) as decompressed:
                yield cast("BinaryIO", decompressed)
        except (EOFError, gzip.BadGzipFile, zlib.error) as exc:
            raise click.ClickException(
                "The compressed file is damaged or not complete. Nothing of it could be read."
            ) from exc


def _print_report(report: ImportReport, *, dry_run: bool) -> None:
    for error in report.errors:
        click.echo(error, err=True)
    if report.rejected > len(report.errors):
        click.echo(f"{report.rejected - len(report.errors):,} more lines were rejected.", err=True)
    if report.unknown:
        click.echo(f"Not stored: the members {', '.join(sorted(report.unknown))}.", err=True)
    if report.counted:
        click.echo(
            f"{report.counted:,} calls are of days whose calls were deleted and whose totals were"
            " kept: they are counted there, and were not stored again.",
            err=True,
        )
    click.echo(f"lines: {report.lines:,}")
    click.echo(f"{'to be stored' if dry_run else 'stored'}: {report.stored:,}")
    click.echo(f"stored before: {report.known:,}")
    click.echo(f"skipped, already in daily totals: {report.counted:,}")
    click.echo(f"rejected: {report.rejected:,}")
