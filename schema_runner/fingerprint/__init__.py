"""Whether ready schemas that an earlier run has kept may be used again without `migrate`.

What can be known before a build is in the `fingerprint`; what only a build shows, such as the
files that migrations read, is in the dependencies that a `Recording` of it gives.
"""

from .dependencies import is_unchanged
from .hashes import digest
from .recording import Recording
from .whole import fingerprint

__all__ = ["Recording", "digest", "fingerprint", "is_unchanged"]
