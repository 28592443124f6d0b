"""Seeds for random generators, derived from a name of the place where they are used."""

import hashlib


def key_of(*place: int | str) -> int:
    """A 63-bit seed for one place in a run; unequal places give unrelated ones."""
    digest = hashlib.blake2b(repr(place).encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") >> 1
