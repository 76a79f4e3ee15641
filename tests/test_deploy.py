"""deploy/ cannot be started in a test, so everything in it that can be held against the code is.

What a team would lose: an evening, to an option that is none, a variable that nothing reads, or pools that were forgotten.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from assets.settings import Settings
from orchestration.dagster_yaml import configuration
from orchestration.launching import run_launcher

ROOT = Path(__file__).resolve().parents[1]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.rglob("*") if path.is_file())
TEXTS = {str(path.relative_to(DEPLOY)): path.read_text() for path in FILES}
COMPOSE: dict[str, Any] = yaml.safe_load(TEXTS["compose.yaml"])
HELM: dict[str, Any] = yaml.safe_load(TEXTS["helm/values.yaml"])
MANIFESTS = [
    each for name, text in TEXTS.items() if name.startswith("kubernetes/") for each in yaml.safe_load_all(text)
]
RAY: list[dict[str, Any]] = [
    each for name, text in TEXTS.items() if name.startswith("ray/") for each in yaml.safe_load_all(text)
]
CLUSTER = next(each for each in RAY if each["kind"] == "RayCluster")["spec"]
RAY_PODS = [part["template"] for part in (CLUSTER["headGroupSpec"], *CLUSTER["workerGroupSpecs"])]
WRITTEN = yaml.safe_load(configuration(postgres=True))


def _containers() -> list[dict[str, Any]]:
    return [
        c for each in MANIFESTS if each["kind"] == "Deployment" for c in each["spec"]["template"]["spec"]["containers"]
    ]


def _commands() -> list[list[str]]:
    services = [service.get("command") for service in COMPOSE["services"].values()]
    return [command for command in [*services, *(each["command"] for each in _containers())] if command]


def test_every_variable_of_miss_is_one_that_miss_reads() -> None:
    known = {f"MISS_{name.upper()}" for name in Settings.model_fields}
    named = {found for text in TEXTS.values() for found in re.findall(r"\bMISS_[A-Z0-9_]+", text)}
    assert "MISS_DAGSTER_POSTGRES" in named
    assert {each.partition("__")[0] for each in named} <= known


def test_dagsters_configuration_is_the_one_that_miss_writes() -> None:
    assert TEXTS["dagster.yaml"] == configuration(postgres=True), (
        "python -c 'from orchestration.dagster_yaml import ...'"
    )
    daemon, pools = HELM["dagsterDaemon"], HELM["concurrency"]
    assert HELM["telemetry"] == WRITTEN["telemetry"]
    assert daemon["runMonitoring"] == {
        "enabled": True,
        "pollIntervalSeconds": WRITTEN["run_monitoring"]["poll_interval_seconds"],
        "freeSlotsAfterRunEndSeconds": WRITTEN["run_monitoring"]["free_slots_after_run_end_seconds"],
    }
    assert daemon["runRetries"] == {
        "enabled": WRITTEN["run_retries"]["enabled"],
        "maxRetries": WRITTEN["run_retries"]["max_retries"],
        "retryOnAssetOrOpFailure": WRITTEN["run_retries"]["retry_on_asset_or_op_failure"],
    }
    assert pools["runs"]["maxConcurrentRuns"] == WRITTEN["concurrency"]["runs"]["max_concurrent_runs"]
    assert pools["pools"]["defaultLimit"] == WRITTEN["concurrency"]["pools"]["default_limit"]
    assert pools["pools"]["granularity"] == WRITTEN["concurrency"]["pools"]["granularity"]
    assert HELM["pythonLogs"]["pythonLogLevel"] == WRITTEN["python_logs"]["python_log_level"]
    said = (set(WRITTEN) - {"storage"}) - {"telemetry", "concurrency", "run_monitoring", "run_retries", "python_logs"}
    said -= {"nux"}  # an invitation in the UI, which the chart has no place for
    assert pools["runs"]["tagConcurrencyLimits"] == WRITTEN["concurrency"]["runs"]["tag_concurrency_limits"]
    assert not said, "what is new in dagster.yaml must be said to the chart too"


def test_every_command_and_option_is_a_real_one() -> None:
    programs = {
        "miss": [sys.executable, "-W", "ignore", "-m", "orchestration.cli"],
        "mlflow": [sys.executable, "-W", "ignore", "-m", "mlflow"],
        "dagster-webserver": ["dagster-webserver"],
        "dagster-daemon": ["dagster-daemon"],
    }
    helps: dict[tuple[str, ...], str] = {}
    seen = set()
    for command in _commands():
        name, *rest = command
        if name in ("server", "python"):  # MinIO's own, and a line of Python
            continue
        seen.add(name)
        sub = [each for each in rest[:1] if not each.startswith("-")]
        program = str(Path(sys.executable).parent / name)
        start = programs[name] if programs[name][0] == sys.executable else [program]
        key = (name, *sub)
        if key not in helps:
            done = subprocess.run([*start, *sub, "--help"], capture_output=True, text=True, cwd=ROOT, check=True)
            helps[key] = done.stdout
        for option in (each.partition("=")[0] for each in rest if each.startswith("--")):
            assert re.search(rf"{option}\b", helps[key]), f"{name} has no {option}"
    assert seen == set(programs)
    compile(COMPOSE["services"]["bucket"]["command"][-1], "bucket", "exec")


def test_images_are_pinned_and_the_same_everywhere() -> None:
    images = [service["image"] for service in COMPOSE["services"].values()] + [each["image"] for each in _containers()]
    images += re.findall(r"^FROM (\S+)", TEXTS["Dockerfile"], re.MULTILINE)
    for parts in (HELM["dagsterWebserver"], HELM["dagsterDaemon"], *HELM["dagster-user-deployments"]["deployments"]):
        images.append(f"{parts['image']['repository']}:{parts['image']['tag']}")
    images += [container["image"] for pod in RAY_PODS for container in pod["spec"]["containers"]]
    for image in images:
        assert re.fullmatch(r"[\w./-]+:[\w.-]*\d[\w.-]*", image), image
        assert not image.endswith(":latest")
    ours = {image.rpartition(":")[2] for image in images if "miss-retrieval" in image}
    assert ours == {re.search(r'^version = "(.*)"', (ROOT / "pyproject.toml").read_text(), re.MULTILINE)[1]}  # type: ignore[index]
    python = re.search(r"^FROM python:(\d+\.\d+)", TEXTS["Dockerfile"], re.MULTILINE)
    assert python is not None
    assert python[1] == "3.11"


def test_no_secret_has_a_value_and_none_is_written_down() -> None:
    names = {
        line.partition("=")[0]: line.partition("=")[2] for line in TEXTS[".env.example"].splitlines() if "=" in line
    }
    assert len(names) == 7
    assert set(names.values()) == {""}
    asked = re.findall(r"\$\{([^}]+)\}", TEXTS["compose.yaml"])
    assert {each.partition(":")[0] for each in asked} == set(names), "what compose asks for is what the example lists"
    assert all(each.endswith(":?set it in .env") for each in asked), "an empty one stops the start"
    for name, text in TEXTS.items():
        fixed = re.sub(r"\$\{[^}]*\}|:['\"]\w+['\"]", "", text)  # without what a shell or psql puts in
        found = re.search(r"(?i)(?:password|secret_key|access_key)['\"]?[ \t]*[:=][ \t]*['\"]?[A-Za-z0-9].*", fixed)
        assert found is None, f"{name}: {found[0]}"
    for manifest in [*MANIFESTS, *RAY]:
        assert manifest["kind"] != "Secret"


def test_nothing_is_open_to_the_network_or_runs_as_root() -> None:
    ports = [port for service in COMPOSE["services"].values() for port in service.get("ports", [])]
    assert len(ports) == 3
    assert all(port.startswith("127.0.0.1:") for port in ports)
    assert re.search(r"^USER miss$", TEXTS["Dockerfile"], re.MULTILINE)
    for each in MANIFESTS:
        if each["kind"] == "Deployment":
            assert each["spec"]["template"]["spec"]["securityContext"]["runAsNonRoot"] is True
    assert all(pod["spec"]["securityContext"]["runAsNonRoot"] is True for pod in RAY_PODS)
    (policy,) = (each["spec"] for each in RAY if each["kind"] == "NetworkPolicy")
    assert policy["ingress"] == [{"from": [{"podSelector": {}}]}], (
        "what runs whatever it is sent is the namespace's alone"
    )
    assert all(policy["podSelector"]["matchLabels"].items() <= pod["metadata"]["labels"].items() for pod in RAY_PODS)


def test_the_servers_are_named_as_they_are_asked() -> None:
    """MLflow answers only to names it was told: a service that asks by another is sent away."""
    for command, asker, name in (
        (COMPOSE["services"]["mlflow"]["command"], COMPOSE["services"]["service"]["environment"], "mlflow"),
        (
            next(each["command"] for each in _containers() if each["name"] == "mlflow"),
            {e["name"]: e["value"] for each in _containers() if each["name"] == "service" for e in each["env"]},
            "miss-mlflow",
        ),
    ):
        hosts = next(each for each in command if each.startswith("--allowed-hosts")).partition("=")[2].split(",")
        assert f"{name}:5000" in hosts
        assert asker["MLFLOW_TRACKING_URI"] == f"http://{name}:5000"
    assert name in [each["metadata"]["name"] for each in MANIFESTS if each["kind"] == "Service"]
    assert set(COMPOSE["services"]) == {
        "postgres", "s3", "bucket", "mlflow", "dagster-webserver", "dagster-daemon", "service",
    }  # fmt: skip
    for name in ("dagster-webserver", "dagster-daemon"):
        assert COMPOSE["services"][name]["volumes"] == ["home:/var/lib/miss"]
    assert "home" not in str(COMPOSE["services"]["service"]["volumes"]), "a service has no part in the pipeline's home"


def test_what_the_extra_asks_for_is_pinned_and_matches_dagster() -> None:
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    locked = {canonicalize_name(name): version for name, _, version in (line.partition("==") for line in lines)}
    for line in [*project["optional-dependencies"]["shared"], *project["optional-dependencies"]["ray"]]:
        wanted = Requirement(line)
        assert wanted.specifier.contains(locked[canonicalize_name(wanted.name)])
        assert line in project["optional-dependencies"]["dev"], "the tests use it"
    assert locked["dagster"].split(".")[2] == locked["dagster-postgres"].split(".")[2]
    for text in (TEXTS["helm/values.yaml"], TEXTS["helm/ray.yaml"], TEXTS["README.md"]):
        assert f"--version {locked['dagster']}" in text, "the chart is of Dagster's own version"
    assert f"dagster-k8s=={locked['dagster-postgres']}" in TEXTS["README.md"]


def test_ray_has_the_home_the_secrets_and_the_version_of_the_pipeline() -> None:
    assert f"ray=={CLUSTER['rayVersion']}" in (ROOT / "requirements.lock").read_text().splitlines()
    (code,) = HELM["dagster-user-deployments"]["deployments"]
    claims = {each["metadata"]["name"]: each["spec"] for each in RAY if each["kind"] == "PersistentVolumeClaim"}
    assert claims["miss-home"]["accessModes"] == ["ReadWriteMany"], "several nodes write it"
    for pod in RAY_PODS:
        (container,) = pod["spec"]["containers"]
        assert code["volumes"][0] in pod["spec"]["volumes"]
        assert code["volumeMounts"][0] in container["volumeMounts"]
        mounts = {each["name"]: each["mountPath"] for each in container["volumeMounts"]}
        assert mounts["dagster"] == HELM["global"]["dagsterHome"]
        assert [each["secretRef"]["name"] for each in container["envFrom"]] == [
            each["name"] for each in code["envSecrets"]
        ]
        variables = {each["name"]: each.get("value") for each in container["env"]}
        assert {each["name"]: each["value"] for each in code["env"]}.items() <= variables.items(), (
            "one pipeline, one way"
        )
        assert variables["OMP_NUM_THREADS"] == "1"
        (password,) = (each["valueFrom"]["secretKeyRef"] for each in container["env"] if "valueFrom" in each)
        assert password["name"] == HELM["global"]["postgresqlSecretName"]
        assert {"readinessProbe", "livenessProbe"} <= set(container), "KubeRay's own need wget"
        assert container["resources"]["limits"]["memory"] == container["resources"]["requests"]["memory"]
    head, *workers = (pod["spec"]["containers"][0]["resources"] for pod in RAY_PODS)
    assert CLUSTER["headGroupSpec"]["rayStartParams"]["num-cpus"] == "0", "a training counts the nodes that have cores"
    assert all("cpu" in each["limits"] for each in workers), "what Ray takes for its cores"
    assert "cpu" not in head["limits"]


def test_ray_takes_nothing_from_dagster_but_the_launcher() -> None:
    """Pools, retries and monitoring stay as values.yaml says them."""
    pytest.importorskip("dagster_ray")
    over = yaml.safe_load(TEXTS["helm/ray.yaml"])
    assert set(over) == {"dagsterWebserver", "dagsterDaemon", "runLauncher"}
    assert {key for name in ("dagsterWebserver", "dagsterDaemon") for key in over[name]} == {"env"}
    asked = over["runLauncher"]["config"]["customRunLauncher"]
    assert over["runLauncher"]["type"] == "CustomRunLauncher"
    (mount,) = HELM["dagster-user-deployments"]["deployments"][0]["volumeMounts"]
    own = run_launcher(Settings(home=Path(mount["mountPath"]), dagster_launch="ray"))["run_launcher"]
    assert (asked["module"], asked["class"]) == (own["module"], own["class"])
    assert set(asked["config"]["ray"]["env_vars"]) <= set(own["config"]["ray"]["env_vars"])
    for name in ("dagsterWebserver", "dagsterDaemon"):
        assert over[name]["env"] == [{"name": "RAY_API_SERVER_ADDRESS", "value": "http://miss-ray-head-svc:8265"}]
    names = [each["metadata"]["name"] for each in RAY if each["kind"] == "RayCluster"]
    assert names == ["miss-ray"], "KubeRay names the head's service after it"
    from dagster._config import validate_config
    from dagster._core.instance.config import dagster_instance_config_schema

    validated = validate_config(dagster_instance_config_schema(), WRITTEN | {"run_launcher": asked})
    assert validated.success, validated.errors


@pytest.mark.parametrize("path", sorted(set(re.findall(r"(?<=-f )deploy/[\w./-]+", "\n".join(TEXTS.values())))))
def test_what_a_command_names_is_there(path: str) -> None:
    assert (ROOT / path).exists()


@pytest.mark.parametrize("copied", re.findall(r"^COPY (?:--\S+ )?(.*) \S+$", TEXTS["Dockerfile"], re.MULTILINE))
def test_what_is_copied_into_the_image_is_there_and_not_ignored(copied: str) -> None:
    ignored = TEXTS["Dockerfile.dockerignore"].splitlines()
    for name in copied.split():
        assert (ROOT / name).exists()
        assert f"!{name}" in ignored
