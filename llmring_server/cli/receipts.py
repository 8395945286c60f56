"""`llmring-server receipts`: the keys that sign, and what they have signed."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import rich_click as click
from pydantic import ValidationError

from llmring_server.cli import environment
from llmring_server.cli.environment import project_options, with_project
from llmring_server.cli.output import CONSOLE, entry, wrapping_table
from llmring_server.receipts import signing_keys
from llmring_server.receipts.models import ReceiptPage, ReceiptRequest
from llmring_server.receipts.signing_keys import StoredKey
from llmring_server.receipts.verification import verify_document
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
    _announce(signing_keys.create_key_file(path))
    click.echo(f"Set LLMRING_RECEIPT_KEY_FILE={path} where the server runs.", err=True)


@receipts.command()
@file
@click.option("--compromised", is_flag=True, help="Give up all private keys of the file, at once.")
def rotate(path: Path, *, compromised: bool) -> None:
    """Announce the next key; a day later, run again, let it sign in place of the one that does.

    Servers read the file again by themselves, and publish what is in it.
    """
    _announce(
        signing_keys.compromise_key(path) if compromised else signing_keys.rotate_key_file(path)
    )


def _announce(key: StoredKey) -> None:
    click.echo(key.kid)
    since = f" It may sign from {_time(key.not_before)} UTC on." if key.state == "next" else ""
    click.echo(f"The key {key.kid} is {key.state}.{since}", err=True)


@receipts.command()
@file
def keys(path: Path) -> None:
    """List the keys of a file, without their secrets."""
    table = wrapping_table("key", "state", "public key", "signs from", "retired", "compromised")
    for key in signing_keys.read_key_file(path).keys:
        times = key.not_before, key.retired_at, key.compromised_at
        table.add_row(key.kid, key.state, key.x, *map(_time, times))
    CONSOLE.print(table)


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@receipts.command()
@project_options
@click.option("--description", help="What it is for.")
@click.option("--tag", "tags", multiple=True, help="Once for each.")
def generate(env: str, data_dir: Path, project: str, **given: Any) -> None:
    """Certify all calls of a project that no receipt has certified yet."""
    tags = [*given["tags"]]
    try:
        wanted = ReceiptRequest(
            since_last_receipt=True, description=given["description"], tags=tags
        )
    except ValidationError as exc:
        raise click.UsageError("at most 1,000 characters, and 50 tags of 100") from exc
    made = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.generate(project_id, wanted)
    )
    click.echo(made["receipt"]["receipt_id"])
    click.echo(f"Calls: {made['certified_count']:,}", err=True)
    if made["more"]:
        click.echo("There are more: run it again.", err=True)
    if made["uncountable"]:
        click.echo(f"Left out, of 2^53 tokens or more: {made['uncountable']:,}", err=True)


@receipts.command("list")
@project_options
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
def list_(env: str, data_dir: Path, project: str, limit: int) -> None:
    """List receipts, the newest first."""
    page = ReceiptPage(limit=limit)
    found = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.list(project_id, page)
    )
    for each in found["receipts"]:
        what, cost = f"{each['provider']} {each['model']}", f"{each['total_cost']:.6f} USD"
        issued, used = each["timestamp"][:16].replace("T", " "), f"{each['total_tokens']:,} tokens"
        entry(each["receipt_id"], each["description"] or what, what, used, cost, issued)


@receipts.command()
@project_options
@click.argument("id")
def show(env: str, data_dir: Path, project: str, id: str) -> None:
    """Write a receipt as JSON: its `envelope` is what llmring-verify takes."""
    found = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.get(project_id, id)
    )
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@receipts.command()
@click.argument("receipt", type=click.File("rb"))
def verify(receipt: BinaryIO) -> None:
    """Judge a receipt by the keys of this server; exit with 1 if it is not genuine.

    Who does not trust this server asks llmring-verify, with keys that were kept.
    """
    keys = signing_keys.keyring_source(environment.read(os.environ))()
    try:
        found = verify_document(keys.trusted if keys else {}, parse(receipt.read()))
    except NotVerified as exc:
        raise click.ClickException(str(exc)) from exc
    if not found["valid"]:
        raise click.ClickException(f"Not genuine: {found['reason']}")
    alone = " Its 13 fields alone were proved." if found["form"] == "fields" else ""
    click.echo(f"Genuine: signed with the key {found['kid']}.{alone}")
