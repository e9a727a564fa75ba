"""Probes of a network's features: small classifiers that tell what they are worth, without training the network."""
