"""Regularised transfer learning in JAX: how hard should each parameter be pulled, and towards what?"""

__version__ = "0.1.0"
