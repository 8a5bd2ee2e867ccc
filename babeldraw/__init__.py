"""babeldraw: models that draw from text by predicting image tokens."""

__version__ = "0.1.0"
