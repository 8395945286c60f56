"""`llmring-server receipts`: signing keys and receipts."""

import json
import os
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

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

key_file_option = click.option(
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
@key_file_option
def keygen(path: Path) -> None:
    """Create a key file with a first key, which signs at once. Keep a backup of the file."""
    _print_new_key(signing_keys.create_key_file(path))
    click.echo(f"Set LLMRING_RECEIPT_KEY_FILE={path} for the server.", err=True)


@receipts.command()
@key_file_option
@click.option(
    "--compromised", is_flag=True, help="Mark all private keys of the file as compromised, at once."
)
def rotate(path: Path, *, compromised: bool) -> None:
    """Announce the next signing key; a day later, run again to activate it.

    Running servers read the file again and publish its public keys.
    """
    rotate_file = signing_keys.compromise_key_file if compromised else signing_keys.rotate_key_file
    _print_new_key(rotate_file(path))


def _print_new_key(key: StoredKey) -> None:
    click.echo(key.kid)
    click.echo(f"The key {key.kid} is {key.state}.", err=True)
    if key.state == "next":
        click.echo(f"It can sign from {_format_time(key.not_before)} UTC on.", err=True)


@receipts.command()
@key_file_option
def keys(path: Path) -> None:
    """List the keys of a key file, without private keys."""
    table = wrapping_table("key", "state", "public key", "signs from", "retired", "compromised")
    for key in signing_keys.read_key_file(path).keys:
        table.add_row(
            key.kid,
            key.state,
            key.x,
            _format_time(key.not_before),
            _format_time(key.retired_at),
            _format_time(key.compromised_at),
        )
    CONSOLE.print(table)


def _format_time(moment: datetime | None) -> str:
    return f"{moment:%Y-%m-%d %H:%M}" if moment else ""


@receipts.command()
@project_options
@click.option("--description", help="Description of the receipt.")
@click.option("--tag", "tags", multiple=True, help="Tag of the receipt; repeat for more.")
def generate(
    env: str, data_dir: Path, project: str, description: str | None, tags: tuple[str, ...]
) -> None:
    """Certify all calls of a project that no receipt certifies yet."""
    try:
        request = ReceiptRequest(since_last_receipt=True, description=description, tags=list(tags))
    except ValidationError as exc:
        raise click.UsageError(
            "a description has at most 1,000 characters; at most 50 tags of 100 characters"
        ) from exc
    result = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.generate(project_id, request)
    )
    click.echo(result["receipt"]["receipt_id"])
    click.echo(f"Certified calls: {result['certified_count']:,}", err=True)
    if result["has_more"]:
        click.echo("There are more uncertified calls. Run this command again.", err=True)
    if result["skipped_count"]:
        click.echo(
            f"Skipped calls, which have 2^53 tokens or more: {result['skipped_count']:,}", err=True
        )


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
    receipt_list = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.list(project_id, page)
    )
    for receipt in receipt_list["receipts"]:
        model = f"{receipt['provider']} {receipt['model']}"
        tokens = f"{receipt['total_tokens']:,} tokens"
        cost = f"{receipt['total_cost']:.6f} USD"
        issued_at = receipt["timestamp"][:16].replace("T", " ")
        title = receipt["description"] or model
        entry(receipt["receipt_id"], title, model, tokens, cost, issued_at)


@receipts.command()
@project_options
@click.argument("id")
def show(env: str, data_dir: Path, project: str, id: str) -> None:
    """Print a receipt as JSON. `llmring-verify` reads this form, too."""
    receipt = with_project(
        env, data_dir, project, lambda ring, project_id: ring.receipts.get(project_id, id)
    )
    click.echo(json.dumps(receipt, indent=2, ensure_ascii=False))


@receipts.command()
@click.argument("receipt", type=click.File("rb"))
def verify(receipt: BinaryIO) -> None:
    """Verify a receipt with the keys of this server; exit with 1 if it is not genuine.

    To verify without trusting this server, use llmring-verify with a saved key file.
    """
    keyring = signing_keys.keyring_source(environment.read(os.environ))()
    try:
        result = verify_document(keyring.trusted if keyring else {}, parse(receipt.read()))
    except NotVerified as exc:
        raise click.ClickException(str(exc)) from exc
    if not result["valid"]:
        raise click.ClickException(f"Not genuine: {result['reason']}")
    click.echo(f"Genuine: signed with the key {result['kid']}.")
    if result["form"] == "fields":
        click.echo("Without an envelope, only the 13 fields are proved.")
