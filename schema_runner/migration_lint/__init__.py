"""Find SQL in migrations that would reach outside a worker schema."""
