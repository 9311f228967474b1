"""``python -m zoo`` is the same as ``zoo``; launchers such as ``torchrun -m zoo`` need it."""

from __future__ import annotations

import sys

from zoo.cli import main

if __name__ == "__main__":
    sys.exit(main())
