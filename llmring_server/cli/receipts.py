"""`llmring-server receipts`: the keys that sign, and what they have signed."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import rich_click as click
from pydantic import ValidationError

from llmring_server import keyfile
from llmring_server.cli import environment
from llmring_server.cli.project import on_project, options
from llmring_server.cli.tables import SCREEN, entry, folding
from llmring_server.keyring import Held
from llmring_server.verdict import judged
from llmring_server.wanted import Listing, Wanted
from llmring_verify.canonical_json import NotVerified, parse

file = click.option(
    "--file",
    "path",
    envvar="LLMRING_RECEIPT_KEY_FILE",
    required=True,
    type=click.Path(dir_okay=False, path_type=Path),
    help="The file of the keys; LLMRING_RECEIPT_KEY_FILE names it, too.",
)


@click.group()
def receipts() -> None:
    """Make and rotate the keys of receipts; make, list and show receipts."""


@receipts.command()
@file
def keygen(path: Path) -> None:
    """Make a file with a first key, which signs at once. Keep a copy of it in a safe place."""
    _announce(keyfile.create(path))
    click.echo(f"Set LLMRING_RECEIPT_KEY_FILE={path} where the server runs.", err=True)


@receipts.command()
@file
@click.option("--compromised", is_flag=True, help="Give up all private keys of the file, at once.")
def rotate(path: Path, *, compromised: bool) -> None:
    """Announce the next key; a day later, run again, let it sign in place of the one that does.

    Servers read the file again by themselves, and publish what is in it.
    """
    _announce(keyfile.compromise(path) if compromised else keyfile.rotate(path))


def _announce(key: Held) -> None:
    click.echo(key.kid)
    since = f" It may sign from {_time(key.not_before)} UTC on." if key.state == "next" else ""
    click.echo(f"The key {key.kid} is {key.state}.{since}", err=True)


@receipts.command()
@file
def keys(path: Path) -> None:
    """List the keys of a file, without their secrets."""
    table = folding("key", "state", "public key", "signs from", "retired", "compromised")
    for key in keyfile.read(path).keys:
        times = key.not_before, key.retired_at, key.compromised_at
        table.add_row(key.kid, key.state, key.x, *map(_time, times))
    SCREEN.print(table)


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@receipts.command()
@options
@click.option("--description", help="What it is for.")
@click.option("--tag", "tags", multiple=True, help="Once for each.")
def generate(env: str, data_dir: Path, project: str, **given: Any) -> None:
    """Certify all calls of a project that no receipt has certified yet."""
    tags = [*given["tags"]]
    try:
        wanted = Wanted(since_last_receipt=True, description=given["description"], tags=tags)
    except ValidationError as exc:
        raise click.UsageError("at most 1,000 characters, and 50 tags of 100") from exc
    made = on_project(
        env, data_dir, project, lambda ring, tenant: ring.receipts.generate(tenant, wanted)
    )
    click.echo(made["receipt"]["receipt_id"])
    click.echo(f"Calls: {made['certified_count']:,}", err=True)
    if made["more"]:
        click.echo("There are more: run it again.", err=True)
    if made["uncountable"]:
        click.echo(f"Left out, of 2^53 tokens or more: {made['uncountable']:,}", err=True)


@receipts.command("list")
@options
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
def list_(env: str, data_dir: Path, project: str, limit: int) -> None:
    """List receipts, the newest first."""
    page = Listing(limit=limit)
    found = on_project(
        env, data_dir, project, lambda ring, tenant: ring.receipts.list(tenant, page)
    )
    for each in found["receipts"]:
        what, cost = f"{each['provider']} {each['model']}", f"{each['total_cost']:.6f} USD"
        issued, used = each["timestamp"][:16].replace("T", " "), f"{each['total_tokens']:,} tokens"
        entry(each["receipt_id"], each["description"] or what, what, used, cost, issued)


@receipts.command()
@options
@click.argument("id")
def show(env: str, data_dir: Path, project: str, id: str) -> None:
    """Write a receipt as JSON: its `envelope` is what llmring-verify takes."""
    found = on_project(env, data_dir, project, lambda ring, tenant: ring.receipts.get(tenant, id))
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@receipts.command()
@click.argument("receipt", type=click.File("rb"))
def verify(receipt: BinaryIO) -> None:
    """Judge a receipt by the keys of this server; exit with 1 if it is not genuine.

    Who does not trust this server asks llmring-verify, with keys that were kept.
    """
    keys = keyfile.source(environment.read(os.environ))()
    try:
        found = judged(keys.trusted if keys else {}, parse(receipt.read()))
    except NotVerified as exc:
        raise click.ClickException(str(exc)) from exc
    if not found["valid"]:
        raise click.ClickException(f"Not genuine: {found['reason']}")
    alone = " Its 13 fields alone were proved." if found["form"] == "fields" else ""
    click.echo(f"Genuine: signed with the key {found['kid']}.{alone}")
