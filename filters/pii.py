"""Masking of personal data in text: e-mail addresses, public IP addresses and phone numbers.

A placeholder is made of the value that it stands for by a keyed hash, and says no more of it than
that: equal values have equal placeholders in every text, whatever else is masked and in whichever
order. They are of ranges that are reserved for examples, which are never masked themselves.
FineWeb masks e-mail and public IPv4 addresses by a few constants in turn (Penedo et al. 2024,
arXiv 2406.17557, section 3.7); of phone numbers its documents keep all.
"""

import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from ipaddress import IPv4Address, IPv6Address, ip_address
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

KEY = "mixwright"

LETTER = "A-Za-zÀ-ÖØ-öø-ɏ"
# The parts are bounded (RFC 5321, RFC 1035), so that a long run without "@" takes linear time.
LOCAL = re.compile(f"[{LETTER}0-9_][{LETTER}0-9._%+-]{{0,63}}\\Z")
LONGEST_LOCAL = 64
DOMAIN = re.compile(
    f"@(?:[{LETTER}0-9](?:[{LETTER}0-9-]{{0,61}}[{LETTER}0-9])?\\.)+[{LETTER}]{{2,63}}"
)
RESERVED = re.compile(  # RFC 2606, RFC 6761
    r"(?:.*\.)?(?:example\.(?:com|org|net)|example|invalid|localhost|test)", re.IGNORECASE
)

# A pattern begins with what it consumes, and looks back from there: a search then skips at the
# speed of a scan to the next character that can begin a match.
IPV4 = re.compile(
    r"[0-9](?<![\w.][0-9])[0-9]{0,2}\.[0-9]{1,3}\.[0-9]{1,3}\.[0-9]{1,3}(?!\w|\.[0-9])"
)
# All public IPv6 addresses are in 2000::/3, which also tells them from `A::B` in source code.
IPV6 = re.compile(
    r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}(?:::?[0-9A-Fa-f]{1,4}){0,7}(?:::)?(?!:{0,2}\w)"
)


SPACE = " \u00a0"
# Digits as telephone numbers are written: in groups, with an area code or "(0)" in brackets. No
# run is ever cut short: what follows it is the end of a number, or it is none.
NUMBER = re.compile(
    r"[+(0-9](?<![\w.,\-/+#=$€£%&?][+(0-9])(?<![0-9]:[0-9])[0-9]{0,15}+\)?+"
    rf"(?:(?:[{SPACE}][\-/][{SPACE}]|[{SPACE}](?=\()|[{SPACE}.\-/]|(?<=\))|(?=\())"
    r"\(?[0-9]{1,12}+\)?+){0,7}+(?![\w@(]|[.,:/\-][0-9])"
)
TRUNK = "(0)"  # the domestic prefix, which is not called from abroad
COUNTRY = re.compile(  # the codes of E.164
    r"1|7|2(?:[07]|[1-69][0-9])|3(?:[0-469]|[578][0-9])|4(?:[013-9]|2[0-9])|5(?:[1-8]|[09][0-9])"
    r"|6(?:[0-6]|[7-9][0-9])|8(?:[1246]|[0578][0-9])|9(?:[0-58]|[679][0-9])"
)
AMERICAN = re.compile(  # area codes and exchanges begin with 2 to 9 and are not N11
    rf"(?:1[{SPACE}.\-])?(?:\([2-9](?!11)[0-9]{{2}}\)[{SPACE}\-]?|[2-9](?!11)[0-9]{{2}}[.\-])"
    rf"[2-9](?!11)[0-9]{{2}}[{SPACE}.\-][0-9]{{4}}"
)
FRENCH = re.compile(rf"0[1-9](?P<gap>[{SPACE}.\-])[0-9]{{2}}(?:(?P=gap)[0-9]{{2}}){{3}}")
BRACKETED = re.compile(
    rf"\(0[1-9][0-9]{{1,4}}\)[{SPACE}]?[0-9]{{2,8}}(?:[{SPACE}\-][0-9]{{2,6}}){{0,3}}"
)
# What stands before a number, and says that it is one to call, or that it is another.
BEFORE = 40  # characters
CALLED = re.compile(
    r"(?:\b(?:tel|tele(?:ph|f)one?|teléfono|telefono|telefoon|téléphone|tél|tlf|tfno|phone|fone?"
    r"|fax|telefax|mobile?|móvil|handy|gsm|whatsapp|(?:call|ring)(?: us| me)?(?: at| on)?)"
    r"|[☎☏📞📱])\W{0,3}(?:(?:no|nr|number|is|at|on)\b\W{0,3})?\Z",
    re.IGNORECASE,
)
NUMBERED = re.compile(
    r"\b(?:isbn|issn|ean|upc|order|invoice|reference|ref|serial|part|sku|item|case|ticket|account"
    r"|doi|id|article|version)s?\W{0,3}(?:(?:no|nr|num|number|id|is|1[03])\b\W{0,3}){0,2}\Z",
    re.IGNORECASE,
)


