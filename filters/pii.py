"""Masking of personal data in text: e-mail addresses and public IP addresses.

That is what FineWeb masks (Penedo et al. 2024, arXiv 2406.17557, section 3.7, which knows IPv4
only). Placeholders are constants, so that a text's mask depends on the text alone.
"""

import re
from ipaddress import ip_address

import numpy as np
from numpy.typing import NDArray

# Reserved for documentation: RFC 2606 (names), RFC 5737 (IPv4) and RFC 3849 (IPv6).
EMAIL = "email@example.com"
IPV4 = "192.0.2.1"
IPV6 = "2001:db8::1"

LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"
# The parts are bounded (RFC 5321, RFC 1035), so that a long run without "@" takes linear time.
EMAIL_PATTERN = re.compile(
    f"[{LETTER}0-9_][{LETTER}0-9._%+-]{{0,63}}@"
    f"(?:[{LETTER}0-9](?:[{LETTER}0-9-]{{0,61}}[{LETTER}0-9])?\\.)+[{LETTER}]{{2,63}}"
)
IPV4_PATTERN = re.compile(r"(?<![\w.])(?:[0-9]{1,3}\.){3}[0-9]{1,3}(?!\w|\.[0-9])")
# All public IPv6 addresses are in 2000::/3, which also tells them from `A::B` in source code.
IPV6_PATTERN = re.compile(
    r"(?<![\w:.])[23][0-9A-Fa-f]{3}(?:::?[0-9A-Fa-f]{1,4}){0,7}(?:::)?(?!:{0,2}\w)"
)


def mask(texts: list[str]) -> tuple[list[str], NDArray[np.int32]]:
    """Puts placeholders for e-mail addresses and public IP addresses.

    Private, reserved and documentation addresses stay: they identify nobody. A section number of
    four parts reads as a public address and goes, as it does in FineWeb.

    Returns:
        The masked texts, and how many addresses were replaced in each, of shape [len(texts)].
    """
    masked = [_mask_text(text) for text in texts]
    counts = np.array([count for _, count in masked], np.int32)
    return [text for text, _ in masked], counts


def _mask_text(text: str) -> tuple[str, int]:
    masked: list[str] = []

    def replace(match: re.Match[str]) -> str:
        placeholder = _placeholder(match.group())
        if placeholder != match.group():
            masked.append(placeholder)
        return placeholder

    for pattern in (EMAIL_PATTERN, IPV6_PATTERN, IPV4_PATTERN):
        text = pattern.sub(replace, text)
    return text, len(masked)


def _placeholder(address: str) -> str:
    """What stands for `address`: itself if it is no public one."""
    if "@" in address:
        return EMAIL
    try:
        parsed = ip_address(address)
    except ValueError:
        return address
    if not parsed.is_global or parsed.is_multicast:
        return address
    return IPV4 if parsed.version == 4 else IPV6
