#!/bin/bash
# Two databases, each with a user of its own; the image of PostgreSQL runs this once, when its volume is new.
# DATABASE_MLFLOW_PASSWORD and DATABASE_DAGSTER_PASSWORD come from .env; there is no default.
set -euo pipefail

for name in mlflow dagster; do
  variable="DATABASE_$(tr '[:lower:]' '[:upper:]' <<< "$name")_PASSWORD"
  psql --set=ON_ERROR_STOP=1 --quiet --username "${POSTGRES_USER:-postgres}" --dbname postgres \
    --set=name="$name" --set=password="${!variable:?set it in .env}" <<'SQL'
CREATE USER :"name" PASSWORD :'password';
CREATE DATABASE :"name" OWNER :"name";
REVOKE ALL ON DATABASE :"name" FROM PUBLIC;
SQL
done
