"""Language models: how users name them, where their keys are, and the embedded one."""
