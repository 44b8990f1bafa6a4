"""Django's side of test databases as schemas: mixins for its backend's classes."""
