"""Pictures, by kind: what a comparison shows (`comparison`), and the others that an experiment may ask for."""
