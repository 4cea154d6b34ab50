# SPDX-License-Identifier: MIT
"""``python -m dibs worker module:app``."""

from __future__ import annotations

import sys

from ._command import main

if __name__ == "__main__":
    sys.exit(main())
