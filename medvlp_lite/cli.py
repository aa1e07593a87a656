"""The command ``medvlp-lite``: real data sets, rows with their records, and the committed results."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from medvlp_lite import __version__

IMAGES_TO_READ = 25


def add_data(commands: argparse._SubParsersAction) -> None:
    """``medvlp-lite data list | get | check``."""
    data = commands.add_parser("data", help="list, fetch and check the real data sets")
    actions = data.add_subparsers(dest="action", required=True, metavar="list | get | check")
    listing = actions.add_parser("list", help="which sets there are, their licence and size, and whether they are here")
    listing.set_defaults(run=_list)
    get = actions.add_parser("get", help="download a set, or say how to get it")
    get.add_argument("name", help="openi, nih, rsna, covid or brixia")
    get.add_argument("--images", action="store_true", help="also the large image archives (Open-i, NIH)")
    get.set_defaults(run=_get)
    check = actions.add_parser("check", help="load a set and read some of its images")
    check.add_argument("name", nargs="?", help="default: every set that is here")
    check.add_argument("--root", help="the folder to look in (default: MEDVLP_DATA, else this user's cache)")
    check.add_argument("--all-images", action="store_true", help=f"read every image, not {IMAGES_TO_READ} of them")
    check.set_defaults(run=_check)


def add_train(commands: argparse._SubParsersAction) -> None:
    """``medvlp-lite train``: one row of the book's records, over its seeds, with its weights."""
    train = commands.add_parser("train", help="train and evaluate a row on phantoms; writes a record and weights")
    train.add_argument("system", help="convirt, supervised, ... ('medvlp-lite reproduce --list' names all)")
    train.add_argument("--profile", default="read", help="smoke, read, long or full (default: read)")
    train.add_argument("--seeds", type=int, nargs="+", help="default: the profile's own")
    train.add_argument("--out", default="runs", help="folder for <system>-<profile>.json and weights/<system>/")
    train.set_defaults(run=_train)


def add_reproduce(commands: argparse._SubParsersAction) -> None:
    """``medvlp-lite reproduce``: every row whose record is missing or stale."""
    reproduce = commands.add_parser(
        "reproduce", help="make every record that is missing or stale; can be killed, goes on"
    )
    reproduce.add_argument("--profile", default="read", help="smoke, read, long or full (default: read)")
    reproduce.add_argument(
        "--rows", nargs="+", default=["*"], help="names or patterns, such as 'medklip*' (default: all)"
    )
    reproduce.add_argument(
        "--jobs", type=int, help="processes of one thread each (default: one per core, 1 with a GPU)"
    )
    reproduce.add_argument("--hours", type=float, help="stop then; the next run goes on")
    reproduce.add_argument(
        "--out", default="runs", help="folder for records, weights and unfinished work (default: runs)"
    )
    reproduce.add_argument("--list", action="store_true", help="only say what is missing or stale, and why")
    reproduce.set_defaults(run=_reproduce)


def add_check(commands: argparse._SubParsersAction) -> None:
    """``medvlp-lite check``: one record, run again."""
    check = commands.add_parser("check", help="run a record's first seed again and compare with the record's spread")
    check.add_argument("record", help="a file such as book/results/convirt-long.json")
    check.add_argument("--all", action="store_true", help="every seed")
    check.set_defaults(run=_check_record)


def add_evaluate(commands: argparse._SubParsersAction) -> None:
    """``medvlp-lite evaluate``: zero-shot test of saved weights."""
    evaluate = commands.add_parser("evaluate", help="zero-shot AUC of saved weights on held-out phantoms")
    evaluate.add_argument("folder", help="what save_pretrained or 'medvlp-lite train' wrote")
    evaluate.add_argument("--profile", default="read", help="whose phantoms: smoke, read, long or full (default: read)")
    evaluate.set_defaults(run=_evaluate)


def add_results(commands: argparse._SubParsersAction) -> None:
    """``medvlp-lite results``: every claim with its verdict, then the records."""
    results = commands.add_parser("results", help="list the papers' claims with verdicts, and the records behind them")
    results.set_defaults(run=_results)


COMMANDS = (add_data, add_train, add_reproduce, add_check, add_evaluate, add_results)
"""One function per top-level command: it adds its parser and sets ``run``, a function of the parsed arguments."""


def _list(_: argparse.Namespace) -> int:
    from medvlp_lite.sources import registry

    rows = [("name", "title", "licence", "size", "items", "where")]
    for entry in registry.SETS.values():
        folder = registry.find(entry.name)
        count = registry.count(entry.name, folder) if folder else None
        where = str(folder) if folder else f"not here: medvlp-lite data get {entry.name}"
        rows.append((entry.name, entry.title, entry.licence, entry.size, f"{count:,}" if count else "-", where))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths)).rstrip())
    print(f"\nData folder: {registry.data_root()} (MEDVLP_DATA names another)")
    return 0


def _get(arguments: argparse.Namespace) -> int:
    from medvlp_lite.sources import registry

    entry = registry.entry_of(arguments.name)
    print(f"{entry.title} ({entry.size}), licence: {entry.licence}, home: {entry.home}")
    print(f"Here: {registry.fetch(entry.name, images=arguments.images)}")
    return 0


