"""jaxevo: language models that improve themselves, in JAX.

Importing this package is cheap: it loads neither transformers nor tensorflow nor orbax.
"""

__version__ = "0.1.0"
