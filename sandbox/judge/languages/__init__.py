"""Languages: how programs are compiled and run, one TOML file each in this directory, and which of them are here.

`load_languages` gives the table; `docs/how-to/add-a-language.md` says what a file may hold.
"""

from __future__ import annotations

from sandbox.judge.languages.table import Absent, Installed, Language, Languages, load_languages

__all__ = ["Absent", "Installed", "Language", "Languages", "load_languages"]
