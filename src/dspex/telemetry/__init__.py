"""What happens, told to whoever wants to know."""
