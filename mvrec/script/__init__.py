"""The command line from a script: training and testing as functions."""
