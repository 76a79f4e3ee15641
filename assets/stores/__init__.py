"""Where products live: the warehouse (DuckDB), bundles (files), the registry (MLflow)."""
