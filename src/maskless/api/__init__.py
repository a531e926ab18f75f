"""What users of the library call: models with their tokenizers."""
