"""Help about keys of the command line, and hints for wrong names."""
