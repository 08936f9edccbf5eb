import argparse

from benchmarks import pictures, surface

SUITES = {"surface": surface.run, "pictures": pictures.run}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Compare with peers, in one process.")
    parser.add_argument("suite", choices=SUITES)
    parser.add_argument("--quick", action="store_true", help="under 50 s; the peer's time is extrapolated")
    arguments = parser.parse_args()
    SUITES[arguments.suite](quick=arguments.quick)


main()
