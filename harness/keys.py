"""The SSH keys of one run: made on the host, thrown away with the run."""

from __future__ import annotations

import struct
from dataclasses import dataclass

from harness.cpio import ImageFile

ALGORITHM = b"ssh-ed25519"


@dataclass(frozen=True)
class RunKeys:
    """Two ed25519 key pairs: the client's (ours) and the guest's host key, so that both sides know each
    other.

    client_private: OpenSSH's private key format, without a passphrase. host_private_dropbear:
    dropbear's key file. client_public, host_public: one line, ``ssh-ed25519 AAAA...``, without a
    comment or a newline.
    """

    client_private: str
    client_public: str
    host_private_dropbear: bytes
    host_public: str

    @classmethod
    def generate(cls) -> RunKeys:
        """New keys from the host's random numbers: a guest that has just booted has none (2.6.31:
        /dev/random blocks).
        """
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import (
            Encoding,
            NoEncryption,
            PrivateFormat,
            PublicFormat,
        )

        client, host = Ed25519PrivateKey.generate(), Ed25519PrivateKey.generate()
        openssh = client.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())
        publics = [
            key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()
            for key in (client, host)
        ]
        return cls(
            client_private=openssh.decode(),
            client_public=publics[0],
            host_private_dropbear=dropbear_key(
                host.private_bytes_raw(), host.public_key().public_bytes_raw()
            ),
            host_public=publics[1],
        )

    def files(self) -> list[ImageFile]:
        """Where the guest's SSH server (images/rootfs/etc/harness/rc) looks for them."""
        return [
            ImageFile("/root/.ssh/authorized_keys", f"{self.client_public}\n".encode(), 0o600),
            ImageFile("/etc/dropbear/dropbear_ed25519_host_key", self.host_private_dropbear, 0o600),
        ]


def dropbear_key(seed: bytes, public: bytes) -> bytes:
    """An ed25519 host key as dropbear keeps it: two SSH strings (RFC 4251, section 5), the second seed
    || public.

    From dropbear's ed25519.c, buf_put_ed25519_priv_key(). seed, public: 32 bytes each (RFC 8032).
    """
    return b"".join(struct.pack(">I", len(part)) + part for part in (ALGORITHM, seed + public))
