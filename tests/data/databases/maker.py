"""
What a user's own command may look like: it copies a file, and prints where the copy is.
"""

import os
import pathlib
import shutil
import sys

what, golden, folder = sys.argv[1:4]
file = pathlib.Path(folder) / f"{os.environ['TENANCY_DATABASE_KEY']}.db"
if what == "create":
    file.parent.mkdir(exist_ok=True)
    assert not file.exists()
    shutil.copy(golden, file)
    print("made it:")
    print(f"sqlite:///{file}")
else:
    file.unlink(missing_ok=True)
