"""A certificate authority as many companies have it: trusted, but not made by every rule of RFC 5280."""

from __future__ import annotations

import datetime as dt
import ipaddress
import ssl
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

DAY = dt.timedelta(days=1)


def write_authority(directory: Path) -> tuple[Path, ssl.SSLContext]:
    """The file of an authority, and a server for 127.0.0.1 whose certificate names no key of its authority's."""
    now = dt.datetime.now(dt.UTC)
    keys = [ec.generate_private_key(ec.SECP256R1()) for _ in range(2)]
    authority_name, server_name = (
        x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]) for name in ("authority", "server")
    )
    authority = (
        x509.CertificateBuilder(authority_name, authority_name, keys[0].public_key(), 1, now - DAY, now + DAY)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=False)
        .sign(keys[0], hashes.SHA256())
    )
    server = (
        x509.CertificateBuilder(authority_name, server_name, keys[1].public_key(), 2, now - DAY, now + DAY)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .sign(keys[0], hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    (directory / "authority.pem").write_bytes(authority.public_bytes(pem))
    (directory / "server.pem").write_bytes(server.public_bytes(pem))
    (directory / "server-key.pem").write_bytes(private_key(keys[1]))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(directory / "server.pem", directory / "server-key.pem")
    return directory / "authority.pem", context


def private_key(key: ec.EllipticCurvePrivateKey, password: bytes | None = None) -> bytes:
    """As PEM; encrypted where a password is given."""
    encryption = serialization.BestAvailableEncryption(password) if password else serialization.NoEncryption()
    return key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, encryption)
