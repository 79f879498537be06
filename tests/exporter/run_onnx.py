"""Runs ONNX files with onnxruntime for onnx_runtime_test: a list of {"model", "input", "shape", "output"} from the JSON file named
on the command line; inputs and outputs are raw float32. Also checks each file with onnx.checker where the package is there.
Prints versions and the median time of a run. Exit 3: a package is missing."""

import json
import statistics
import sys
import time

try:
    import numpy
    import onnxruntime
except ImportError as error:
    print(error)
    sys.exit(3)
try:
    import onnx
except ImportError:
    onnx = None

sessions = {}
seconds = []
for job in json.load(open(sys.argv[1])):
    path = job["model"]
    if path not in sessions:
        if onnx is not None:
            onnx.checker.check_model(path, full_check=True)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.log_severity_level = 3
        sessions[path] = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    pixels = numpy.fromfile(job["input"], dtype=numpy.float32).reshape(job["shape"])
    begin = time.perf_counter()
    (tokens,) = sessions[path].run(["visual_tokens"], {"pixels": pixels})
    seconds.append(time.perf_counter() - begin)
    assert tokens.dtype == numpy.float32, tokens.dtype
    tokens.tofile(job["output"])
print(f"onnxruntime {onnxruntime.__version__}, onnx {onnx.__version__ if onnx else 'missing'}: {len(seconds)} runs of {len(sessions)} "
      f"files, {statistics.median(seconds):.4f} s each")
