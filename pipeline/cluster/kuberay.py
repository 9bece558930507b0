"""The files of `materia submit --target kuberay`: a RayJob with its cluster, and a ConfigMap with what it runs.

In: a `JobDescription`, the cluster's settings, the pools of the configuration. Out: Kubernetes objects (ray.io/v1 of KubeRay
1.5), as mappings and as YAML. The entrypoint is one constant word for every job: what a person wrote is quoted once, for bash,
in a script of the ConfigMap, because KubeRay, `ray job submit` and Ray each read a command again.
"""

from __future__ import annotations

import shlex
from importlib.metadata import version
from typing import Any

import yaml

from materia.base.errors import UserError
from materia.base.storage import local_path
from pipeline.cluster.description import JobDescription
from pipeline.cluster.settings import KubeRaySettings, PodSettings, WorkerGroup
from pipeline.config import PoolSettings
from pipeline.engine.placement import Node, UnschedulableError, nodes_needed

FOLDER = "/etc/prima-materia"
"""Of the ConfigMap in the head's pod."""
NAME_LABEL, FINGERPRINT = "app.kubernetes.io/instance", "prima-materia/fingerprint"
_GPU = "nvidia.com/gpu"
_OPERATOR_ADDS_COMMAND = "ray-job-submitter"  # the name by which KubeRay knows the container


def objects(job: JobDescription, settings: KubeRaySettings, pools: tuple[PoolSettings, ...]) -> list[dict[str, Any]]:
    """The ConfigMap and the RayJob. Raises UserError if the groups of pods do not hold the pools, or pods would not keep the
    output."""
    _check_addresses(job, settings)
    labels = {"app.kubernetes.io/name": "prima-materia", NAME_LABEL: job.name}
    script = f"#!/bin/bash\nexec {shlex.join(['materia', *job.command(f'{FOLDER}/config.yaml', '--ray-address', 'auto')])}\n"
    metadata = {"namespace": settings.namespace, "labels": labels}
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": _config_map(job), **metadata},
            "data": {"config.yaml": job.config, "run.sh": script},
        },
        {
            "apiVersion": "ray.io/v1",
            "kind": "RayJob",
            "metadata": {"name": job.name, **metadata, "annotations": {FINGERPRINT: job.fingerprint}},
            "spec": {
                "entrypoint": f"bash {FOLDER}/run.sh",
                "submissionMode": "K8sJobMode",  # whose pod has the job's log
                "backoffLimit": settings.retries,
                "shutdownAfterJobFinishes": True,
                "ttlSecondsAfterFinished": settings.keep_s,
                "submitterPodTemplate": _submitter(settings),
                "rayClusterSpec": _cluster(job, settings, pools),
            },
        },
    ]


def as_yaml(documents: list[dict[str, Any]]) -> str:
    """What `kubectl apply -f -` takes."""
    return yaml.dump_all(documents, Dumper=_WithoutAnchors, sort_keys=False, allow_unicode=True, explicit_start=True)


def _check_addresses(job: JobDescription, settings: KubeRaySettings) -> None:
    """A pod's own disk goes with the pod."""
    for option, address in (("--input", job.input), ("--output", job.output)):
        path = local_path(address)
        if path is not None and not any(path.is_relative_to(mounted) for mounted in settings.volumes):
            raise UserError(
                f"{option} {address}: each pod has a disk of its own; give an address of an object store, or a path below a"
                f" folder of kuberay.volumes ({', '.join(settings.volumes) or 'none is named'})"
            )


def _config_map(job: JobDescription) -> str:
    return f"{job.name}-job"


