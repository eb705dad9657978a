"""Loads and runs ONNX files under an old Python; no pytest and nothing newer than Python 3.6 in here."""

import sys

import numpy
import onnxruntime


def main():
    if not onnxruntime.__version__.startswith("1.10."):
        sys.exit("onnxruntime 1.10 is wanted, this is " + onnxruntime.__version__)
    images = numpy.load(sys.argv[1])
    for path in sys.argv[2:]:
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        logits = [session.run(None, {"input": image[None]})[0] for image in images]
        numpy.save(path + ".npy", numpy.concatenate(logits))


main()
