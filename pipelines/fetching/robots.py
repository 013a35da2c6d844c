"""What a host says about robots: robots.txt, and the X-Robots-Tag header of an answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from protego import Protego

# Directives of X-Robots-Tag that carry a value, so that their name is not taken for an agent's.
VALUED_DIRECTIVES = frozenset(
    {"unavailable_after", "max-snippet", "max-image-preview", "max-video-preview"}
)


@dataclass(frozen=True)
class Rules:
    """A robots.txt as it concerns one agent; without a file, everything is allowed."""

    agent: str
    file: Protego
    size: int = 0  # bytes of the file

    def allow(self, url: str) -> bool:
        """Whether `url` may be asked (RFC 9309, section 2.2)."""
        return bool(self.file.can_fetch(url, self.agent))

    @property
    def crawl_delay(self) -> float:
        """Seconds between requests, by the Crawl-delay that many sites state; 0 if none does."""
        return max(0.0, self.file.crawl_delay(self.agent) or 0.0)


def parse(body: bytes, agent: str) -> Rules:
    """The rules of a robots.txt, of which bytes that are no UTF-8 are passed over."""
    return Rules(agent, Protego.parse(body.decode("utf-8-sig", errors="replace")), len(body))


def product(user_agent: str) -> str:
    """The product token that robots.txt and X-Robots-Tag call us by (RFC 9309, section 2.2.1)."""
    return user_agent.split("/")[0].split(" ")[0].lower()


def opts_out(tags: Iterable[str], agent: str, directives: Sequence[str]) -> bool:
    """Whether X-Robots-Tag headers hold one of `directives` for everyone or for `agent`.

    An agent's name and a colon before a directive limit it, and those after it in the same
    header, to that agent; `none` stands for `noindex, nofollow`.
    """
    refused = {directive.lower() for directive in directives}
    refused |= {"none"} if "noindex" in refused else set()
    return any(refused & _directives(tag, agent) for tag in tags)


def _directives(tag: str, agent: str) -> set[str]:
    """The directives of one X-Robots-Tag header that are meant for `agent`."""
    addressee, found = "*", set()
    for item in tag.lower().split(","):
        name, colon, rest = item.partition(":")
        if colon and name.strip() not in VALUED_DIRECTIVES:
            addressee, item = name.strip(), rest
        if addressee in ("*", agent):
            found.add(item.strip())
    return found
