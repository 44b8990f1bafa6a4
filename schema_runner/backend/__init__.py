"""Django's database backend, taught about schemas for the length of a run."""
