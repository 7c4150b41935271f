"""From measurements to a calibration: laws, residuals, engines, and whole engines under load."""
