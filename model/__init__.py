"""The learning system of MISS: numpy, torch and faiss; no dagster, no mlflow, no duckdb."""
