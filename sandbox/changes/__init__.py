"""See docs/architecture.md for what lives on this floor and who may import it."""
