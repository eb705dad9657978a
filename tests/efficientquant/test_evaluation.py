import dataclasses
import json
import math

import digits
import efficientquant as eq
import numpy as np
import onnx
import pytest
import torch
from efficientquant.errors import ArtifactFileError, DataError, EvaluationError
from efficientquant.evaluation import Evaluation, Tally, binomial_error, evaluate_all, paired_error, require_fit
from torch import nn

MAX_LOSS = {"efficientquant": 0.003, "int8": 0.005}


@pytest.fixture(scope="module")
def trained():
    """Return the small trained model."""
    return eq.create_model(digits.MODEL, digits.WEIGHTS)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Return a folder with train.npz and test.npz."""
    return digits.save_npz(tmp_path_factory.mktemp("digits"))


@pytest.fixture(scope="module")
def test_data(trained, folder):
    """Return the test split."""
    return eq.open_images(folder / "test.npz", eq.input_spec(trained))


@pytest.fixture(scope="module")
def evaluations(trained, folder, test_data):
    """Return {(recipe, subject kind): Evaluation} on the whole test split, made in one pass."""
    images = eq.open_images(folder / "train.npz", eq.input_spec(trained))
    subjects = []
    for recipe in MAX_LOSS:
        quantized = eq.quantize(trained, eq.get_recipe(recipe), images)
        subjects += [quantized, eq.export_onnx(quantized, folder / f"{recipe}.onnx")]
    results = evaluate_all(subjects, test_data, reference=trained)
    recipes = [recipe for recipe in MAX_LOSS for _ in ("eager", "artifact")]
    return {(recipe, evaluation.subject): evaluation for recipe, evaluation in zip(recipes, results, strict=True)}


def test_the_trained_model_is_trained(trained, test_data):
    """The shipped weights classify the test split, which training did not use."""
    evaluation = eq.evaluate(trained, test_data, reference=trained)
    assert evaluation.images == 797
    assert evaluation.top1 > 0.98
    assert evaluation.top5 > evaluation.top1
    assert (evaluation.agreement, evaluation.top1_change, evaluation.max_abs, evaluation.sqnr_db) == (
        1.0,
        0.0,
        0.0,
        math.inf,
    )


@pytest.mark.parametrize("kind", ["eager", "artifact"])
@pytest.mark.parametrize("recipe", MAX_LOSS)
def test_eight_bits_keep_the_accuracy(evaluations, recipe, kind):
    """On a trained hybrid EfficientQuant loses at most 0.3 points of top-1, int8 at most 0.5."""
    evaluation = evaluations[recipe, kind]
    assert evaluation.top1_change >= -MAX_LOSS[recipe]
    assert evaluation.agreement > 0.99
    assert evaluation.sqnr_db > 20


@pytest.mark.parametrize("recipe", MAX_LOSS)
def test_the_artifact_is_as_accurate_as_the_eager_model(evaluations, recipe):
    """Top-1 of the artifact and of the eager model differ by at most one image of 797."""
    eager, artifact = evaluations[recipe, "eager"], evaluations[recipe, "artifact"]
    assert abs(eager.top1 - artifact.top1) <= 1 / 797 + 1e-9
    assert (eager.runtime.split()[0], artifact.runtime.split()[0]) == ("torch", "onnxruntime")


def test_every_evaluation_carries_its_bits(evaluations):
    """An evaluation has the bits of weights and activations that its accuracy was reached with."""
    bits = evaluations["efficientquant", "artifact"].bit_table
    assert bits["conv weights"] == "8 per-channel"
    assert bits["linear weights"] == "32"
    assert bits["softmax"].startswith("8 log2")
    assert evaluations["int8", "eager"].bit_table["conv inputs"] == "8"


def test_an_onnx_file_says_what_it_can_of_its_bits(evaluations, folder, test_data):
    """The bit table comes from the file's metadata, or from the weights' types where it has none."""
    own, foreign = onnx.load(folder / "efficientquant.onnx"), folder / "foreign.onnx"
    own.ClearField("metadata_props")
    onnx.save(own, foreign)
    carried, stored = (eq.evaluate(path, test_data, limit=40) for path in (folder / "efficientquant.onnx", foreign))
    assert carried.images == 40
    assert carried.bit_table == evaluations["efficientquant", "artifact"].bit_table
    assert "int8" in stored.bit_table["stored weights"]


def test_an_evaluation_survives_json(evaluations, trained, test_data):
    """from_dict reverses to_dict, also where nothing differs and the SQNR is infinite."""
    same = eq.evaluate(trained, test_data, reference=trained, limit=20)
    for evaluation in (*evaluations.values(), same):
        assert Evaluation.from_dict(json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))) == evaluation


def test_batches_do_not_change_the_counts(trained, test_data):
    """The size of a batch does not change the results."""
    few = test_data.sample(50)
    small, large = (eq.evaluate(trained, few, batch=batch) for batch in (7, 50))
    assert (small.top1, small.top5, small.images) == (large.top1, large.top5, 50)


def test_standard_errors():
    """The binomial and the paired standard error have their textbook values."""
    assert binomial_error(0.25, 300) == pytest.approx(0.025)
    assert paired_error(3, 1, 100) == pytest.approx(math.sqrt((0.04 - 0.02**2) / 100))


def test_a_tally_counts_who_was_right():
    """A tally counts per image what was won and lost against the reference, agreement and distances."""
    tally = Tally()
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0], [0.0, 1.0]])
    expected = torch.tensor([[2.0, 0.0], [1.0, 0.0], [0.0, 4.0]])
    tally.add(logits, torch.tensor([0, 1, 0]), expected)
    assert (tally.top1, tally.reference_top1, tally.won, tally.lost, tally.agreed) == (2, 1, 1, 0, 2)
    assert (tally.max_abs, tally.noise, tally.signal) == (3.0, 11.0, 21.0)


def test_without_labels_there_is_fidelity_and_no_accuracy(trained, test_data):
    """Unlabelled images give the distance from FP32 and no accuracy."""
    evaluation = eq.evaluate(trained, dataclasses.replace(test_data, labels=None), reference=trained, limit=10)
    assert (evaluation.top1, evaluation.top1_error, evaluation.top5, evaluation.top1_change) == (None, None, None, None)
    assert evaluation.agreement == 1.0


def test_few_classes_have_no_top5(test_data):
    """Below six classes there is no top-5, since every answer would be right."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    few = dataclasses.replace(test_data, labels=tuple(label % 5 for label in test_data.labels))
    assert eq.evaluate(model, few, limit=10).top5 is None


