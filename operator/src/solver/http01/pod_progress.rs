//! How far a solver pod is, and why it doesn't get ready. Pure.

use k8s_openapi::api::core::v1::{ContainerState, Pod};

use super::pod::CONTAINER;

/// How far a solver pod is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Progress {
    /// It answers.
    Ready,
    /// It may still come; this is what it waits for, and what to do if it takes long.
    Waiting(Trouble),
    /// It won't come by itself, unless somebody helps.
    Stuck(Trouble),
    /// It won't come at all: another pod must be made.
    Ended(Trouble),
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

    /// The API server doesn't say.
    pub fn untold(why: &str) -> Self {
        Self { cause: format!("the API server doesn't tell of the pod: {why}"), fix: FIX_AWAY }
    }

    /// Waxwing may not look at it.
    pub fn unwatched(why: &str) -> Self {
        Self { cause: format!("the pod can't be watched: {why}"), fix: FIX_RIGHTS }
    }
}

const FIX_RIGHTS: &str = "Give Waxwing the rights that this way of solving needs; the page HTTP-01 of its documentation lists them.";
const FIX_AWAY: &str = "If it was only away, wait: the order is kept, and the next attempt goes on with it.";
const FIX_IMAGE: &str = "Check that nodes can pull Waxwing's image from this namespace: set podTemplate.spec.imagePullSecrets, \
     or another image with --solver-image.";
const FIX_SCHEDULE: &str =
    "Make room on the nodes, or set nodeSelector, affinity, tolerations or resources in podTemplate.spec.";
const FIX_CONFIG: &str = "Correct podTemplate.spec, such as its securityContext.";
const FIX_RUN: &str = "Look at the pod's log and events.";
const FIX_AGAIN: &str = "If its node was drained or short of room, wait: the next attempt makes another pod. The pod's events say more.";
const FIX_WAIT: &str =
    "If its node is only slow, wait: the order is kept, and the next attempt goes on with it.";

/// How far `pod` is, by its status.
pub fn progress(pod: &Pod) -> Progress {
    if pod.metadata.deletion_timestamp.is_some() {
        // It may answer still, but not for long.
        return Progress::Waiting(Trouble { cause: "the pod is being deleted".to_owned(), fix: FIX_AGAIN });
    }
    let status = pod.status.clone().unwrap_or_default();
    let conditions = status.conditions.unwrap_or_default();
    let condition = |type_: &str| conditions.iter().find(|condition| condition.type_ == type_);
    if condition("Ready").is_some_and(|ready| ready.status == "True") {
        return Progress::Ready;
    }
    // Evicted, preempted, or refused by its node.
    if let Some(phase @ ("Failed" | "Succeeded")) = status.phase.as_deref() {
        let why = [Some(format!("the pod has ended as {phase}")), status.reason, status.message];
        let cause = why.into_iter().flatten().collect::<Vec<_>>().join(": ");
        return Progress::Ended(Trouble { cause, fix: FIX_AGAIN });
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use serde_json::{Value, json};

    use super::*;

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
        let evicted = of(json!({"phase": "Failed", "reason": "Evicted", "message": "low on memory"}));
        let Progress::Ended(trouble) = evicted else { panic!("won't come back") };
        assert!(trouble.cause.contains("Evicted: low on memory"), "{trouble:?}");
    }

    #[test]
    fn a_pod_that_leaves_is_no_answer() {
        let pod = json!({
            "metadata": {"deletionTimestamp": "2026-01-01T00:00:00Z"},
            "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        });
        let pod: Pod = serde_json::from_value(pod).unwrap();
        assert!(matches!(progress(&pod), Progress::Waiting(_)));
    }
}
