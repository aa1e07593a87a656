"""Training speed of every zero-shot system, as a ratio to the baseline within one run: python benchmarks/training_speed.py."""

import time

import torch

from medvlp_lite import experiments
from medvlp_lite.studies import collate

ROUNDS = 5
NAMES = {"convirt": 64, "medklip": 32, "supervised": 64}


def prepare(name: str, batch_size: int, data: experiments.PhantomData):
    """A function that takes one optimiser step and returns its seconds."""
    torch.manual_seed(0)
    system = experiments.builder(name, data)().train()
    batch = collate([data.train[i] for i in range(batch_size)])
    optimizer = torch.optim.AdamW(system.parameters(), lr=1e-3)

    def step(precision: str) -> float:
        start = time.perf_counter()
        with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
            loss = system.loss(batch).total
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        return time.perf_counter() - start

    return step


def main() -> None:
    torch.set_num_threads(1)
    data = experiments.phantom_data(320)
    steps = {name: prepare(name, size, data) for name, size in NAMES.items()}
    for precision in ("no", "bf16"):
        seconds = {name: [] for name in NAMES}
        for _ in range(
            ROUNDS + 1
        ):  # taking turns: other work on the machine slows all of them alike; the first warms up
            for name, step in steps.items():
                seconds[name].append(step(precision))
        rates = {name: NAMES[name] / sorted(times[1:])[ROUNDS // 2] for name, times in seconds.items()}
        for name, rate in rates.items():
            print(f"{precision:5s} {name:11s} {rate:5.0f} images/s, {rate / rates['convirt']:.2f} of the baseline")


if __name__ == "__main__":
    main()
