"""Bring the database to what this commit needs: every file of migrations/, once, in order."""

import os
from pathlib import Path

import psycopg

with psycopg.connect(os.environ["DATABASE_URL"], autocommit=True) as connection:
    connection.execute("CREATE TABLE IF NOT EXISTS migrated (name text PRIMARY KEY)")
    for file in sorted(Path("migrations").glob("*.sql")):
        if connection.execute("SELECT 1 FROM migrated WHERE name = %s", [file.name]).fetchone() is None:
            with connection.transaction():
                connection.execute(file.read_bytes())
                connection.execute("INSERT INTO migrated VALUES (%s)", [file.name])
            print("applied", file.name, flush=True)
