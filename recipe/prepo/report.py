"""``python -m recipe.prepo.report``; the code is in :mod:`recipe.prepo.tools.report`."""

import sys

from recipe.prepo.tools.report.command import main

if __name__ == "__main__":
    sys.exit(main())
