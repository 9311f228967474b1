"""Pictures and tables for people: a grid of predictions, a table of metrics, and the demo that shows both."""
