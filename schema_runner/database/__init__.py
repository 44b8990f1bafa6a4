"""The Django side of worker schemas: mixins for the classes of database backends."""
