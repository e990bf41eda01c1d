"""Fuzz targets (`fuzz_*.py`, one each), the generators and the oracle they share. See README.md."""