def test_a_model_of_one_class_is_refused(test_data):
    """A model with one output is refused, since every answer would be right."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 1))
    few = dataclasses.replace(test_data, labels=(0,) * len(test_data.labels))
    sentence = "the model has one output, so every answer is the same; evaluate takes classifiers of 2 classes or more"
    with pytest.raises(EvaluationError, match=sentence):
        eq.evaluate(model, few)
    model.num_classes = 1
    with pytest.raises(EvaluationError, match=sentence):
        require_fit(model, few)


def test_a_model_without_a_classifier_is_refused(test_data):
    """A model without a classifier head is refused."""
    features = nn.Identity()
    features.num_classes = 0
    with pytest.raises(EvaluationError, match="the model has no classifier"):
        require_fit(features, test_data)
    with pytest.raises(EvaluationError, match="answers with 32×3×32×32 numbers; evaluate takes classifiers"):
        eq.evaluate(features, test_data)


def test_no_images_are_refused(trained, test_data):
    """An empty set of images is refused with one sentence."""
    with pytest.raises(EvaluationError, match="there are no images to evaluate on"):
        eq.evaluate(trained, dataclasses.replace(test_data, indices=()))


def test_images_of_equal_pixels_are_named(trained, tmp_path):
    """An evaluation names the images whose pixels are all equal."""
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 8, 8, 3), np.uint8), labels=np.array([0, 1]))
    evaluation = eq.evaluate(trained, eq.open_images(tmp_path / "a.npz", eq.input_spec(trained)))
    assert evaluation.notes == tuple(f"data a.npz: images[{index}]: all pixels are equal" for index in (0, 1))


def test_classes_that_do_not_fit_are_refused(test_data):
    """A model with fewer outputs than the labels need is refused."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 32 * 32, 5))
    with pytest.raises(DataError, match="but the model has 5 outputs, 0 to 4"):
        eq.evaluate(model, test_data)


def test_a_file_that_is_no_artifact_is_refused(tmp_path, test_data, pytestconfig):
    """A missing file, a text file and a model for other images are refused with one sentence each."""
    (tmp_path / "text.onnx").write_text("no model")
    with pytest.raises(ArtifactFileError, match="is no ONNX file"):
        eq.evaluate(tmp_path / "text.onnx", test_data)
    with pytest.raises(ArtifactFileError, match=r"nowhere\.onnx: cannot be read"):
        eq.evaluate(tmp_path / "nowhere.onnx", test_data)
    with pytest.raises(EvaluationError, match="takes an input of batch×3×16×16, the images are 3×32×32"):
        eq.evaluate(pytestconfig.rootpath / "tests/fixtures/models/tiny.onnx", test_data)
