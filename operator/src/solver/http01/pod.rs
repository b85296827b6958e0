//! A solver pod and its Service: what they look like, and why a pod doesn't get ready. Pure.

use k8s_openapi::api::core::v1::{ContainerState, Pod};
use serde_json::{Map, Value, json};
use waxwing_api::{PodTemplate, ServiceType, labels};

use super::objects::{Kind, Object};
use crate::solver::{Applicant, responder::HEALTH_PATH};

/// The port of solver pods.
pub const PORT: u16 = 8089;
/// The port of their Services.
pub const SERVICE_PORT: u16 = 80;

const CONTAINER: &str = "solver";
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
        let name = format!("{}-{}", applicant.object_name(), super::objects::short_hash(&shape.to_string()));
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

/// Lays `over` over `under`, object by object.
pub(super) fn merge(under: &mut Value, over: Value) {
    match (under, over) {
        (Value::Object(under), Value::Object(over)) => {
            for (key, value) in over {
                merge(under.entry(key).or_insert(Value::Null), value);
            }
        }
        (under, over) => *under = over,
    }
}

/// How far a solver pod is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress {
    /// It answers.
    Ready,
    /// It may still come; this is what it waits for, and what to do if it takes long.
    Waiting(Trouble),
    /// It won't come by itself.
    Stuck(Trouble),
}

/// Why a pod isn't ready.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Trouble {
    /// What is the matter.
    pub cause: String,
    /// What to do next.
    pub fix: &'static str,
}

impl Trouble {
    /// It hasn't been seen.
    pub fn unseen() -> Self {
        Self { cause: "the pod wasn't seen".to_owned(), fix: FIX_RUN }
    }

    /// It can't be looked at.
    pub fn unwatched(why: &str) -> Self {
        Self { cause: format!("the pod can't be watched: {why}"), fix: FIX_RIGHTS }
    }
}

const FIX_RIGHTS: &str = "Give Waxwing the rights that this way of solving needs; the page HTTP-01 of its documentation lists them.";
const FIX_IMAGE: &str = "Check that nodes can pull Waxwing's image from this namespace: set podTemplate.spec.imagePullSecrets, \
     or another image with --solver-image.";
const FIX_SCHEDULE: &str =
    "Make room on the nodes, or set nodeSelector, affinity, tolerations or resources in podTemplate.spec.";
const FIX_CONFIG: &str = "Correct podTemplate.spec, such as its securityContext.";
const FIX_RUN: &str = "Look at the pod's log and events.";
const FIX_WAIT: &str =
    "Nothing if its node is only slow: the order is kept, and the next attempt goes on with it.";

/// How far `pod` is, by its status.
pub fn progress(pod: &Pod) -> Progress {
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return Progress::Ready;
    }
    if status.phase.as_deref() == Some("Failed") {
        let why = [status.reason, status.message].into_iter().flatten().collect::<Vec<_>>().join(": ");
        let cause =
            if why.is_empty() { "the pod failed".to_owned() } else { format!("the pod failed: {why}") };
        return Progress::Stuck(Trouble { cause, fix: FIX_RUN });
    }
    if let Some(scheduled) = condition("PodScheduled")
        && scheduled.status == "False"
    {
        let why = scheduled.message.clone().or_else(|| scheduled.reason.clone()).unwrap_or_default();
        return Progress::Waiting(Trouble {
            cause: format!("no node takes the pod: {why}"),
            fix: FIX_SCHEDULE,
        });
    }
    let state = status
        .container_statuses
        .unwrap_or_default()
        .into_iter()
        .find(|container| container.name == CONTAINER)
        .and_then(|container| container.state);
    of_container(state.unwrap_or_default())
}

fn of_container(state: ContainerState) -> Progress {
    let say = |cause: String, fix| Trouble { cause, fix };
    if let Some(waiting) = state.waiting {
        let (reason, message) = (waiting.reason.unwrap_or_default(), waiting.message.unwrap_or_default());
        let told = if message.is_empty() { reason.clone() } else { format!("{reason}: {message}") };
        return match reason.as_str() {
            // The first failure may be the registry's mood; the second begins the back-off.
            "ErrImagePull" => {
                Progress::Waiting(say(format!("its image can't be pulled ({told})"), FIX_IMAGE))
            }
            "ImagePullBackOff" | "InvalidImageName" | "ErrImageNeverPull" => {
                Progress::Stuck(say(format!("its image can't be pulled ({told})"), FIX_IMAGE))
            }
            "CreateContainerConfigError" | "CreateContainerError" | "RunContainerError" => {
                Progress::Stuck(say(format!("its container can't be started ({told})"), FIX_CONFIG))
            }
            "CrashLoopBackOff" => {
                Progress::Stuck(say(format!("its container ends again and again ({told})"), FIX_RUN))
            }
            _ => Progress::Waiting(say("the pod is being started".to_owned(), FIX_WAIT)),
        };
    }
    if state.running.is_some() {
        return Progress::Waiting(say("its container runs but isn't ready".to_owned(), FIX_RUN));
    }
    if let Some(ended) = state.terminated {
        let why = ended.message.or(ended.reason).unwrap_or_default();
        return Progress::Waiting(say(
            format!("its container ended with code {} {why}", ended.exit_code).trim_end().to_owned(),
            FIX_RUN,
        ));
    }
    Progress::Waiting(say("no node has begun with it".to_owned(), FIX_SCHEDULE))
}

