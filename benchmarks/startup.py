"""Start-up: what looks names up, against listing timm's models, each in a fresh process, run in turn.

Prints the median wall time of each, and the median over the rounds of its ratio to the peer's time in the same round.
Exit code 1 if a command that the goal names takes more than its share. Run it with the environment's own Python.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time

PEER = "import timm; timm.list_models()"
COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "zoo list": ["-m", "zoo.cli", "list"],
    "zoo list --json": ["-m", "zoo.cli", "list", "--json"],
    "zoo info timm:mobilenetv3": ["-m", "zoo.cli", "info", "timm:mobilenetv3"],
    "zoo resolve timm:mobilenetv3": ["-m", "zoo.cli", "resolve", "timm:mobilenetv3"],
    "import zoo; zoo.list()": ["-c", "import zoo; zoo.list()"],
    "zoo --help": ["-m", "zoo.cli", "--help"],
    PEER: ["-c", PEER],
}
GOAL = 0.05
"""At most this share of the peer's time, for every command that looks something up."""
HELD = [name for name in COMMANDS if name.startswith(("zoo list", "zoo info", "zoo resolve"))]


def once(arguments: list[str]) -> float:
    """Run one fresh process and give its wall time, in seconds."""
    start = time.perf_counter()
    subprocess.run([sys.executable, *arguments], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> int:
    """Run all commands in turn and print medians and ratios."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for arguments in COMMANDS.values():
        once(arguments)  # warms the page cache
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(once(arguments))
    ratios = {
        name: statistics.median(own / peer for own, peer in zip(runs, times[PEER], strict=True))
        for name, runs in times.items()
    }
    for name, runs in times.items():
        goal = f"   goal {GOAL} {'met' if ratios[name] <= GOAL else 'MISSED'}" if name in HELD else ""
        print(f"{name:34} {statistics.median(runs):8.3f} s   {ratios[name]:6.3f} x timm{goal}")
    return int(any(ratios[name] > GOAL for name in HELD))


if __name__ == "__main__":
    sys.exit(main())
