"""Images per second of the phantom on one core, masks and report included: ``python benchmarks/phantom_speed.py``."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from medvlp_lite.phantom import make_studies, render, sample_patient, write_report


def speed(count: int = 200, size: int = 128, rounds: int = 5) -> float:
    """Studies made per second of processor time, best of ``rounds``, once textures and vessels are made."""
    make_studies(100, seed=99, size=size)
    best = 0.0
    for k in range(rounds):
        began = time.process_time()
        make_studies(count, seed=k, size=size)
        best = max(best, count / (time.process_time() - began))
    return best


def parts(count: int = 300, size: int = 128) -> dict[str, float]:
    """Milliseconds per study for sampling, drawing and writing."""
    began = time.process_time()
    patients = [sample_patient(seed) for seed in range(count)]
    drawn = time.process_time()
    for patient in patients:
        render(patient, size)
    written = time.process_time()
    for patient in patients:
        write_report(patient)
    ended = time.process_time()
    marks = {"sample": drawn - began, "render": written - drawn, "report": ended - written}
    return {name: 1000 * seconds / count for name, seconds in marks.items()}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[112, 128, 256])
    for size in parser.parse_args().sizes:
        rate = speed(200 if size <= 128 else 60, size)
        detail = ", ".join(f"{name} {ms:.2f} ms" for name, ms in parts(100, size).items())
        print(f"{size:5d} px: {rate:6.0f} studies/s on one core ({detail})")
