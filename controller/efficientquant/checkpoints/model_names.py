"""Names, tags and published weights of timm's models.

timm is imported only where it is needed, since it imports torch and takes long.
"""

import difflib
from collections.abc import Iterable, Sequence

from efficientquant.errors import PretrainedUnavailableError, UnknownModelError

SHOWN_TAGS = 8


def require_models(names: Iterable[str], weights: object) -> None:
    """Raise an error unless timm has every model, with its weights.

    Raises UnknownModelError for a name that timm lacks, and PretrainedUnavailableError where `weights` are pretrained
    and timm publishes none.
    """
    for name in names:
        require_model(name)
        if weights == "pretrained":
            require_published(name)


def require_model(name: str) -> None:
    """Raise UnknownModelError for a name that timm cannot build.

    The error names near models or the model's tags.
    """
    import timm

    current = timm.models.get_deprecated_models().get(name)
    if current is not None:
        raise UnknownModelError(name, [current], "it has another name now")
    require_listed(name, timm.list_models(), tags_of(name.partition(".")[0]))


def require_listed(name: str, models: Sequence[str], tags: list[str]) -> None:
    """Raise UnknownModelError unless a model and its tag are listed.

    A name without a tag needs none.
    """
    architecture, _, tag = name.partition(".")
    if architecture not in models:
        raise UnknownModelError(name, difflib.get_close_matches(architecture.lower(), models, n=3, cutoff=0.6))
    if "." in name and tag not in tags:
        shown = _near_first(tag, tags)
        listed = f"{architecture} has the tags {', '.join(shown)}" if tags else f"{architecture} has no tags"
        raise UnknownModelError(name, [f"{architecture}.{shown[0]}" if tags else architecture], listed)


def require_published(name: str) -> None:
    """Raise PretrainedUnavailableError for a model whose weights timm does not publish."""
    import timm

    config = timm.models.get_pretrained_cfg(name)
    if config is None or not config.has_weights:
        raise PretrainedUnavailableError(name, "timm publishes none")


def tags_of(architecture: str) -> list[str]:
    """Return the tags of a model, the default one first: `cvnets_in1k`."""
    import timm

    names = timm.list_models(f"{architecture}.*", include_tags=True)
    return [name.partition(".")[2] for name in names if name.startswith(f"{architecture}.")]


def _near_first(tag: str, tags: list[str]) -> list[str]:
    near = difflib.get_close_matches(tag, tags, n=SHOWN_TAGS, cutoff=0.4)
    return [*near, *(other for other in tags if other not in near)][:SHOWN_TAGS]
