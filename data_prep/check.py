"""The same as `mvrec prep check`, for a clone that is not installed."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from mvrec.cli.main import main

if __name__ == "__main__":
    main(["prep", "check", *sys.argv[1:]])
