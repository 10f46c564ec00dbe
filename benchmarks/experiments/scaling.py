"""What a second process gives: queries a second of `finetune`, passages a second of `encode`.

Run it with `python -m benchmarks.experiments.scaling`. Each process computes with one thread, so that two of them take
two cores where one takes one; start-up is not counted. A step of two processes is twice as large. What else the
machine does counts, so the load is printed, and the runs take turns.
"""

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from trainers.embedded import BACKBONE_FOLDER
from trainers.embedded.corpus import code_pairs

PROCESSES = (1, 2)
BATCH = 16  # queries of a process
TEXTS = 256  # that are encoded


def run(processes: int, *arguments: str) -> str:
    """What a command prints that so many processes share."""
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", str(processes), "--standalone"]
    done = subprocess.run(
        [*launch, "-m", "trainers.cli", *arguments], capture_output=True, text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    if done.returncode:
        raise RuntimeError(
            f"{arguments[0]} on {processes} processes ended with {done.returncode}: {done.stderr[-2000:]}"
        )
    return done.stdout


def finetune(processes: int, folder: Path, steps: int) -> float:
    """Queries a second."""
    output = folder / f"finetune{processes}"
    run(
        processes, "finetune", "--model", str(BACKBONE_FOLDER), "--train_data", str(folder / "pairs.jsonl"),
        "--output_dir", str(output), "--pooling", "last_token",
        "--train_group_size", "1", "--per_device_train_batch_size", str(BATCH), "--max_steps", str(steps),
        "--query_max_length", "64", "--passage_max_length", "128", "--save_strategy", "no", "--report_to", "none",
        "--use_cpu", "--disable_tqdm", "true",
    )  # fmt: skip
    seconds = json.loads((output / "train_results.json").read_text())["train_runtime"]
    return processes * BATCH * steps / seconds


def encode(processes: int, folder: Path) -> float:
    """Passages a second."""
    data, output = str(folder / "texts.jsonl"), str(folder / f"encoded{processes}.safetensors")
    options = ["--pooling", "mean", "--data", data, "--output", output, "--overwrite"]
    said = run(processes, "encode", "--model", str(BACKBONE_FOLDER), *options)
    found = re.search(r", ([\d.]+) s$", said, flags=re.MULTILINE)
    assert found is not None, said
    return TEXTS / float(found[1])


def write_data(folder: Path) -> None:
    """Docstrings and their functions, of the standard library."""
    pairs = code_pairs("holdout")[:TEXTS]
    rows = [{"query": pair.query, "pos": [pair.passage]} for pair in pairs]
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    texts = [{"id": str(number), "text": pair.passage} for number, pair in enumerate(pairs)]
    (folder / "texts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in texts))


def main(argv: Sequence[str] | None = None) -> None:
    """Measures, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=12, help="of a training")
    parser.add_argument("--repeats", type=int, default=3, help="of each measurement")
    options = parser.parse_args(argv)
    speeds: dict[tuple[str, int], list[float]] = {}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_data(folder)
        for _ in range(options.repeats):
            for processes in PROCESSES:
                speeds.setdefault(("finetune, queries", processes), []).append(
                    finetune(processes, folder, options.steps)
                )
                speeds.setdefault(("encode, passages", processes), []).append(encode(processes, folder))
    print(f"{os.cpu_count()} cores, load average {os.getloadavg()[1]:.1f}, medians of {options.repeats}")
    for what in dict.fromkeys(what for what, _ in speeds):
        one, two = (statistics.median(speeds[what, processes]) for processes in PROCESSES)
        print(f"{what} a second: {one:.1f} on one process, {two:.1f} on two, {two / one:.2f} times")


if __name__ == "__main__":
    main()
