"""How fast and how lean this server is, alone and against others, on the same PostgreSQL."""
