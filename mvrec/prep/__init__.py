"""Jobs that make a raw download trainable, one per module; `mvrec prep` runs them."""
