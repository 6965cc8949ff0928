"""Never gets to its end."""

import time

time.sleep(3600)
