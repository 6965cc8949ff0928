"""What is open while a runtime is: pools, models, and the route that a call takes through them."""
