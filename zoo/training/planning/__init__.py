"""What trains when, at what rate, by which optimizer: a user's settings and a method's plan, before a run."""
