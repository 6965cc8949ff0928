"""What processes run that end in some way, for the tests of what is left of them."""
