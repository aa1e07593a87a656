"""The command ``medvlp-lite``: which data sets are here, how to get them, and whether they can be read."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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


COMMANDS = (add_data,)
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
