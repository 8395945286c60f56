"""What receipts cost: while calls are logged, when they are issued, and when they are verified."""

import json
import resource
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

import rfc8785
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from scripts.benchmark.http_requests import KEYS
from scripts.benchmark.load_generator import Load
from scripts.benchmark.processes import resident_mib
from scripts.benchmark.runner import MICROSECONDS, Comparison, Settings, on_every_server, progress
from scripts.benchmark.seed import seed, settle
from scripts.benchmark.servers import ROOT, ServerUnderTest, prod, start, with_receipt_key
from scripts.benchmark.statistics import spread

PATH = "/api/v1/receipts"
# The key of a project that no load logs to.
SEEDED = KEYS[1]

VERIFIER = Path(sys.executable).with_name("llmring-verify")
EXAMPLE = ROOT / "tests" / "vectors" / "good" / "usage.json"
SIGNATURES = 20_000


def receipts(settings: Settings) -> dict[str, Any]:
    """Log calls with and without a signing key; issue one receipt for many calls."""
    with start(settings.cluster_url, with_receipt_key, prod) as servers:
        loads = {"log, c=64": on_every_server(Load(64, settings.seconds))}
        report = Comparison(settings, servers, loads).report()
        issuer = servers[0]
        seed(issuer, SEEDED, settings.calls)
        settle(issuer)
        return report | {f"{settings.calls:,} calls": _issue_in_rounds(settings, issuer)}


def _issue_in_rounds(settings: Settings, issuer: ServerUnderTest) -> dict[str, Any]:
    before = resident_mib(issuer.pid)
    rounds = [_issue(settings.calls, issuer) for _ in range(settings.rounds)]
    progress(f"  {rounds}")
    return {
        "generate_seconds": spread(generate for generate, _ in rounds),
        "proof_seconds": spread(proof for _, proof in rounds),
        "memory_mib": [before, resident_mib(issuer.pid)],
    }


def _issue(calls: int, issuer: ServerUnderTest) -> tuple[float, float]:
    """Return the seconds to certify all calls of a project, and to prove one of them."""
    period = {"start_date": "2000-01-01", "end_date": "2100-01-01"}
    start = time.perf_counter()
    generated = issuer.post(f"{PATH}/generate", SEEDED, period)
    middle = time.perf_counter()
    if generated["certified_count"] < calls:
        raise ValueError(f"certified: {generated['certified_count']}")
    receipt = generated["receipt"]
    log_id = receipt["batch_summary"]["log_ids"][0]
    issuer.get(f"{PATH}/{receipt['receipt_id']}/proof/{log_id}", SEEDED)
    return middle - start, time.perf_counter() - middle


def verify(settings: Settings) -> dict[str, Any]:
    """Verify a file of different receipts offline; compare with Ed25519 signatures alone."""
    key = Ed25519PrivateKey.generate()
    with TemporaryDirectory() as directory:
        _write_receipts(Path(directory), key, settings.calls)
        command = (VERIFIER, "receipts.jsonl", "--keys", "keys.json")
        verify_file = partial(
            subprocess.run, command, cwd=directory, check=True, stdout=subprocess.DEVNULL
        )
        rounds = [(*_timed(verify_file), _signature_seconds(key)) for _ in range(settings.rounds)]
    receipt_us = [cpu / settings.calls * MICROSECONDS for _, cpu, _ in rounds]
    signature_us = [cpu / SIGNATURES * MICROSECONDS for _, _, cpu in rounds]
    return {
        "receipts": settings.calls,
        "seconds": spread(seconds for seconds, _, _ in rounds),
        "cpu_us": spread(receipt_us),
        "ed25519_us": spread(signature_us),
        "cpu / ed25519": spread(
            one / other for one, other in zip(receipt_us, signature_us, strict=True)
        ),
    }


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return the elapsed seconds, and the CPU seconds of child processes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _signature_seconds(key: Ed25519PrivateKey) -> float:
    """Return the CPU seconds to verify `SIGNATURES` signatures in this process."""
    public, data = key.public_key(), _signed_bytes(_example())
    signature = key.sign(data)
    start = time.process_time()
    for _ in range(SIGNATURES):
        public.verify(signature, data)
    return time.process_time() - start


def _write_receipts(directory: Path, key: Ed25519PrivateKey, number: int) -> None:
    progress(f"  signing {number:,} receipts")
    public = key.public_key()
    der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    body = _example() | {"kid": sha256(der).hexdigest()[:8]}
    first = UUID(body["log_id"]).int
    keys = [{"x": _base64url(public.public_bytes_raw())}]
    (directory / "keys.json").write_text(json.dumps(keys))
    with (directory / "receipts.jsonl").open("w") as file:
        for offset in range(number):
            body["log_id"] = body["receipt_id"] = str(UUID(int=first + offset))
            file.write(f"{json.dumps(_envelope(body, key))}\n")


def _example() -> dict[str, Any]:
    receipt: dict[str, Any] = json.loads(EXAMPLE.read_text())["receipt"]
    return receipt


def _envelope(body: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    data = _signed_bytes(body)
    return {
        "receipt": body,
        "signature": {"alg": "Ed25519", "kid": body["kid"], "sig": _base64url(key.sign(data))},
        "signed_sha256": sha256(data).hexdigest(),
    }


def _signed_bytes(body: dict[str, Any]) -> bytes:
    return f"{body['v']}\n".encode() + rfc8785.dumps(body)


def _base64url(data: bytes) -> str:
    return urlsafe_b64encode(data).rstrip(b"=").decode()
