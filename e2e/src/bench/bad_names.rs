//! Names that never pass, and what they cost those that do.

use std::{net::IpAddr, time::Duration};

use futures::{StreamExt as _, TryStreamExt as _, stream};
use kube::{Api, api::ListParams};
use waxwing_api::Certificate;

use super::{
    Lane, Options,
    certificates::{Certificates, Timed},
    figures::{per_second, percentile},
    lane::{BURST, Route, operator_use, program, ready_issuer, settled, usage},
    report::Row,
};
use crate::{
    Error,
    fault_ca::{Behaviour, FaultCa},
    lab::{Lab, OperatorOptions, User},
    probe,
    sandbox::SILENT_ADDRESS,
};

/// All names that never pass have failed in this time.
const FAILED: Duration = Duration::from_mins(10);
/// How often it is looked whether they have.
const LOOK: Duration = Duration::from_secs(2);
/// Requests at once to the lab's name server, and to the API server.
const AT_ONCE: usize = 16;

/// Issues good names alone, then as many beside bad ones whose first orders are under way, then as many beside the same
/// bad ones, each of which has failed and is being tried again. Nothing of a burst is left when the next begins but its
/// Certificates.
pub async fn measure(lab: &Lab, options: &Options) -> Result<Vec<Row>, Error> {
    let lane = Lane::BadNames.to_string();
    let ca = FaultCa::start(lab.authority(), Behaviour::default())?;
    let operator = lab.operator(OperatorOptions {
        name: format!("waxwing-{lane}"),
        program: program(),
        ..OperatorOptions::default()
    })?;
    let route = Route::open(lab).await?;
    ready_issuer(lab, &operator, &lane, &ca.directory(), true).await?;
    let namespace = lab.namespace("bench").await?;
    let certificates = Certificates::new(lab.client(User::Admin)?, &namespace, &lane);
    let names = |kind: &str, count: usize| -> Vec<String> {
        (1..=count).map(|number| format!("{kind}{number}.{lane}.example.test")).collect()
    };

    settled(lab, &operator).await?;
    let mark = lab.audit().mark()?;
    let before = usage(&operator)?;
    let alone = certificates.all_at_once(&names("a", options.certificates), BURST).await?;
    settled(lab, &operator).await?;
    let after = usage(&operator)?;
    let writes = lab.audit().count(User::Waxwing, mark)?;
    let used = operator_use(writes, after.cpu.saturating_sub(before.cpu), after, options.certificates);
    let mut rows = vec![Row { operator: Some(used), ..row("bad-names: alone", &alone, options) }];

    let bad = names("bad", options.bad_names);
    let silent: IpAddr =
        SILENT_ADDRESS.parse().map_err(Error::invalid(|| "the silent address".to_owned()))?;
    let unreachable = stream::iter(&bad).map(|name| lab.dns().add(name, silent));
    unreachable.buffer_unordered(AT_ONCE).try_collect::<Vec<()>>().await?;
    certificates.create_all(&bad, AT_ONCE).await?;
    for (kind, tried, burst) in [("first", "for the first time", "b"), ("again", "again", "c")] {
        if kind == "first" {
            ordered(&ca, options.certificates + bad.len()).await?;
        } else {
            failed(lab, &namespace, bad.len()).await?;
        }
        let before = usage(&operator)?;
        let mark = lab.audit().mark()?;
        let beside = certificates.all_at_once(&names(burst, options.certificates), BURST).await?;
        let after = usage(&operator)?;
        let writes = lab.audit().count(User::Waxwing, mark)?;
        // The bad names' own is in it.
        let used = operator_use(writes, after.cpu.saturating_sub(before.cpu), after, options.certificates);
        let ratio = beside.span.as_secs_f64() / alone.span.as_secs_f64().max(f64::EPSILON);
        let what = format!(
            "beside {} that never pass, tried {tried}; {ratio:.2} times what they take alone",
            bad.len(),
        );
        rows.push(Row { operator: Some(used), what, ..row(&format!("{lane}: {kind}"), &beside, options) });
    }

    drop(certificates);
    operator.stop().await;
    route.close(lab).await?;
    Ok(rows)
}

fn row(lane: &str, timed: &Timed, options: &Options) -> Row {
    Row {
        lane: lane.to_owned(),
        what: "the burst without them".to_owned(),
        certificates: options.certificates,
        at_once: options.certificates,
        ready: timed.times.len(),
        per_second: per_second(timed.times.len(), timed.span),
        p50_seconds: percentile(&timed.times, 50).as_secs_f64(),
        p99_seconds: percentile(&timed.times, 99).as_secs_f64(),
        operator: None,
        failures: timed.failures.clone(),
    }
}

/// Waits until so many orders have been made.
async fn ordered(ca: &FaultCa, count: usize) -> Result<(), Error> {
    probe::until("orders of the names that never pass", FAILED, || async {
        let made = ca.orders().len();
        if made >= count { Ok(()) } else { Err(format!("{made} of {count} are made")) }
    })
    .await
}

/// Waits until each has failed, and a tenth of them once more: the others' next attempts are under way or about to be.
async fn failed(lab: &Lab, namespace: &str, count: usize) -> Result<(), Error> {
    let api: Api<Certificate> = Api::namespaced(lab.client(User::Admin)?, namespace);
    probe::until("failures of the names that never pass", FAILED, || async {
        // A look reads all of them: more often it would be the load that is measured.
        tokio::time::sleep(LOOK).await;
        let all = api.list(&ListParams::default()).await.map_err(|error| error.to_string())?;
        let failures =
            |one: &Certificate| one.status.as_ref().and_then(|status| status.failed_issuance_attempts);
        let failed = |times: i32| all.items.iter().filter(|one| failures(one) >= Some(times)).count();
        match (failed(1), failed(2)) {
            (once, twice) if once == count && twice >= count / 10 => Ok(()),
            (once, twice) => Err(format!("{once} of {count} have failed, {twice} twice")),
        }
    })
    .await
}
