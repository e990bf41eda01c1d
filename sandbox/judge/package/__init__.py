"""Problem packages as files: what is read of them, by which rules, and a snapshot of their test data.

A package is not trusted. Everything here parses: bounded, without recursion on what a file says, following no link out of the package. Nothing of it is run.
"""

from __future__ import annotations
