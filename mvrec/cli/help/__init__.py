"""What the command line says about its keys: help, and hints for wrong names."""
