"""The judge: problem packages, submissions and verdicts with evidence.

Above `api`, below `cli`. `sandbox.judge` is the face for graders' authors; names are imported when they are first used.
"""

from __future__ import annotations
