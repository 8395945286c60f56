"""`llmring-server receipts`: signing keys and receipts."""

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
    help="Key file; default: LLMRING_RECEIPT_KEY_FILE.",
)


@click.group()
def receipts() -> None:
    """Create and rotate signing keys; generate, list, show and verify receipts."""


@receipts.command()
@file
def keygen(path: Path) -> None:
    """Create a key file with a first key, which signs at once. Keep a backup of the file."""
    _announce(signing_keys.create_key_file(path))
    click.echo(f"Set LLMRING_RECEIPT_KEY_FILE={path} for the server.", err=True)


@receipts.command()
@file
@click.option(
    "--compromised", is_flag=True, help="Mark all private keys of the file as compromised, at once."
)
def rotate(path: Path, *, compromised: bool) -> None:
    """Announce the next signing key; a day later, run again to activate it.

    Running servers read the file again and publish its public keys.
    """
    _announce(
        signing_keys.compromise_key(path) if compromised else signing_keys.rotate_key_file(path)
    )


def _announce(key: StoredKey) -> None:
    click.echo(key.kid)
    since = f" It can sign from {_time(key.not_before)} UTC on." if key.state == "next" else ""
    click.echo(f"The key {key.kid} is {key.state}.{since}", err=True)


@receipts.command()
@file
def keys(path: Path) -> None:
    """List the keys of a key file, without private keys."""
    table = wrapping_table("key", "state", "public key", "signs from", "retired", "compromised")
    for key in signing_keys.read_key_file(path).keys:
        times = key.not_before, key.retired_at, key.compromised_at
        table.add_row(key.kid, key.state, key.x, *map(_time, times))
    CONSOLE.print(table)


def _time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@receipts.command()
@project_options
@click.option("--description", help="Description of the receipt.")
@click.option("--tag", "tags", multiple=True, help="Tag of the receipt; repeat for more.")
def generate(env: str, data_dir: Path, project: str, **given: Any) -> None:
    """Certify all calls of a project that no receipt certifies yet."""
    tags = [*given["tags"]]
    try:
        wanted = ReceiptRequest(
            since_last_receipt=True, description=given["description"], tags=tags
        )
    except ValidationError as exc:
        raise click.UsageError(
            "a description has at most 1,000 characters; at most 50 tags of 100 characters"
        ) from exc
    made = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.generate(project_id, wanted)
    )
    click.echo(made["receipt"]["receipt_id"])
    click.echo(f"Calls: {made['certified_count']:,}", err=True)
    if made["more"]:
        click.echo("More calls are uncertified: run the command again.", err=True)
    if made["uncountable"]:
        click.echo(f"Skipped calls with 2^53 tokens or more: {made['uncountable']:,}", err=True)


@receipts.command("list")
@project_options
@click.option(
    "--limit",
    type=click.IntRange(1, 10_000),
    default=100,
    show_default=True,
    help="Maximum number of receipts.",
)
def list_(env: str, data_dir: Path, project: str, limit: int) -> None:
    """List receipts, newest first."""
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
    """Print a receipt as JSON. `llmring-verify` reads this form, too."""
    found = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.get(project_id, id)
    )
    click.echo(json.dumps(found, indent=2, ensure_ascii=False))


@receipts.command()
@click.argument("receipt", type=click.File("rb"))
def verify(receipt: BinaryIO) -> None:
    """Verify a receipt with the keys of this server; exit with 1 if it is not genuine.

    To verify without trusting this server, use llmring-verify with a saved key file.
    """
    keys = signing_keys.keyring_source(environment.read(os.environ))()
    try:
        found = verify_document(keys.trusted if keys else {}, parse(receipt.read()))
    except NotVerified as exc:
        raise click.ClickException(str(exc)) from exc
    if not found["valid"]:
        raise click.ClickException(f"Not genuine: {found['reason']}")
    alone = " Only its 13 signed fields are proved." if found["form"] == "fields" else ""
    click.echo(f"Genuine: signed with the key {found['kid']}.{alone}")
