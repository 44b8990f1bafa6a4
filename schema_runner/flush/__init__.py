"""Reset the tables that tests have changed, instead of flushing all of them."""