def mask(
    texts: Sequence[str],
    *,
    email: bool = True,
    ip: bool = True,
    phone: bool = True,
    key: str = KEY,
) -> tuple[list[str], dict[str, NDArray[np.int32]]]:
    """Puts placeholders for personal data.

    Private, reserved and documentation addresses stay: they identify nobody. A section number of
    four parts reads as a public address and goes, as it does in FineWeb.

    Phone numbers are those with a country code ("+49 30 1234567"), North American ones with a
    bracket, periods or hyphens ("(212) 736-5000", "212-736-5000"), French ones in pairs, those
    with an area code in brackets that begins with 0, and whatever digits a word such as "phone"
    or "Tel." announces. Others stay, since dates, ISBN and order numbers look like them.

    Args:
        texts: what to mask.
        email: mask e-mail addresses.
        ip: mask public IP addresses.
        phone: mask telephone numbers.
        key: of the hash; who does not know it cannot tell which value a placeholder stands for.

    Returns:
        The masked texts, and by kind ("email", "ip", "phone") how many values were replaced in
        each, of shape [len(texts)].
    """
    rules = {"email": _mask_emails, "ip": _mask_addresses, "phone": _mask_numbers}
    wanted = {"email": email, "ip": ip, "phone": phone}
    masked, counts = list(texts), {}
    for kind, rule in rules.items():
        if wanted[kind]:
            found = [rule(text, key.encode()) for text in masked]
            masked = [text for text, _ in found]
            counts[kind] = np.array([count for _, count in found], np.int32)
    return masked, counts


def _mask_emails(text: str, key: bytes) -> tuple[str, int]:
    if "@" not in text:
        return text, 0
    pieces, end, count = [], 0, 0
    for domain in DOMAIN.finditer(text):
        at = domain.start()
        local = LOCAL.search(text, max(end, at - LONGEST_LOCAL), at)
        if local is None or RESERVED.fullmatch(domain.group()[1:]):
            continue
        address = local.group() + domain.group()
        pieces += [text[end : local.start()], email_placeholder(address, key)]
        end, count = domain.end(), count + 1
    return "".join([*pieces, text[end:]]), count


def _mask_addresses(text: str, key: bytes) -> tuple[str, int]:
    text, sixes = _replace(IPV6, text, lambda match: ip_placeholder(match.group(), key))
    text, fours = _replace(IPV4, text, lambda match: ip_placeholder(match.group(), key))
    return text, sixes + fours


def _mask_numbers(text: str, key: bytes) -> tuple[str, int]:
    def placeholder(match: re.Match[str]) -> str | None:
        before = text[max(0, match.start() - BEFORE) : match.start()]
        return phone_placeholder(match.group(), key) if _is_phone(match.group(), before) else None

    return _replace(NUMBER, text, placeholder)


def _replace(
    pattern: re.Pattern[str], text: str, placeholder: Callable[[re.Match[str]], str | None]
) -> tuple[str, int]:
    """`text` with the matches replaced that have a placeholder, and how many have."""
    count = 0

    def replace(match: re.Match[str]) -> str:
        nonlocal count
        found = placeholder(match)
        count += found is not None
        return match.group() if found is None else found

    return pattern.sub(replace, text), count


def email_placeholder(address: str, key: bytes) -> str:
    """An address of example.com (RFC 2606)."""
    return f"email-{_hash(address.lower(), key) % 2**32:08x}@example.com"


def ip_placeholder(address: str, key: bytes) -> str | None:
    """An address of the ranges for documentation (RFC 5737, RFC 3849); None if it is no public one.

    There are 762 such IPv4 addresses, and so some values share one.
    """
    try:
        parsed = ip_address(address)
    except ValueError:
        return None
    if not parsed.is_global or parsed.is_multicast:
        return None
    number = _hash(str(parsed), key)
    if parsed.version == 6:
        return str(IPv6Address((0x20010DB8 << 96) + number))
    network = ("192.0.2.0", "198.51.100.0", "203.0.113.0")[number % 3]
    return str(IPv4Address(network) + 1 + number // 3 % 254)


def phone_placeholder(number: str, key: bytes) -> str:
    """A number of the range for fiction: 555-01xx in any area of the North American plan."""
    digits = "".join(re.findall("[0-9]", number.replace(TRUNK, "")))
    national = len(digits) == 10 and AMERICAN.fullmatch(number)
    h = _hash(f"1{digits}" if national else digits, key)
    first, second, third = 2 + h % 8, h // 8 % 9, h // 72 % 10
    area = f"{first}{second}{2 if second == third == 1 else third}"  # 211 to 911 are services
    return f"+1-{area}-555-01{h // 720 % 100:02d}"


def _hash(value: str, key: bytes) -> int:
    return int.from_bytes(blake2b(value.encode(), key=key[:64], digest_size=8).digest())


def _is_phone(written: str, before: str) -> bool:
    """Whether digits are a telephone number, given the text before them."""
    groups = re.findall("[0-9]+", written.replace(TRUNK, " "))
    digits = "".join(groups)
    if not 8 <= len(digits) <= 15 or digits.endswith("000000") or digits[-7:-2] == "55501":
        return False
    if written.startswith("+"):
        return _is_international(digits, groups)
    if CALLED.search(before):
        return min(map(len, groups[1:]), default=2) > 1
    if NUMBERED.search(before):
        return False
    if AMERICAN.fullmatch(written) or (BRACKETED.fullmatch(written) and len(digits) > 8):
        return True
    return FRENCH.fullmatch(written) is not None and not _counts_up(groups)


def _is_international(digits: str, groups: list[str]) -> bool:
    if digits[0] == "1":
        return len(digits) == 11 and digits[1] > "1" and digits[4] > "1"
    # A number in one piece may be an amount: +10000000.
    return COUNTRY.match(digits) is not None and (len(groups) > 1 or len(digits) > 9)


def _counts_up(groups: list[str]) -> bool:
    steps = {int(after) - int(one) for one, after in pairwise(groups)}
    return len(steps) == 1
