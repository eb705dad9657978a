"""A script that runs an ONNX file in ONNX Runtime 1.10.

Its arguments are IMAGES.npy MODEL.onnx LOGITS.npy. It has to run on Python 3.6.
"""

import sys

import numpy
import onnxruntime


def main():
    if not onnxruntime.__version__.startswith("1.10."):
        sys.exit("onnxruntime 1.10 is wanted, this is " + onnxruntime.__version__)
    images, model, answer = sys.argv[1:]
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    logits = [session.run(None, {"input": image[None]})[0] for image in numpy.load(images)]
    numpy.save(answer, numpy.concatenate(logits))


main()
