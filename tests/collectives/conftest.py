"""What the collectives' tests share: certificates for rails that speak TLS."""

import datetime
import ipaddress

import pytest

from holdfast.collectives.links.tls import Tls


@pytest.fixture(scope="session")
def authority(tmp_path_factory):
    """Return a function that makes the files of a rank, by the authority of that name."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    folder = tmp_path_factory.mktemp("certificates")
    made = {}

    def named(name):
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])

    def certificate(name, key, issuer, signer, ca):
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(named(name))
            .issuer_name(named(issuer))
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]),
                critical=False,
            )
        )
        return builder.sign(signer, hashes.SHA256())

    def write(name, data):
        (folder / name).write_bytes(data)
        return folder / name

    def files(name):
        if name not in made:
            root, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
            pem = serialization.Encoding.PEM
            made[name] = Tls(
                write(
                    f"{name}-rank.pem",
                    certificate("rank", key, name, root, False).public_bytes(pem),
                ),
                write(
                    f"{name}-rank.key",
                    key.private_bytes(
                        pem,
                        serialization.PrivateFormat.PKCS8,
                        serialization.NoEncryption(),
                    ),
                ),
                write(f"{name}.pem", certificate(name, root, name, root, True).public_bytes(pem)),
            )
        return made[name]

    return files
