"""Tools that make a raw download trainable; each script does one job. See README.md."""
