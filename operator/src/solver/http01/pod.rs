//! A solver pod and its Service: what they look like. Pure.

use serde_json::{Map, Value, json};
use waxwing_api::{PodTemplate, ServiceType};

use super::object::{Kind, Object, merge, short_hash};
use crate::solver::{Applicant, responder::HEALTH_PATH};

/// The port of solver pods.
pub const PORT: u16 = 8089;
/// The port of their Services.
pub const SERVICE_PORT: u16 = 80;

/// The name of their only container.
pub(super) const CONTAINER: &str = "solver";
/// Label on a solver pod: its own name, by which its Service selects it.
const SOLVER: &str = "waxwing.dev/solver";

/// What answers one issuance in the Certificate's namespace.
#[derive(Clone, Debug)]
pub struct SolverPod {
    /// The name of the pod and of its Service: another one for another pod.
    pub name: String,
    /// The pod.
    pub pod: Object,
    /// The Service in front of it.
    pub service: Object,
}

impl SolverPod {
    /// The pod that answers all names of `applicant`, from Waxwing's `image`.
    pub fn new(
        applicant: &Applicant,
        image: &str,
        template: Option<&PodTemplate>,
        service_type: ServiceType,
    ) -> Self {
        let shape = pod(applicant, image, template);
        // A pod can hardly be changed: another shape is another pod.
        let name = format!("{}-{}", applicant.object_name(), short_hash(&shape.to_string()));
        let mut pod = shape;
        merge(&mut pod, json!({"metadata": {"labels": {SOLVER: name}}}));
        let service = json!({
            "spec": {
                "type": match service_type {
                    ServiceType::ClusterIp => "ClusterIP",
                    ServiceType::NodePort => "NodePort",
                },
                "selector": {SOLVER: name},
                "ports": [{"name": "http", "port": SERVICE_PORT, "targetPort": PORT, "protocol": "TCP"}],
            },
        });
        Self {
            pod: Object::new(Kind::Pod, &applicant.namespace, &name, &applicant.uid, pod),
            service: Object::new(Kind::Service, &applicant.namespace, &name, &applicant.uid, service),
            name,
        }
    }
}

