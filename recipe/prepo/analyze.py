"""``python -m recipe.prepo.analyze``; the code is in :mod:`recipe.prepo.tools.analyze`."""

import sys

from recipe.prepo.tools.analyze import main

if __name__ == "__main__":
    sys.exit(main())