def _check(arguments: argparse.Namespace) -> int:
    from medvlp_lite.sources import registry

    names = [registry.entry_of(arguments.name).name] if arguments.name else list(registry.SETS)
    here = names if arguments.name else [name for name in names if registry.find(name, arguments.root)]
    for name in names:
        if name not in here:
            print(f"{name}: not here")
    if not here:
        print(f"no data set in {arguments.root or registry.data_root()}; see 'medvlp-lite data list'", file=sys.stderr)
        return 1
    return max(_check_one(name, arguments) for name in here)


def _check_one(name: str, arguments: argparse.Namespace) -> int:
    """0 when the set loads and its images, lung masks included, can be read; else the first problem and 1."""
    from medvlp_lite.sources import registry

    try:
        loaded = registry.load(name, arguments.root)
        studies = [study for study in loaded.studies if study.pixels is not None]
        step = 1 if arguments.all_images else max(1, -(-len(studies) // IMAGES_TO_READ))
        for study in studies[::step]:
            height, width = study.image.shape
            for mask in (study.meta.get("lung_mask"), study.meta.get("model_lung_mask")):
                if mask and mask().shape != (height, width):
                    raise ValueError(f"study {study.study_id}: its lung mask has another size than its image")
    except (ValueError, OSError) as error:
        print(f"{name}: problem: {error}")
        return 1
    print(f"{loaded}; {len(studies[::step])} images read")
    return 0


def _writable(folder: str) -> Path:
    """A folder that can be written, made where it is missing. Raises OSError when it cannot, before any work is done."""
    import tempfile

    path = Path(folder)
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            return path
    except OSError as error:
        raise OSError(f"{path} cannot be written ({error}); name another folder with --out") from error


def _train(arguments: argparse.Namespace) -> int:
    from medvlp_lite import experiments
    from medvlp_lite.cache import cache_folder

    row, profile = experiments.runner.row_of(arguments.system), experiments.profile_of(arguments.profile)
    out, state = _writable(arguments.out), _writable(str(cache_folder() / "rows"))
    record = experiments.runner.run_row(row, profile, out, arguments.seeds, print, state)
    print(f"{_summary(record)}\nrecord and weights: {out}")
    return 0


def _reproduce(arguments: argparse.Namespace) -> int:
    import os

    from medvlp_lite.experiments import profile_of, reproduce

    profile = profile_of(arguments.profile)
    if arguments.list:
        for name, reason in reproduce.states(profile, Path(arguments.out)).items():
            print(f"{name}: {reason or 'up to date'}")
        return 0
    jobs = arguments.jobs or (1 if reproduce.has_gpu() else os.cpu_count() or 1)
    out = _writable(arguments.out)
    left = reproduce.reproduce(profile, arguments.rows, jobs=jobs, hours=arguments.hours, out=out)
    print(f"without a fresh record: {', '.join(left)}" if left else f"every selected record is in {out}")
    return 1 if left else 0


def _check_record(arguments: argparse.Namespace) -> int:
    import tempfile

    from medvlp_lite.experiments.reproduce import check
    from medvlp_lite.records.record import RunRecord

    record = RunRecord.load(arguments.record)
    with tempfile.TemporaryDirectory() as folder:
        return 0 if check(record, Path(folder), every_seed=arguments.all) else 1


def _evaluate(arguments: argparse.Namespace) -> int:
    from medvlp_lite import experiments
    from medvlp_lite.evaluation.zero_shot import zero_shot
    from medvlp_lite.systems.base import System

    data = experiments.phantom_data(experiments.profile_of(arguments.profile).studies)
    result = zero_shot(System.from_pretrained(arguments.folder), data)
    for name, interval in [*result["auc"].items(), ("macro mean", result["macro_auc"])]:
        print(f"{name:22s} AUC {interval['value']:.3f} [{interval['low']:.3f}, {interval['high']:.3f}]")
    return 0


def _results(_: argparse.Namespace) -> int:
    from medvlp_lite.records import print_results

    print_results()
    return 0


def _summary(record) -> str:
    spread = record.metrics.get("macro_auc_over_seeds", {})
    value = f"macro AUC {spread['value']:.3f} over {len(record.seeds)} seeds, " if spread else ""
    return f"{record.name} ({record.profile}): {value}{record.seconds:.0f} s on {record.device}, {record.started}"


def build_parser() -> argparse.ArgumentParser:
    """The parser with every command of ``COMMANDS``."""
    parser = argparse.ArgumentParser(
        prog="medvlp-lite", description="Four chest X-ray vision-language systems, rebuilt. Not for clinical use."
    )
    parser.add_argument("--version", action="version", version=f"medvlp-lite {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="command")
    for add in COMMANDS:
        add(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; 0 done, 1 a check failed, 2 an error told in one sentence, 130 interrupted."""
    parsed = build_parser().parse_args(arguments)
    try:
        return parsed.run(parsed)
    except (ValueError, OSError) as error:
        print(f"medvlp-lite: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("medvlp-lite: interrupted; run the command again to go on", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
