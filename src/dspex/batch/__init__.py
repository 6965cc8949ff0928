"""Many items through one program: outcomes in order, a journal, and as many at once as the LM takes."""
