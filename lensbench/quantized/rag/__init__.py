"""Retrieval: documents, embedded and kept in PostgreSQL with pgvector, searched by meaning."""
