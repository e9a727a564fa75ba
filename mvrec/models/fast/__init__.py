"""The same mathematics by what is fast on the device."""
