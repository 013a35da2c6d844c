"""What `mixwright inspect` prints of a description."""

from collections.abc import Iterator, Mapping
from typing import Any

Description = Mapping[str, Any]


def render(description: Description) -> Iterator[str]:
    """The lines for shards, a run or documents."""
    kinds = {"shards": _shards, "run": _run, "documents": _documents}
    return kinds[description["kind"]](description)


def _shards(shards: Description) -> Iterator[str]:
    size = shards["bytes"] / 1e6
    yield (
        f"{shards['sequences']:,} sequences of {shards['seq_len']} tokens in {shards['shards']} "
        f"shards, {size:,.1f} MB; {shards['stopped_by']} ran out first"
    )
    yield (
        f"an image is {shards['image_tokens']} tokens, at most {shards['max_images']} a sequence; "
        f"tokenizer {shards['tokenizer']['name']}, seed {shards['seed']}"
    )
    yield ""
    columns = ("sequences", "tokens", "images", "documents")
    yield f"{'corpus':<14}{'asked':>8}" + "".join(f"{c:>22}" for c in columns) + f"{'fill':>8}"
    for name, corpus in shards["corpora"].items():
        cells = "".join(f"{corpus[c]['count']:>13,} {corpus[c]['share']:>8.2%}" for c in columns)
        yield f"{name:<14}{corpus['weight']:>8.1%}{cells}{corpus['fill']:>8.1%}"
        for source, found in shards["weighted"].get(name, {}).items():
            share = f"{found['sequences']:>13,} {found['share']:>8.2%}"
            yield f"  {source:<12}{found['weight']:>8.1%}{share}  of {name}"
    yield from _values("sources", shards["sources"])
    yield from _values("licences", shards["licences"])


def _values(title: str, corpora: Mapping[str, Mapping[str, Mapping[str, int]]]) -> Iterator[str]:
    yield f"\n{title}"
    for corpus, values in corpora.items():
        for value, sums in values.items():
            count = f"{sums['segments']:>7,} segments {sums['tokens']:>11,} tokens"
            yield f"  {corpus:<13}{count}  {value or 'not stated'}"


def _run(run: Description) -> Iterator[str]:
    yield f"{'stage':<28}{'unit':<10}{'read':>10}{'kept':>10}{'dropped':>10}{'errors':>8}"
    for stage in run["stages"]:
        for unit in sorted(stage["read"]):
            lost = [sum(stage[k].get(unit, {}).values()) for k in ("dropped", "errors")]
            read, kept = stage["read"][unit], stage["kept"].get(unit, 0)
            yield f"{stage['stage']:<28}{unit:<10}{read:>10,}{kept:>10,}{lost[0]:>10,}{lost[1]:>8,}"
    if run["shards"]:
        yield ""
        yield from _shards(run["shards"])


def _documents(documents: Description) -> Iterator[str]:
    for key, value in documents.items():
        if key == "kind":
            continue
        if isinstance(value, Mapping):
            yield f"{key}"
            for name, item in value.items():
                yield f"  {name or 'not stated':<30} {_number(item)}"
        else:
            yield f"{key:<32} {_number(value)}"


def _number(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_number(v)}" for k, v in value.items())
    return (
        f"{value:,.4g}"
        if isinstance(value, float)
        else f"{value:,}"
        if isinstance(value, int)
        else str(value)
    )
