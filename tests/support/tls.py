"""A PostgreSQL with TLS, and certificates. The embedded one is built without OpenSSL."""

import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import uuid4

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from llmring_server.db.postgres_supervisor import chown_to_postgres, spawn
from scripts.benchmark.postgres import system_programs
from tests.support.pooler import FOLDER
from tests.support.postgres import open_folder

HOST = "localhost"
MISSING = (
    "This test needs a PostgreSQL that is built with TLS in /usr/lib/postgresql, such as the"
    " package postgresql-15 of Debian."
)
# Users of this name need a certificate of their own; all others need TLS, and nothing else.
USER_WITH_CERTIFICATE = "ada"


class Certificate(NamedTuple):
    """A certificate in a file, and its key."""

    path: Path
    key: ec.EllipticCurvePrivateKey
    certificate: x509.Certificate

    @property
    def key_path(self) -> Path:
        return self.path.with_suffix(".key")


def certificate(folder: Path, name: str, issuer: Certificate | None = None) -> Certificate:
    """Create a certificate for a host or a user; without an issuer, that of an authority."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=issuer is None, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
    )
    signed = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    created = Certificate(folder / f"{name}_{uuid4().hex[:8]}.pem", key, signed)
    created.path.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    created.key_path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    created.key_path.chmod(0o600)
    return created


class TlsServer(NamedTuple):
    """A running PostgreSQL that accepts only connections with TLS."""

    port: int
    authority: Certificate
    folder: Path

    def url(self, user: str = "postgres", *, host: str = HOST, **parameters: str | Path) -> str:
        query = "&".join(f"{name}={value}" for name, value in parameters.items())
        return f"postgresql://{user}@{host}:{self.port}/postgres?{query}"


def _programs() -> Path:
    return system_programs() or pytest.fail(MISSING)


def _run(*command: str | Path) -> None:
    process = spawn(
        Path(command[0]), *command[1:], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    output, _ = process.communicate()
    assert process.returncode == 0, output.decode()


@contextmanager
def tls_server() -> Iterator[TlsServer]:
    """Run a PostgreSQL with a certificate for `localhost`."""
    programs = _programs()
    folder = Path(os.environ[FOLDER]) / f"tls_{uuid4().hex[:8]}"
    open_folder(folder)
    authority = certificate(folder, "authority")
    own = certificate(folder, HOST, authority)
    for path in (folder, own.path, own.key_path):
        chown_to_postgres(path)
    data = folder / "data"
    _run(programs / "initdb", "-D", data, "-U", "postgres", "-A", "trust", "--no-sync")
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    (data / "postgresql.conf").write_text(
        f"port = {port}\nlisten_addresses = '127.0.0.1'\nunix_socket_directories = ''\n"
        f"fsync = off\nssl = on\nssl_ca_file = '{authority.path}'\n"
        f"ssl_cert_file = '{own.path}'\nssl_key_file = '{own.key_path}'\n"
    )
    authority.path.chmod(0o644)
    (data / "pg_hba.conf").write_text(
        f"hostssl all {USER_WITH_CERTIFICATE} 127.0.0.1/32 cert\n"
        "hostssl all all 127.0.0.1/32 trust\n"
    )
    _run(programs / "pg_ctl", "-D", data, "-w", "-l", data / "log", "start")
    try:
        yield TlsServer(port, authority, folder)
    finally:
        _run(programs / "pg_ctl", "-D", data, "-m", "immediate", "-w", "stop")
