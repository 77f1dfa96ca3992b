"""Each method is a few pure functions on the core; methods never import each other, an experiment combines them."""
