"""Side-by-side measurements; ``python -m bench`` runs them all, prints ratios, and writes JSON."""
