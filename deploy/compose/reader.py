"""Prints the users when they change. Takes the place of the database as argument (default: /replica/replica.db)."""

import sqlite3
import sys
import time

path = sys.argv[1] if len(sys.argv) > 1 else "/replica/replica.db"
db = sqlite3.connect(f"file:{path}?mode=ro", uri=True, isolation_level=None)
shown = None
while True:
    db.execute("BEGIN")
    users = db.execute("SELECT id, name, email FROM users ORDER BY id LIMIT 20").fetchall()
    state = db.execute("SELECT state FROM _readside_status WHERE table_name = 'users'").fetchone()[0]
    db.execute("COMMIT")
    if (state, users) != shown:
        shown = (state, users)
        print(state, users, flush=True)
    time.sleep(0.2)
