"""
``python -m tenancy.cli``: the same as the script ``tenancy``.
"""

from __future__ import annotations

import sys

from tenancy.cli import main

if __name__ == "__main__":
    sys.exit(main())
