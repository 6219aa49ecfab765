"""Cuts tests/data/text/prose.txt out of two files of the Debian package miscfiles.

usage: golden_prose.py us-declaration.gz us-constitution.gz > prose.txt

The Declaration up to its list of signers, then the Constitution up to the end of Article II.
Runs of blank lines become one; nothing else changes.
"""

import gzip
import re
import sys

declaration, constitution = (gzip.open(path, "rt", encoding="ascii").read() for path in sys.argv[1:3])
declaration = declaration[: declaration.index("The signers of the Declaration")]
constitution = constitution[: constitution.index("Article III\n")]
parts = (re.sub(r"\n{3,}", "\n\n", part.strip("\n")) for part in (declaration, constitution))
print("\n\n".join(parts))
