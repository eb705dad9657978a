"""Inputs whose sizes are not known when an engine is built."""

from collections.abc import Iterator

from onnx import ValueInfoProto

from efficientquant.artifact.view import GraphView
from efficientquant.verdicts.build_verdict import Outcome, Reason


def find_dynamic_sizes(view: GraphView, outcome: Outcome = Outcome.FAILS) -> Iterator[Reason]:
    """Yield a reason for each input without a fixed size.

    The agents run a batch of one. They refuse to choose any other size.
    """
    for value in view.model.graph.input:
        if value.name in view.constants:
            continue
        if not value.type.tensor_type.HasField("shape"):
            sentence = f"the input {value.name!r} has no shape; export the model with a fixed image size"
            yield Reason("dynamic-size", outcome, sentence, (value.name,))
        elif missing := _missing_sizes(value):
            several = len(missing) > 1
            sentence = (
                f"the input {value.name!r} has no size in dimension{'s' if several else ''} {' and '.join(missing)}; "
                "only the batch (dimension 0) may be dynamic, it is 1; export the model with a fixed image size"
            )
            yield Reason("dynamic-size", outcome, sentence, (value.name,))


def _missing_sizes(value: ValueInfoProto) -> list[str]:
    """Return an input's dimensions without a size, as in "2 ('H')"."""
    return [
        f"{index} ({size.dim_param!r})" if size.dim_param else str(index)
        for index, size in enumerate(value.type.tensor_type.shape.dim)
        if index > 0 and size.dim_value <= 0
    ]
