"""Seeds from names: the same parts give the same seed, anywhere and in any order of asking."""

from __future__ import annotations

from harness.digest import digest


def derive_seed(*parts: str | int) -> int:
    """31 bits of the digest of the parts."""
    return int(digest(list(parts)), 16) % 2**31
