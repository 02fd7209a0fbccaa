"""Who may reach a server of ours: this machine, or those who have its token."""

from __future__ import annotations

import ipaddress
from contextlib import suppress

from gan_dist.core.errors import GanDistError

SHORTEST_TOKEN = 16


def require_protected(host: str, token: str | None) -> None:
    """Refuse an address that others can reach without a token, and a token that can be guessed.

    Raises:
        GanDistError: it is one of these.
    """
    make = 'export GAN_DIST_TOKEN=$(python -c "import secrets; print(secrets.token_hex())")'
    if token is None:
        if not is_loopback(host):
            what = f"--host {host} can be reached from other machines, and there is no token"
            raise GanDistError(what, f"{make}, or leave --host out")
    elif len(token) < SHORTEST_TOKEN:
        what = f"a token of {len(token)} characters can be guessed: {SHORTEST_TOKEN} are needed"
        raise GanDistError(what, make)


def is_loopback(name: str) -> bool:
    """Return whether a name or an address is one of this machine alone."""
    with suppress(ValueError):
        return ipaddress.ip_address(name).is_loopback
    return name == "localhost"