/// What to do about an object that the API server refused for what it is or who asks. `right` is the value of the chart
/// that gives the right to it.
pub fn fix_of_refusal(message: &str, right: &str) -> String {
    if message.contains("exceeded quota") || message.contains("must specify") {
        "Raise the namespace's ResourceQuota, or set podTemplate.spec.resources.".to_owned()
    } else if message.contains("violates PodSecurity") {
        "Correct podTemplate.spec.securityContext: without it solver pods are what the restricted standard admits."
            .to_owned()
    } else if message.contains("usage per") {
        "Set podTemplate.spec.resources to what the namespace's LimitRange allows.".to_owned()
    } else if message.contains(" cannot ") {
        format!("Set {right} in the chart's values: by default Waxwing has no right to it.")
    } else {
        "Correct what the API server names, in the issuer's http01 or in the namespace's policies.".to_owned()
    }
}

/// The label selector of everything that serves issuances outside of Waxwing's namespace.
pub fn selector() -> String {
    format!(
        "{}={},{}={},{}",
        labels::MANAGED_BY,
        labels::MANAGED_BY_WAXWING,
        labels::COMPONENT,
        labels::COMPONENT_ROUTE,
        labels::CERTIFICATE_UID
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use waxwing_api::{PodTemplateMetadata, PodTemplateSpec};

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

    #[test]
    fn what_a_pod_waits_for_is_said() {
        let of = |status: Value| {
            let pod: Pod = serde_json::from_value(json!({"metadata": {}, "status": status})).unwrap();
            progress(&pod)
        };
        let waiting = |reason: &str| {
            of(json!({"containerStatuses": [{
                "name": "solver", "ready": false, "restartCount": 0, "image": "", "imageID": "",
                "state": {"waiting": {"reason": reason, "message": "why"}},
            }]}))
        };
        assert_eq!(of(json!({"conditions": [{"type": "Ready", "status": "True"}]})), Progress::Ready);
        let Progress::Waiting(trouble) =
            of(json!({"conditions": [{"type": "PodScheduled", "status": "False", "message": "0/3 nodes"}]}))
        else {
            panic!("may be scheduled later")
        };
        assert!(trouble.cause.contains("0/3 nodes"), "{trouble:?}");
        assert!(matches!(waiting("ErrImagePull"), Progress::Waiting(trouble) if trouble.fix == FIX_IMAGE));
        assert!(matches!(waiting("ImagePullBackOff"), Progress::Stuck(trouble) if trouble.fix == FIX_IMAGE));
        assert!(
            matches!(waiting("CreateContainerConfigError"), Progress::Stuck(trouble) if trouble.fix == FIX_CONFIG)
        );
        assert!(
            matches!(waiting("ContainerCreating"), Progress::Waiting(trouble) if trouble.fix == FIX_WAIT)
        );
        assert!(matches!(of(json!({"phase": "Failed", "reason": "Evicted"})), Progress::Stuck(_)));
    }

    #[test]
    fn a_refusal_says_what_to_do() {
        for (message, words) in [
            ("pods \"a\" is forbidden: exceeded quota: q, requested: pods=1", "ResourceQuota"),
            ("pods \"a\" is forbidden: failed quota: q: must specify limits.cpu", "ResourceQuota"),
            ("pods \"a\" is forbidden: violates PodSecurity \"restricted:latest\"", "restricted"),
            ("pods is forbidden: User \"waxwing\" cannot patch resource \"pods\"", "http01.rights.pod"),
            ("pods \"a\" is forbidden: maximum cpu usage per Container is 1m", "LimitRange"),
        ] {
            assert!(fix_of_refusal(message, "http01.rights.pod").contains(words), "{message}");
        }
    }
}
