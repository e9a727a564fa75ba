"""The kinds of protocols, one per kind of views; `mvrec.data.views.protocol` has them all."""
