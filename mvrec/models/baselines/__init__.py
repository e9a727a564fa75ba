"""Networks of other libraries behind mvrec's contract."""
