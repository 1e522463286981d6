"""``python -m chiasma`` is the command line."""

from chiasma.cli.main import run

if __name__ == "__main__":
    run()
