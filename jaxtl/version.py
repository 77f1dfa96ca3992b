"""Which version this is, for those inside the house; pyproject.toml says the same."""

__version__ = "0.1.0"
