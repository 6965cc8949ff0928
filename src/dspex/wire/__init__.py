"""What travels between the processes: messages, the channel that carries them, and the values in them."""
