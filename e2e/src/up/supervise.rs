//! Inside of the sandbox: starts a lab, and says in a file how it fares.

use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use super::{Named, UpOptions};
use crate::{
    Error,
    lab::{Lab, Operator, OperatorOptions, Parts, PebbleOptions, Places, TraefikOptions},
    parts::Part,
    paths,
    process::Process,
};

/// How often the parts are looked at.
const LOOK: Duration = Duration::from_secs(1);

/// What the supervisor sees, as its file holds it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Eq, Serialize)]
pub struct Supervised {
    /// Titles of what is ready, in order.
    pub ready: Vec<String>,
    /// Whether everything is ready, and its files are written.
    pub complete: bool,
    /// Why the lab did not come up.
    pub error: Option<String>,
    /// The parts.
    pub parts: Vec<PartState>,
}

/// A part and how it fares.
#[derive(Clone, Debug, Deserialize, PartialEq, Eq, Serialize)]
pub struct PartState {
    /// Its name, which is its log's too.
    pub name: String,
    /// How it ended, if it did.
    pub ended: Option<String>,
}

impl Supervised {
    pub(super) fn file(directory: &Path) -> PathBuf {
        directory.join("supervised.json")
    }

    pub(super) fn read(directory: &Path) -> Option<Self> {
        serde_json::from_str(&fs::read_to_string(Self::file(directory)).ok()?).ok()
    }

    /// Readers see the old or the new file, never half of one.
    fn write(&self, directory: &Path) -> Result<(), Error> {
        let text = serde_json::to_string_pretty(self).map_err(Error::invalid(|| "writing what is seen"))?;
        let new = directory.join("supervised.new");
        paths::write(&new, text)?;
        fs::rename(&new, Self::file(directory)).map_err(Error::io(|| "writing what is seen"))
    }
}

/// Titles of steps that are not a part's.
const IMAGE: &str = "Waxwing's image";
const WAXWING: &str = "Waxwing";

/// Titles of what such a lab starts, in order.
pub(super) fn steps(options: &UpOptions) -> Vec<String> {
    let mut steps = vec!["name server".to_owned(), Part::Kubernetes.title()];
    steps.extend(options.image.is_some().then(|| "node".to_owned()));
    steps.extend([Part::Pebble, Part::Traefik].map(Part::title));
    steps.extend(options.image.is_some().then(|| IMAGE.to_owned()));
    steps.extend((!options.operator.is_empty()).then(|| WAXWING.to_owned()));
    steps
}

/// Runs a lab until the sandbox ends.
pub async fn supervise(named: &Named, options: UpOptions) -> Result<(), Error> {
    let directory = named.directory();
    let mut seen = Supervised::default();
    let outcome = start(named, options, &mut seen).await;
    let (lab, operator) = match outcome {
        Ok(running) => running,
        Err(error) => {
            seen.error = Some(error.to_string());
            seen.write(&directory)?;
            return Err(error);
        }
    };
    let mut processes = lab.processes();
    processes.extend(operator.as_ref().map(Operator::process));
    seen.complete = true;
    loop {
        let parts: Vec<PartState> = processes.iter().map(|process| state(process)).collect();
        if seen.parts != parts {
            seen.parts = parts;
            seen.write(&directory)?;
        }
        tokio::time::sleep(LOOK).await;
    }
}

async fn start(
    named: &Named,
    options: UpOptions,
    seen: &mut Supervised,
) -> Result<(Lab, Option<Operator>), Error> {
    let directory = named.directory();
    let places = Places {
        files: directory.join("files"),
        logs: directory.join("logs"),
        data: paths::volatile().join("data"),
    };
    // One profile: of several, Pebble gives any to who asks for none.
    let profiles = vec![("default".to_owned(), "90 days".to_owned(), 7_776_000)];
    let parts = Parts {
        node: options.image.is_some(),
        bare: options.image.is_some(),
        pebble: Some(PebbleOptions { profiles, ..PebbleOptions::default() }),
        // As Traefik's own chart sets it: what an Ingress says also counts on port 443.
        traefik: Some(TraefikOptions {
            arguments: vec!["--entryPoints.websecure.http.tls=true".to_owned()],
            ..TraefikOptions::default()
        }),
        ..Parts::default()
    };
    let lab = Lab::start_in(places, parts, &mut |title| {
        seen.ready.push(title.to_owned());
        // `up` waits for the next line; a line that can't be written shows as a lab that hangs.
        let _ = seen.write(&directory);
    })
    .await?;
    // Names below .invalid resolve nowhere (RFC 6761), and one of the examples relies on it.
    lab.dns().set("shop.nowhere.invalid", &[]).await?;
    paths::write(&named.roots(), lab.roots().await?)?;
    if let Some(image) = options.image {
        lab.node()?.import(&image).await?;
        seen.ready.push(IMAGE.to_owned());
        seen.write(&directory)?;
    }
    let mut operator = options.operator.into_iter();
    let Some(program) = operator.next() else { return Ok((lab, None)) };
    let options = OperatorOptions {
        program: PathBuf::from(program),
        arguments: operator.map(|argument| argument.to_string_lossy().into_owned()).collect(),
        ..OperatorOptions::default()
    };
    let operator = lab.operator(options)?;
    seen.ready.push(WAXWING.to_owned());
    seen.write(&directory)?;
    Ok((lab, Some(operator)))
}

fn state(process: &Process) -> PartState {
    PartState { name: process.name().to_owned(), ended: process.ended().map(|status| status.to_string()) }
}
