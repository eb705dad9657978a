"""Short names of a model's layers, unique among those shown together."""

from collections import Counter
from collections.abc import Sequence


def short_layer_names(names: Sequence[str]) -> dict[str, str]:
    """Return the shortest unique form of each dotted name.

    A name is cut to its shortest beginning that no other name has and that has a word behind its first part. Then the
    first part is left out if no other is shared by several names, and if they stay unique without it. So
    `stages.2.1.conv_kxk.conv.weight` becomes `2.1.conv_kxk`, and `stem.conv.weight` becomes `stem.conv`.
    """
    parts = {name: tuple(name.split(".")) for name in names}
    short = {name: _shortest_beginning(own, list(parts.values())) for name, own in parts.items()}
    counts = Counter(own[0] for own in parts.values())
    shared = [first for first, count in counts.items() if count > 1]
    if len(shared) == 1:
        cut = {name: own[1:] if own[0] == shared[0] else own for name, own in short.items()}
        if all(cut.values()) and len(set(cut.values())) == len(cut):
            short = cut
    return {name: ".".join(own) for name, own in short.items()}


def _shortest_beginning(own: tuple[str, ...], names: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
    for length in range(1, len(own)):
        beginning = own[:length]
        has_word = not all(part.isdigit() for part in beginning[1:])
        if has_word and sum(name[:length] == beginning for name in names) == 1:
            return beginning
    return own
