"""``landscape`` and ``python -m landscape_app``: the command line, which takes seconds to import."""

import sys


def main() -> int:
    """Run the command line. Ctrl-C ends it quietly from its first moment on."""
    try:
        from landscape_app.cli import main as run

        return run()
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
