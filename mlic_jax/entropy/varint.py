"""Numbers of varying length, as streams and files hold them."""

from __future__ import annotations


def varint(value: int) -> bytes:
    """A number from 0: 7 bits a byte, the least significant first."""
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
