//! `e2e up`, `e2e demo` and their companions, as a person uses them. (A sandbox in a sandbox is one more.)

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use std::{
    collections::BTreeSet,
    fs,
    process::{Command, Output},
    sync::Mutex,
};

use e2e::{lab::Node, paths, up::Named};

const NAME: &str = "up-test";

fn e2e(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_e2e")).args(arguments).output().unwrap()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// How many processes run one of the lab's parts.
fn parts_running() -> usize {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    processes
        .filter_map(|process| fs::read_link(process.path().join("exe")).ok())
        .filter(|program| program.starts_with(paths::parts()))
        .count()
}

/// The control groups of the lab that runs in here. Those of labs that run beside this test aren't its own.
fn control_groups() -> BTreeSet<String> {
    let processes = fs::read_dir("/proc").unwrap().filter_map(Result::ok);
    let groups: String =
        processes.filter_map(|process| fs::read_to_string(process.path().join("cgroup")).ok()).collect();
    let names = groups.split(['/', '\n']).filter(|name| name.starts_with("waxwing-lab-"));
    names.map(ToOwned::to_owned).collect()
}

/// Whether nobody has removed a control group, and nobody is at it: who does that holds its lock.
fn is_left(group: &str) -> bool {
    let lock = fs::File::open(paths::lab().join("cgroups").join(group));
    lock.is_ok_and(|lock| lock.try_lock().is_ok())
}

/// Tests that count processes take turns.
static TURN: Mutex<()> = Mutex::new(());

#[test]
fn a_lab_comes_up_is_used_and_leaves_nothing() {
    let _turn = TURN.lock().unwrap();
    let up = e2e(&["up", "--name", NAME]);
    assert!(up.status.success(), "{}", text(&up));
    assert!(text(&up).contains("Traefik"), "each step is shown: {}", text(&up));
    let again = e2e(&["up", "--name", NAME]);
    assert!(again.status.success() && text(&again).contains("up already"), "{}", text(&again));

    let env = e2e(&["env", "--name", NAME]);
    let script =
        format!("{}\nkubectl get ingressclass traefik -o name", String::from_utf8_lossy(&env.stdout));
    let kubectl = Command::new("sh").args(["-c", &script]).output().unwrap();
    assert!(text(&kubectl).contains("ingressclass.networking.k8s.io/traefik"), "{}", text(&kubectl));

    let status = e2e(&["status", "--name", NAME]);
    assert!(status.status.success() && text(&status).contains("kube-apiserver"), "{}", text(&status));
    let inside = e2e(&["exec", "--name", NAME, "--", "ip", "-brief", "address", "show", "node0"]);
    assert!(text(&inside).contains("10.99.0.1"), "{}", text(&inside));
    assert!(text(&e2e(&["logs", "--name", NAME])).contains("pebble"));
    assert!(text(&e2e(&["logs", "--name", NAME, "pebble"])).contains("Listening on"));
    let unknown = e2e(&["logs", "--name", NAME, "no-such-part"]);
    assert!(!unknown.status.success() && text(&unknown).contains("there are: "), "{}", text(&unknown));

    assert!(parts_running() > 0);
    let down = e2e(&["down", "--name", NAME]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(parts_running(), 0);
    assert!(Named::new(NAME).unwrap().running().is_none());
    let status = e2e(&["status", "--name", NAME]);
    assert!(!status.status.success() && text(&status).contains("e2e up"), "{}", text(&status));
    assert!(e2e(&["down", "--name", NAME]).status.success(), "ending nothing is no failure");
}

#[test]
fn the_demo_issues_with_waxwing_as_a_process() {
    let _turn = TURN.lock().unwrap();
    let said = demo("up-test-process", &["--install", "process"]);
    assert!(said.contains("Waxwing runs as a process"), "{said}");
}

/// Reuses the image that `make test-lab` has built.
#[test]
fn the_demo_issues_with_waxwing_in_pods() {
    if let Some(why) = Node::unavailable() {
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "{why}");
        eprintln!("skipped: {why}");
        return;
    }
    let _turn = TURN.lock().unwrap();
    let image = paths::target().join("image/waxwing.tar").display().to_string();
    let said = demo("up-test-pods", &["--install", "helm", "--image", &image]);
    assert!(said.contains("$ helm upgrade --install waxwing charts/waxwing"), "{said}");
}

/// Runs the demo twice in one lab, and ends it. Answers with what it said the first time.
fn demo(name: &str, arguments: &[&str]) -> String {
    let all = [&["demo", "--name", name], arguments].concat();
    let [first, again] = [e2e(&all), e2e(&all)];
    for round in [&first, &again] {
        let said = text(round);
        assert!(round.status.success(), "{said}");
        for step in ["stored in web/shop-tls", "stored in web/app-tls", "hello from app.example.com"] {
            assert!(said.contains(step), "{step}: {said}");
        }
    }
    assert!(text(&first).contains("Traefik"), "{}", text(&first));
    assert!(!text(&again).contains("anew"), "the lab is used again: {}", text(&again));
    let mut groups = control_groups();
    assert_eq!(groups.is_empty(), arguments.contains(&"process"), "{groups:?}");
    let down = e2e(&["down", "--name", name]);
    assert!(down.status.success(), "{}", text(&down));
    assert_eq!(parts_running(), 0);
    groups.retain(|group| is_left(group));
    assert!(groups.is_empty(), "control groups that nobody removed: {groups:?}");
    text(&first)
}

#[test]
fn a_lab_that_cannot_come_up_says_why_and_leaves_nothing() {
    let _turn = TURN.lock().unwrap();
    let up = e2e(&["up", "--name", "up-test-broken", "--", "/no/such/waxwing"]);
    assert!(!up.status.success());
    assert!(text(&up).contains("/no/such/waxwing is missing"), "{}", text(&up));
    assert!(Named::new("up-test-broken").unwrap().running().is_none());
}

#[test]
fn a_sandbox_answers_with_the_commands_exit_code() {
    let run = |script: &str| e2e(&["sandbox", "--", "sh", "-c", script]);
    assert_eq!(run("exit 7").status.code(), Some(7));
    assert_eq!(run("kill -9 $$").status.code(), Some(137));
    // What the command leaves behind ends with it.
    let orphan = run("sleep 1000 & echo $!");
    assert!(orphan.status.success());
    let missing = e2e(&["sandbox", "--", "no-such-command"]);
    assert!(!missing.status.success() && text(&missing).contains("no-such-command"), "{}", text(&missing));
}
