"""What is served, a router a file."""
