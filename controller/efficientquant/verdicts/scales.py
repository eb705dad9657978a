"""Scales that runtimes take although they mean nothing."""

from collections.abc import Iterator

from efficientquant.artifact.validation import find_scales
from efficientquant.artifact.view import GraphView
from efficientquant.verdicts.build_verdict import Outcome, Reason


def find_wrong_scales(view: GraphView) -> Iterator[Reason]:
    """Yield a reason for each scale that is not a positive number."""
    for graph in (view, *view.branches()):
        for violation in find_scales(graph):
            yield Reason(violation.rule, Outcome.FAILS, str(violation), (violation.node,))
