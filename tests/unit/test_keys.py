import base64
import io
import struct

import paramiko

from harness.keys import RunKeys


def test_client_key_is_what_paramiko_reads() -> None:
    keys = RunKeys.generate()
    key = paramiko.Ed25519Key.from_private_key(io.StringIO(keys.client_private))
    assert keys.client_public == f"ssh-ed25519 {key.get_base64()}"


def test_dropbear_host_key_holds_seed_and_public_key() -> None:
    keys = RunKeys.generate()
    data = keys.host_private_dropbear
    assert data[:19] == struct.pack(">I", 11) + b"ssh-ed25519" + struct.pack(">I", 64)
    assert len(data) == 19 + 64
    assert base64.b64decode(keys.host_public.split()[1])[-32:] == data[-32:]


def test_every_run_has_its_own_keys() -> None:
    first, second = RunKeys.generate(), RunKeys.generate()
    assert len({first.client_public, first.host_public, second.client_public, second.host_public}) == 4


def test_files_of_the_guest_are_private() -> None:
    keys = RunKeys.generate()
    files = {file.path: file for file in keys.files()}
    assert files["/root/.ssh/authorized_keys"].data.decode() == f"{keys.client_public}\n"
    assert keys.host_private_dropbear in {file.data for file in files.values()}
    assert {file.mode for file in files.values()} == {0o600}
