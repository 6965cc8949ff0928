"""Sessions, their programs, turns and variables: what outlives the workers, in a database."""
