"""Names of timm's models."""

import pytest
from efficientquant.checkpoints.model_names import require_model, require_models
from efficientquant.errors import PretrainedUnavailableError, UnknownModelError


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("mobilevit_xxx", "model 'mobilevit_xxx' is not known to timm; did you mean mobilevit_xxs"),
        (
            "mobilevit_xxs.cvnets_in22k",
            "mobilevit_xxs has the tags cvnets_in1k; did you mean mobilevit_xxs.cvnets_in1k?",
        ),
        ("mobilevit_xxs.", "mobilevit_xxs has the tags cvnets_in1k"),
        ("vit_base_patch16_224.augreg_in22k", "has the tags augreg_in21k, "),
        ("tf_efficientnet_b0_ns", "it has another name now; did you mean tf_efficientnet_b0.ns_jft_in1k?"),
        ("", "model '' is not known to timm; 'efficientquant models' lists them all"),
        ("model.onnx", "model 'model.onnx' is not known to timm; "),
    ],
)
def test_a_name_that_does_not_exist_is_one_sentence(name, sentence):
    """The error for a wrong name lists near names, and for a wrong tag the model's tags."""
    with pytest.raises(UnknownModelError) as refused:
        require_model(name)

    assert sentence in str(refused.value)


def test_all_names_are_checked_before_any_model_is_loaded():
    """One wrong name, or one model without published weights, refuses the whole list."""
    require_models(["mobilevit_xxs", "mobilevit_xxs.cvnets_in1k"], "pretrained")
    require_models(["botnet50ts_256"], "random")
    with pytest.raises(UnknownModelError, match="mobilevit_xxx"):
        require_models(["mobilevit_xxs", "mobilevit_xxx"], "random")
    with pytest.raises(PretrainedUnavailableError, match="botnet50ts_256 are not available"):
        require_models(["mobilevit_xxs", "botnet50ts_256"], "pretrained")
