"""The plan of a training run that follows from a folder of files and from this machine."""
