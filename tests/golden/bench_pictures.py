#!/usr/bin/env python3
"""How many pictures a second one core reads for training, here and with Pillow and transformers.

    python -m venv .venv && .venv/bin/pip install -r tests/golden/requirements-pictures.txt
    .venv/bin/python tests/golden/bench_pictures.py --program build/release/pocketvlm

The same JPEG files of 448 x 448 (noise over gradients, quality 90, unless --pictures names a folder of JPEGs) are read, in turn and in each of --rounds rounds, by
  ours   `pocketvlm data check`: records parsed, JPEGs decoded, resized, normalised, cut into patches, text made into tokens
  peer   Pillow's decoder and transformers' SigLIP image processor on numpy (and, with torchvision installed, the one on torchvision)
each with one thread. Rates are pictures a second of processor time (user and system); what the programs need to start is
measured on a corpus of one picture and taken off. Prints one JSON object: rates of all rounds, their medians, and the ratio.
"""
import argparse
import importlib.util
import json
import os
import pathlib
import resource
import statistics
import subprocess
import sys
import tempfile
import time

for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[name] = "1"

SIDE = 448


def make_pictures(folder, count):
    """JPEGs of about 60 KB, as photographs of this size have; the same ones in every run."""
    import numpy
    from PIL import Image

    random = numpy.random.default_rng(7)
    down = numpy.linspace(0, 1, SIDE)[:, None, None]
    across = numpy.linspace(0, 1, SIDE)[None, :, None]
    paths = []
    for i in range(count):
        ends = random.uniform(0, 255, (3, 3))
        picture = ends[0] + down * (ends[1] - ends[0]) + across * (ends[2] - ends[0]) / 2
        picture = picture + random.normal(0, 9, (SIDE, SIDE, 3))
        path = folder / f"{i:05}.jpg"
        Image.fromarray(numpy.clip(picture, 0, 255).astype(numpy.uint8)).save(path, quality=90)
        paths.append(path)
    return paths


def write_model(path, source):
    """The model's pictures in a chat that needs no special pieces, so that any vocabulary will do."""
    config = json.loads(source.read_text())
    config["prompt"] |= {"chat_template": "vicuna_v1", "image_layout": "bare"}
    path.write_text(json.dumps(config))
    return path


def write_data(path, pictures):
    records = [
        {
            "id": str(i),
            "image": os.path.relpath(picture, path.parent),
            "conversations": [
                {"from": "human", "value": "<image>\nWhat is in the picture?"},
                {"from": "gpt", "value": "A gradient with noise."},
            ],
        }
        for i, picture in enumerate(pictures)
    ]
    path.write_text(json.dumps(records))
    return path


def processor_seconds(who):
    usage = resource.getrusage(who)
    return usage.ru_utime + usage.ru_stime


def run_ours(arguments, model, data):
    command = [arguments.program, "data", "check", str(data), "--threads", "1", "--tokenizer", arguments.tokenizer,
               "--model", str(model), "--json"]
    before = processor_seconds(resource.RUSAGE_CHILDREN)
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    seconds = processor_seconds(resource.RUSAGE_CHILDREN) - before
    return seconds, json.loads(result.stdout)


def ours(arguments, model, data, one, count):
    start, _ = run_ours(arguments, model, one)
    seconds, report = run_ours(arguments, model, data)
    if report["kept"] != count or report["images"] != count:
        sys.exit(f"pocketvlm kept {report['kept']} of {count} samples: {report['reasons']}")
    return (count - 1) / (seconds - start)


def peer(processor, pictures):
    """Includes nothing of the start: the interpreter has everything loaded."""
    from PIL import Image

    processor(images=Image.open(pictures[0]).convert("RGB"), return_tensors="np")
    before = processor_seconds(resource.RUSAGE_SELF)
    for path in pictures:
        processor(images=Image.open(path).convert("RGB"), return_tensors="np")
    return len(pictures) / (processor_seconds(resource.RUSAGE_SELF) - before)


def processors():
    """Name -> image processor: 448 x 448 pixels, bicubic, mean and deviation 0.5, as minicpmv-1.0 of ours."""
    import transformers

    settings = dict(size={"height": SIDE, "width": SIDE}, resample=3, image_mean=[0.5] * 3, image_std=[0.5] * 3)
    found = {"numpy": transformers.SiglipImageProcessorPil(**settings)}
    if importlib.util.find_spec("torchvision") is not None:
        found["torchvision"] = transformers.SiglipImageProcessor(**settings)
    return found


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--program", default="build/release/pocketvlm")
    parser.add_argument("--tokenizer", default="tests/data/preprocess/chat_templates.model")
    parser.add_argument("--model", default="configs/models/minicpmv-1.0.json", type=pathlib.Path, help="one 448 x 448 picture a sample")
    parser.add_argument("--pictures", type=pathlib.Path, help="folder of JPEGs instead of made ones")
    parser.add_argument("--count", type=int, default=500)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        pictures = sorted(arguments.pictures.glob("*.jpg"))[: arguments.count] if arguments.pictures else make_pictures(folder, arguments.count)
        if len(pictures) < 2:
            sys.exit("give at least two pictures")
        pictures = [path.resolve() for path in pictures]
        data, one = write_data(folder / "data.json", pictures), write_data(folder / "one.json", pictures[:1])
        model = write_model(folder / "model.json", arguments.model)
        peers = processors()
        rates = {"ours": [], **{f"peer_{label}": [] for label in peers}}
        begin = time.time()
        for _ in range(arguments.rounds):
            rates["ours"].append(ours(arguments, model, data, one, len(pictures)))
            for label, processor in peers.items():
                rates[f"peer_{label}"].append(peer(processor, pictures))
        medians = {label: statistics.median(values) for label, values in rates.items()}
        fastest = max(value for label, value in medians.items() if label != "ours")
        print(json.dumps({
            "pictures": len(pictures),
            "images_per_processor_second": {label: [round(value, 1) for value in values] for label, values in rates.items()},
            "median": {label: round(value, 1) for label, value in medians.items()},
            "ratio_to_numpy": round(medians["ours"] / medians["peer_numpy"], 2),
            "ratio_to_fastest_peer": round(medians["ours"] / fastest, 2),
            "seconds": round(time.time() - begin, 1),
        }))


if __name__ == "__main__":
    main()
