"""PostgreSQL without Django: psycopg connections, catalogs, locks and DDL."""
