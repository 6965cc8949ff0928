"""Workers, the queue before them, and what happens when one is lost."""
