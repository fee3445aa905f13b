"""``python -m recipe.prepo.evaluate``; the code is in :mod:`recipe.prepo.tools.evaluate`."""

import sys

from recipe.prepo.tools.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
