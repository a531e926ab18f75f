"""`maskless bench`: what it times, on what, and how it shows the result."""
