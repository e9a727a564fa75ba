"""The command line: finding a command, and Lightning's four with checks of their own."""
