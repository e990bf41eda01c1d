"""A rootless sandbox for Linux: run untrusted programs in containers built from user namespaces."""

__version__ = "0.1.0"
