"""What a program is, in plain values: its module, signature, options, and how a prompt fills its inputs."""
