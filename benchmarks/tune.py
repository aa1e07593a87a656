"""Learning rate and crop of each system, chosen once on the validation part of a draw that no row uses: ``python benchmarks/tune.py ROW ...``.

First with crops and without at the first learning rate, then the other rates with the better of the two; all for the same number
of images. The validation measure of the row's curve decides. What was found stands in ``tuning.json`` beside this file, and the
rows take what it says.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path

import torch

from medvlp_lite.experiments import Row, profile_of
from medvlp_lite.experiments.measures import VALIDATION
from medvlp_lite.experiments.runner import load_pretrained, row_of
from medvlp_lite.training import fit

RATES, CROPS = (1e-3, 2e-3), (1.0, 0.5)
SEED = 500  # far from the draws of every row
IMAGES, STUDIES = 32_000, 8_000
TABLE = Path(__file__).with_name("tuning.json")


def trial(row: Row, rate: float, crop: float, parents: dict) -> float:
    """The validation measure after training a row with this learning rate and crop."""
    profile = replace(profile_of("long"), studies=STUDIES)
    config = row.training.config(profile, SEED)
    config = replace(config, learning_rate=rate, crop=crop, steps=IMAGES // config.batch_size)
    data = row.draw.data(profile, row.image_size(profile), SEED)
    torch.manual_seed(SEED)
    system = row.start(row, data, profile, SEED, parents)
    fit(system, row.train_set(row, data, SEED), config, log=None)
    with torch.no_grad():
        return VALIDATION[row.validation](system.eval(), data)


def main() -> None:
    """Try the menu for every row that is named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rows", nargs="+")
    parser.add_argument("--rates", type=float, nargs="+", default=RATES)
    parser.add_argument("--crops", type=float, nargs="+", default=CROPS)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    for row in map(row_of, chosen.rows):
        parents = {part: load_pretrained(name) for part, name in row.parents.items()}
        first, *others = chosen.rates
        found = {(first, crop): trial(row, first, crop, parents) for crop in chosen.crops}
        crop = max(found, key=found.get)[1]
        found |= {(rate, crop): trial(row, rate, crop, parents) for rate in others}
        known = json.loads(TABLE.read_text(encoding="utf-8")) if TABLE.is_file() else {}
        known[row.name] = {
            "measure": row.validation,
            "found": [
                {"learning_rate": rate, "crop": crop, "value": round(value, 4)} for (rate, crop), value in found.items()
            ],
        }
        TABLE.write_text(json.dumps(known, indent=1) + "\n", encoding="utf-8")
        print(row.name, known[row.name], flush=True)


if __name__ == "__main__":
    main()
