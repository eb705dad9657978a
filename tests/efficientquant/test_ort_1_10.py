import os
import subprocess
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

DEFAULT_INTERPRETER = Path(".venvs/py3.6/bin/python")
CHECK = Path(__file__).parent / "ort_1_10_check.py"


@pytest.fixture(scope="session")
def old_python(pytestconfig):
    """Return a Python 3.6 that has ONNX Runtime 1.10: missing is a failure in CI, elsewhere a skip."""
    interpreter = Path(os.environ.get("EFFICIENTQUANT_PY36") or pytestconfig.rootpath / DEFAULT_INTERPRETER)
    if interpreter.exists():
        return interpreter
    advice = f"no Python 3.6 at {interpreter}; create it with onnxruntime==1.10.0, or set EFFICIENTQUANT_PY36"
    if os.environ.get("CI"):
        pytest.fail(advice)
    return pytest.skip(advice)


def test_onnx_runtime_1_10_computes_the_same(artifacts, real_images, old_python, tmp_path):
    """ONNX Runtime 1.10 on Python 3.6 loads every artifact and gives the current one's logits."""
    np.save(tmp_path / "images.npy", real_images[:2].numpy())
    paths = []
    for artifact in artifacts.values():
        paths.append(tmp_path / artifact.path.name)
        paths[-1].write_bytes(artifact.path.read_bytes())
    subprocess.run([old_python, CHECK, tmp_path / "images.npy", *paths], check=True)
    for path in paths:
        session = onnxruntime.InferenceSession(str(path))
        now = np.concatenate([session.run(None, {"input": image[None].numpy()})[0] for image in real_images[:2]])
        then = np.load(f"{path}.npy")
        # Fp32 agrees to float rounding; a log2 code on a boundary may move by one step.
        assert np.abs(now - then).max() <= (1e-4 if "fp32" in path.name else 1e-2)
        assert (now.argmax(1) == then.argmax(1)).all()
