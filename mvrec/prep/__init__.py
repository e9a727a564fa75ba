"""Jobs that prepare a raw download for training, one per module; `mvrec prep` runs them."""
