"""What a hostile week does to a runtime: kills, hangs, floods and exhaustion, each of them real."""
