"""Kernel facts as data: numbers, structs, syscall tables. No side effects, no imports of ours."""
