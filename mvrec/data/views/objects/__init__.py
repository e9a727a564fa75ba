"""Objects in images: boxes and outlines as targets, and training views of them."""

from mvrec.data.views.objects.target import Objects as Objects