fn pod(applicant: &Applicant, image: &str, template: Option<&PodTemplate>) -> Value {
    let mut arguments = vec!["solver".to_owned(), format!("--thumbprint={}", applicant.thumbprint)];
    arguments.extend(applicant.names.iter().map(|name| format!("--host={name}")));
    let metadata = template.and_then(|template| template.metadata.as_ref());
    let spec = template.and_then(|template| template.spec.as_ref());

    let mut security = json!({"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}});
    let mut resources = json!({
        "requests": {"cpu": "5m", "memory": "16Mi"},
        "limits": {"cpu": "100m", "memory": "64Mi"},
    });
    let mut nodes = json!({"kubernetes.io/os": "linux"});
    if let Some(spec) = spec {
        merge(&mut security, spec.security_context.clone().unwrap_or_else(|| json!({})));
        merge(&mut resources, spec.resources.clone().unwrap_or_else(|| json!({})));
        merge(&mut nodes, json!(spec.node_selector));
    }
    let mut pod = json!({
        "metadata": {
            "labels": metadata.map(|metadata| &metadata.labels),
            "annotations": {
                "cluster-autoscaler.kubernetes.io/safe-to-evict": "true",
                "linkerd.io/inject": "disabled",
                "sidecar.istio.io/inject": "false",
            },
        },
        "spec": {
            "automountServiceAccountToken": false,
            "enableServiceLinks": false,
            "terminationGracePeriodSeconds": 2,
            "nodeSelector": nodes,
            "securityContext": security,
            "containers": [{
                "name": CONTAINER,
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "args": arguments,
                "ports": [{"name": "http", "containerPort": PORT, "protocol": "TCP"}],
                "readinessProbe": {"httpGet": {"path": HEALTH_PATH, "port": PORT}, "periodSeconds": 1},
                "resources": resources,
                "securityContext": {
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                },
            }],
        },
    });
    if let Some(metadata) = metadata {
        merge(&mut pod, json!({"metadata": {"annotations": metadata.annotations}}));
    }
    if let Some(spec) = spec {
        let mut more = Map::new();
        let mut set = |key: &str, value: Option<Value>| {
            if let Some(value) = value {
                more.insert(key.to_owned(), value);
            }
        };
        set("affinity", spec.affinity.clone());
        set("priorityClassName", spec.priority_class_name.clone().map(Value::from));
        set("serviceAccountName", spec.service_account_name.clone().map(Value::from));
        set("tolerations", (!spec.tolerations.is_empty()).then(|| json!(spec.tolerations)));
        set(
            "imagePullSecrets",
            (!spec.image_pull_secrets.is_empty()).then(|| json!(spec.image_pull_secrets)),
        );
        merge(&mut pod, json!({"spec": more}));
    }
    pod
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use k8s_openapi::api::core::v1::Pod;
    use waxwing_api::{PodTemplateMetadata, PodTemplateSpec, labels};

    use super::*;

    fn made(template: Option<&PodTemplate>) -> SolverPod {
        SolverPod::new(&Applicant::example(), "waxwing.dev/waxwing:1", template, ServiceType::ClusterIp)
    }

    #[test]
    fn a_pod_is_what_the_restricted_standard_admits() {
        let made = made(None);
        let pod: Pod = serde_json::from_value(made.pod.manifest().clone()).unwrap();
        let spec = pod.spec.unwrap();
        let container = &spec.containers[0];
        let security = container.security_context.clone().unwrap();
        assert_eq!(security.allow_privilege_escalation, Some(false));
        assert_eq!(security.read_only_root_filesystem, Some(true));
        assert_eq!(security.capabilities.unwrap().drop.unwrap(), ["ALL"]);
        assert_eq!(spec.security_context.unwrap().run_as_non_root, Some(true));
        assert_eq!(spec.automount_service_account_token, Some(false));
        assert!(container.args.clone().unwrap().contains(&"--host=shop.example.com".to_owned()));
        assert!(made.name.len() <= 63, "{}", made.name);
        let labels = pod.metadata.labels.unwrap();
        assert_eq!(made.service.manifest()["spec"]["selector"][SOLVER], labels[SOLVER].as_str());
        assert_eq!(labels[labels::CERTIFICATE_UID], Applicant::example().uid);
    }

    #[test]
    fn a_template_is_laid_over_the_pod() {
        let template = PodTemplate {
            metadata: Some(PodTemplateMetadata {
                annotations: [("a".to_owned(), "1".to_owned())].into(),
                labels: [("team".to_owned(), "edge".to_owned()), (SOLVER.to_owned(), "mine".to_owned())]
                    .into(),
            }),
            spec: Some(PodTemplateSpec {
                node_selector: [("disk".to_owned(), "ssd".to_owned())].into(),
                security_context: Some(json!({"runAsUser": 1000})),
                resources: Some(json!({"requests": {"cpu": "1m"}})),
                ..PodTemplateSpec::default()
            }),
        };
        let plain = made(None);
        let made = made(Some(&template));
        let pod: Pod = serde_json::from_value(made.pod.manifest().clone()).unwrap();
        let spec = pod.spec.unwrap();
        let security = spec.security_context.unwrap();
        assert_eq!((security.run_as_user, security.run_as_non_root), (Some(1000), Some(true)));
        assert_eq!(spec.node_selector.unwrap().len(), 2);
        let requests = spec.containers[0].resources.clone().unwrap().requests.unwrap();
        assert_eq!((requests["cpu"].0.as_str(), requests["memory"].0.as_str()), ("1m", "16Mi"));
        let labels = pod.metadata.labels.unwrap();
        assert_eq!((labels["team"].as_str(), &labels[SOLVER]), ("edge", &made.name));
        assert_ne!(made.name, plain.name, "another pod has another name");
    }
}
