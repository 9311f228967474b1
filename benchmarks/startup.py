"""Start-up: `zoo list` and `zoo --help` against listing timm's models, each in a fresh process, run in turn.

Prints the median wall time of each and its ratio to the peer's. Run it with the environment's own Python.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "zoo --help": ["-m", "zoo.cli", "--help"],
    "zoo list": ["-m", "zoo.cli", "list", "--json"],
    "import timm; timm.list_models()": ["-c", "import timm; timm.list_models()"],
}
PEER = "import timm; timm.list_models()"


def once(arguments: list[str]) -> float:
    """Run one fresh process and give its wall time, in seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    """Run all commands in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        once(arguments)  # warms the page cache
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(once(arguments))
    peer = statistics.median(times[PEER])
    for name, runs in times.items():
        median = statistics.median(runs)
        print(f"{name:34} {median:8.3f} s   {median / peer:6.3f} x timm")


if __name__ == "__main__":
    main()
