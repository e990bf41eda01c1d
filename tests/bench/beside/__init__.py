"""Our launches beside those of other sandboxes: paired rounds, one JSON file with every figure, tables made of it.

`rows` has who takes part, `measures` and `memory` what is asked of them, `figures` and `report` what the numbers say. Nothing here is part of the product.
"""
