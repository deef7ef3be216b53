"""``python -m torchdali``."""

import sys

from torchdali.cli import main

if __name__ == "__main__":
    sys.exit(main())
