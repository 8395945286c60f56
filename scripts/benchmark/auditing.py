"""How fast an auditor gets through many receipts, with no server at hand."""

import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from hashlib import sha256
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import UUID

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from llmring_verify import keys, receipt
from scripts.benchmark.contenders import ROOT
from scripts.benchmark.figures import spread
from scripts.benchmark.measure import MICRO, Bench, progress

PROGRAM = Path(sys.executable).parent / "llmring-verify"
EXAMPLE = ROOT / "tests/vectors/good/usage.json"
BARE = 20_000


def verify(bench: Bench) -> dict[str, Any]:
    """Verify a file of receipts, all different; beside it, the arithmetic of Ed25519 alone."""
    key = Ed25519PrivateKey.generate()
    with TemporaryDirectory() as folder:
        _write(Path(folder), key, bench.calls)
        command = (PROGRAM, "receipts.jsonl", "--keys", "keys.json")
        run = partial(subprocess.run, command, cwd=folder, check=True, stdout=subprocess.DEVNULL)
        alone = partial(_alone, key, json.loads(EXAMPLE.read_text())["receipt"])
        rounds = [(*_timed(run), _timed(alone)[0]) for _ in range(bench.rounds)]
    return {
        "receipts": bench.calls,
        "seconds": spread(seconds for seconds, _, _ in rounds),
        "cpu_us": spread(cpu / bench.calls * MICRO for _, cpu, _ in rounds),
        "ed25519_us": spread(each / BARE * MICRO for _, _, each in rounds),
        "cpu / ed25519": spread(cpu / bench.calls * BARE / each for _, cpu, each in rounds),
    }


def _timed(work: Callable[[], Any]) -> tuple[float, float]:
    """Return seconds by the clock, and of CPU in child processes."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    work()
    after, end = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    return end - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _alone(key: Ed25519PrivateKey, body: dict[str, Any]) -> None:
    public, data = key.public_key(), receipt.signed_bytes(body)
    signature = key.sign(data)
    for _ in range(BARE):
        public.verify(signature, data)


def _write(folder: Path, key: Ed25519PrivateKey, size: int) -> None:
    progress(f"signing {size:,} receipts")
    public = key.public_key().public_bytes_raw()
    body = json.loads(EXAMPLE.read_text())["receipt"] | {"kid": keys.key_id(public)}
    first = UUID(body["log_id"]).int
    (folder / "keys.json").write_text(json.dumps([{"x": receipt.base64url(public)}]))
    with (folder / "receipts.jsonl").open("w") as file:
        for number in range(size):
            body["log_id"] = body["receipt_id"] = str(UUID(int=first + number))
            envelope = _sealed(body, key)
            file.write(f"{json.dumps(envelope)}\n")


def _sealed(body: dict[str, Any], key: Ed25519PrivateKey) -> dict[str, Any]:
    """Sign a receipt and put it into an envelope."""
    data = receipt.signed_bytes(body)
    sig = receipt.base64url(key.sign(data))
    return {
        "receipt": body,
        "signature": {"alg": receipt.ALGORITHM, "kid": body["kid"], "sig": sig},
        "signed_sha256": sha256(data).hexdigest(),
    }
