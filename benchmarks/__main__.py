"""Benchmarks against named peers: ``python -m benchmarks SUITE [--quick]`` prints one JSON line a row."""

import argparse
from importlib import import_module

SUITES = ("surface", "pictures", "curvature", "bars", "matching", "browser")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare with peers, in one process.")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--quick", action="store_true", help="under 50 s, of which some is extrapolated")
    arguments = parser.parse_args()
    import_module(f"benchmarks.{arguments.suite}").run(quick=arguments.quick)


if __name__ == "__main__":  # the processes of a suite import this again
    main()