def _cluster(job: JobDescription, settings: KubeRaySettings, pools: tuple[PoolSettings, ...]) -> dict[str, Any]:
    shapes = [
        Node({"CPU": group.cpus, **group.resources}, [1.0] * group.gpus, dict(group.labels)) for group in settings.workers
    ]
    try:
        needed = nodes_needed(pools, shapes)
    except UnschedulableError as error:
        raise UserError(f"kuberay.workers do not hold the configuration's pools: {error}") from None
    head = _pod("ray-head", settings, settings.head)
    head["spec"]["containers"][0]["volumeMounts"].append({"name": "materia-job", "mountPath": FOLDER, "readOnly": True})
    head["spec"]["volumes"].append({"name": "materia-job", "configMap": {"name": _config_map(job)}})
    return {
        "rayVersion": version("ray"),
        "enableInTreeAutoscaling": True,
        "autoscalerOptions": {"version": "v2", "idleTimeoutSeconds": settings.idle_s},
        # workers are lost, the head is not: nothing of the stages runs beside the driver
        "headGroupSpec": {"rayStartParams": {"dashboard-host": "0.0.0.0", "num-cpus": "0"}, "template": head},
        "workerGroupSpecs": [_group(settings, group, pods) for group, pods in zip(settings.workers, needed, strict=True)],
    }


def _group(settings: KubeRaySettings, group: WorkerGroup, needed: int) -> dict[str, Any]:
    """All pods are asked for at once: a job starts when they are there, and the autoscaler brings back what was taken."""
    most = needed if group.max_pods is None else group.max_pods
    if not group.min_pods <= needed <= most:
        raise UserError(
            f"kuberay.workers, group {group.name}: the configuration's pools need {needed} such pods, which is not between"
            f" min_pods {group.min_pods} and max_pods {most}; change these, or the workers of engine.pools"
        )
    return {
        "groupName": group.name,
        "replicas": needed,
        "minReplicas": group.min_pods,
        "maxReplicas": most,
        "rayStartParams": {},
        "labels": dict(group.labels),
        "resources": {name: f"{amount:g}" for name, amount in group.resources.items()},
        "template": _pod("ray-worker", settings, group, group.gpus),
    }


def _submitter(settings: KubeRaySettings) -> dict[str, Any]:
    """The pod that hands the entrypoint to the head and shows its log; small, and beside the head on nodes that stay."""
    template = _pod(_OPERATOR_ADDS_COMMAND, settings, settings.head)
    quantities = {"cpu": "500m", "memory": "1Gi"}
    template["spec"]["containers"][0]["resources"] = {"requests": quantities, "limits": {"cpu": "1", "memory": "1Gi"}}
    return template


def _pod(name: str, settings: KubeRaySettings, pod: PodSettings, gpus: int = 0) -> dict[str, Any]:
    quantities = {"cpu": str(pod.cpus), "memory": f"{pod.memory_gib}Gi", **({_GPU: str(gpus)} if gpus else {})}
    container = {
        "name": name,
        "image": settings.image,
        "resources": {"requests": quantities, "limits": quantities},
        "env": [{"name": variable, "value": value} for variable, value in settings.env.items()],
        "envFrom": [{"secretRef": {"name": secret}} for secret in settings.secrets],
        "volumeMounts": [{"name": f"volume-{n}", "mountPath": folder} for n, folder in enumerate(settings.volumes)],
    }
    spec: dict[str, Any] = {
        "restartPolicy": "Never",  # the autoscaler, or another attempt, makes new pods
        "nodeSelector": dict(pod.node_selector),
        "tolerations": [toleration.model_dump(exclude_none=True) for toleration in pod.tolerations],
        "imagePullSecrets": [{"name": secret} for secret in settings.pull_secrets],
        "containers": [container],
        "volumes": [
            {"name": f"volume-{n}", "persistentVolumeClaim": {"claimName": claim}}
            for n, claim in enumerate(settings.volumes.values())
        ],
    }
    if settings.service_account is not None:
        spec["serviceAccountName"] = settings.service_account
    return {"spec": spec}


class _WithoutAnchors(yaml.SafeDumper):
    """A mapping that is in a file twice is written twice: people read it. Texts of several lines are written as lines."""

    def ignore_aliases(self, data: Any) -> bool:
        return True


def _text(dumper: yaml.SafeDumper, text: str) -> yaml.ScalarNode:
    return dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_WithoutAnchors.add_representer(str, _text)
