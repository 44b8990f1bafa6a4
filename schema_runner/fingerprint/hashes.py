"""The hash that fingerprints and dependencies are made of."""

from hashlib import blake2b


def digest(data: bytes | str) -> str:
    """Return the hash of bytes or a text, in hex."""
    content = data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data
    return blake2b(content, digest_size=16).hexdigest()
