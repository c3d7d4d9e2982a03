"""``python -m pocketvit`` is ``pocketvit``."""

import sys

from .cli import main

sys.exit(main())
