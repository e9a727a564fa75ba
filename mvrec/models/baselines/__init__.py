"""Networks of other libraries behind our contract."""
