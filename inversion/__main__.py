"""``python -m inversion`` is the command line."""

import sys

from inversion.cli import main

sys.exit(main())
