"""What the environment must say before libraries load."""

import os

__all__ = ["quiet_environment"]


def quiet_environment() -> None:
    """Set what must be in the environment before libraries load; what is set already stays.

    - Off: what would try the network or warn about it: telemetry of Dagster, MLflow and Ray, hubs, version checks.
    - torch's threads (libgomp) soon give up spinning at a barrier: beside another busy process on two cores the demo's
      training made .5 steps a second with the usual spinning, 10.6 with this; alone 28 and 25 (2026-11-23).
    """
    for name, value in {
        "GOMP_SPINCOUNT": "3000",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
        "DAGSTER_DISABLE_TELEMETRY": "1",
        "RAY_USAGE_STATS_ENABLED": "0",
        "GX_ANALYTICS_ENABLED": "false",
        "HF_HUB_OFFLINE": "1",
        "TRANSFORMERS_OFFLINE": "1",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "GIT_PYTHON_REFRESH": "quiet",
        # a tracking server that is away is told of after half a minute, not after the seven retries of MLflow's default
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "3",
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "60",
    }.items():
        os.environ.setdefault(name, value)
